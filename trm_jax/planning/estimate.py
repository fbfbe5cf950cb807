"""The arithmetic of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from jax.sharding import AbstractMesh

from trm_jax.errors import InputError
from trm_jax.models import params
from trm_jax.planning import memory
from trm_jax.planning.hardware import Device
from trm_jax.train.config import RunConfig
from trm_jax.train.curriculum import train_flops

# What XLA set aside for a step was 0.8 to 1.4 times the estimate, compiled for a TPU v4 and for a CPU.
COMPILERS_TAKE = 1.4


@dataclass(frozen=True)
class Work:
    """What a run computes, wherever it runs. FLOPs are analytic, of the whole run."""

    steps: int
    parameters: int
    puzzle_table: int
    layer_applications: int  # of one supervision step at the end of the run
    train_flops: int
    evaluations: int
    eval_puzzles: int  # of one evaluation
    eval_flops: int  # of all evaluations


@dataclass(frozen=True)
class Plan:
    """A run on a device. `memory_bytes` are of one chip, an estimate unless `compiled`.

    obstacle: why the run cannot be there as it is, a batch that the chips cannot share or a memory that is too small,
    and what to do; empty where it can.
    """

    work: Work
    device: Device
    train_hours: float
    eval_hours: float
    memory_bytes: int
    compiled: bool
    warnings: tuple[str, ...]
    obstacle: str

    @property
    def hours(self) -> float:
        return self.train_hours + self.eval_hours

    @property
    def dollars(self) -> float | None:
        """None where the device has no price."""
        price = self.device.dollars_per_hour
        return None if price is None else self.hours * price


def data_size(cfg: RunConfig) -> tuple[int, int]:
    """(groups of training examples, held-out examples), as far as the settings tell. Raises InputError where they do
    not."""
    sizes = cfg.task.info(cfg.data).groups, cfg.task.eval_size(cfg.data)
    for size, name in zip(sizes, ("train_puzzles", "test_puzzles"), strict=True):
        if not size:
            raise InputError(
                f"data.{name} is 0, all of the source, which only the data tell; give their number: "
                f"--set data.{name}=1000"
            )
    return sizes


def work(cfg: RunConfig) -> Work:
    """What a run computes, from its settings alone; a group counts once an epoch. Raises InputError as `data_size`
    does, and for a budget of less than one step."""
    groups, held_out = data_size(cfg)
    steps = cfg.total_steps(groups, 1.0)
    tested = min(cfg.eval.max_examples or held_out, held_out)
    evaluations = len(cfg.evaluation_steps(groups, 1.0, steps))
    scored = 1 + len(cfg.optim.other_decays)  # every averaged set of weights is evaluated
    specs = cfg.family.specs(cfg.model)
    tables = [spec for spec in specs.values() if params.is_spec(spec) and spec.kind == "rows"]
    return Work(
        steps=steps,
        parameters=params.count(specs["weights"]),
        puzzle_table=params.count(tables),
        layer_applications=getattr(cfg.family, "layer_applications", lambda model: 1)(cfg.model),
        train_flops=train_flops(cfg, steps, groups),
        evaluations=evaluations,
        eval_puzzles=tested,
        eval_flops=evaluations * scored * tested * cfg.family.flops(cfg.model)[1],
    )


def plan(cfg: RunConfig, device: Device, *, utilisation: float = 0.4, compiled: tuple[int, str] | None = None) -> Plan:
    """The plan of one run at `utilisation` of the peak; no device is touched. Raises InputError for settings that no
    device can run.

    compiled: what a compiler made of the run for the device, if it was asked: bytes of one chip, and what to do where
    that is too small.
    """
    if not 0 < utilisation <= 1:
        raise InputError(f"the utilisation is {utilisation:g}; give a share of the peak, for example 0.4")
    mesh = memory.abstract_mesh(cfg, device.chips)
    state, step = memory.state_bytes(cfg, mesh), memory.step_bytes(cfg, mesh)
    found, chip_bytes = work(cfg), compiled[0] if compiled else state + step
    try:
        memory.check_batches(cfg, mesh)
        obstacle = compiled[1] if compiled else _too_large(cfg, device, mesh, state)
    except InputError as error:
        obstacle = str(error)
    warnings = tuple([*cfg.warnings(found.steps), *filter(None, [obstacle]), *_out_of_reach(cfg, device, utilisation)])
    per_hour = 3600 * utilisation * device.chips * device.peak_tflops * 1e12
    hours = found.train_flops / per_hour, found.eval_flops / per_hour
    return Plan(found, device, *hours, chip_bytes, compiled is not None, warnings, obstacle)


def _out_of_reach(cfg: RunConfig, device: Device, utilisation: float) -> Iterator[str]:
    """Why the device does not reach the rate that the plan counts with."""
    if getattr(cfg.model, "dtype", "float32") == "float32":
        yield "the peak is that of bfloat16, which float32 does not reach: give the device's with --peak"
    if not hasattr(cfg.family, "products_per_byte"):
        return
    reachable = cfg.family.products_per_byte(cfg.model) * device.bandwidth_tb_s / device.peak_tflops
    if utilisation > reachable:
        yield (
            f"{device.name} can keep at most {reachable:.0%} of its peak busy with products that each go through "
            f"memory once ({device.bandwidth_tb_s:g} TB/s): the time at {utilisation:.0%} is out of reach"
        )


def _too_large(cfg: RunConfig, device: Device, mesh: AbstractMesh, state_bytes: int) -> str:
    """Why the device's memory is too small by the estimate, and what to do; empty where it is not."""

    def takes(parts: int) -> float:
        train = dataclasses.replace(cfg.train, accumulation=parts)
        return state_bytes + COMPILERS_TAKE * memory.step_bytes(dataclasses.replace(cfg, train=train), mesh)

    needed, room = takes(cfg.train.accumulation), device.memory_gb * 1e9
    if needed <= room:
        return ""
    return (
        f"about {needed / 1e9:.0f} GB a chip with what compilers take on top, and {device.name} has "
        f"{device.memory_gb:g}: {memory.remedy(cfg, mesh, takes, room)}"
    )
