"""The arithmetic of a plan."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from jax.sharding import AbstractMesh

from trm_jax import sharding
from trm_jax.errors import InputError
from trm_jax.models import params, trm
from trm_jax.planning import memory
from trm_jax.planning.hardware import Device
from trm_jax.train import cost
from trm_jax.train.config import RunConfig
from trm_jax.train.programs import check_batches

HUB_TEST_PUZZLES = 422_786  # Sudoku-Extreme's test file
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

    @property
    def flops(self) -> int:
        return self.train_flops + self.eval_flops


@dataclass(frozen=True)
class Verdict:
    """What a compiler made of a run for a device: bytes of one chip, and what to do where that is too small."""

    chip_bytes: int
    problem: str


@dataclass(frozen=True)
class Plan:
    """A run on a device at `utilisation` of its peak. Bytes are of one chip, those of a step an estimate.

    verdict: None where the run was not compiled for the device. obstacle: why the run cannot be there as it is, a
    batch that the chips cannot share or a memory that is too small, and what to do; empty where it can.
    """

    cfg: RunConfig
    work: Work
    device: Device
    utilisation: float
    state_bytes: int
    step_bytes: int
    warnings: tuple[str, ...] = ()
    verdict: Verdict | None = None
    obstacle: str = ""

    def _hours(self, flops: int) -> float:
        return flops / (self.utilisation * self.device.chips * self.device.peak_tflops * 1e12) / 3600

    @property
    def train_hours(self) -> float:
        return self._hours(self.work.train_flops)

    @property
    def eval_hours(self) -> float:
        return self._hours(self.work.eval_flops)

    @property
    def hours(self) -> float:
        return self._hours(self.work.flops)

    @property
    def dollars(self) -> float | None:
        """None where the device has no price."""
        price = self.device.dollars_per_hour
        return None if price is None else self.hours * price

    @property
    def memory_bytes(self) -> int:
        """Compiled where there is a verdict, else estimated."""
        return self.verdict.chip_bytes if self.verdict else self.state_bytes + self.step_bytes


def work(cfg: RunConfig) -> Work:
    """What a run computes, from its settings alone: a puzzle counts once an epoch, and data.test_puzzles = 0 as the
    hub's test file. Raises InputError for data.train_puzzles = 0, and for a budget of less than one step."""
    groups = cfg.data.train_puzzles
    if groups < 1:
        raise InputError(
            "data.train_puzzles is 0, all of the source, which only the data tell; give their number: "
            "--set data.train_puzzles=1000"
        )
    steps = cfg.total_steps(groups, 1.0)
    tested = cfg.data.test_puzzles or HUB_TEST_PUZZLES
    tested = min(cfg.eval.max_examples or tested, tested)
    evaluations = len(cfg.evaluation_steps(groups, 1.0, steps))
    scored = 1 + len(cfg.optim.other_decays)  # every averaged set of weights is evaluated
    specs, model = trm.param_specs(cfg.model), cfg.model
    return Work(
        steps=steps,
        parameters=params.count(specs["weights"]),
        puzzle_table=params.count(specs["puzzle_emb"]),
        layer_applications=model.H_cycles * (model.L_cycles + 1) * model.L_layers,
        train_flops=cost.train_flops(cfg, steps, groups),
        evaluations=evaluations,
        eval_puzzles=tested,
        eval_flops=evaluations * scored * cost.eval_flops(cfg, tested),
    )


def plan(cfg: RunConfig, device: Device, *, utilisation: float = 0.4, verdict: Verdict | None = None) -> Plan:
    """The plan of one run; no device is touched. Raises InputError for settings that no device can run."""
    if not 0 < utilisation <= 1:
        raise InputError(f"the utilisation is {utilisation:g}; give a share of the peak, for example 0.4")
    found = work(cfg)
    mesh = memory.abstract_mesh(cfg, device.chips)
    state, step = memory.state_bytes(cfg, mesh), memory.step_bytes(cfg, mesh)
    draft = Plan(cfg, found, device, utilisation, state, step, verdict=verdict)
    draft = dataclasses.replace(draft, obstacle=_obstacle(draft, mesh))
    return dataclasses.replace(draft, warnings=tuple(_warnings(draft)))


def _obstacle(plan: Plan, mesh: AbstractMesh) -> str:
    try:
        check_batches(plan.cfg, mesh, sharding.Rules())
        sharding.check_batch(mesh, sharding.Rules(), plan.cfg.eval.batch_size, "eval.batch_size")
    except InputError as error:
        return str(error)
    return _too_large(plan, mesh)


def _warnings(plan: Plan) -> list[str]:
    cfg, device = plan.cfg, plan.device
    said = [*cfg.warnings(plan.work.steps), *filter(None, [plan.obstacle])]
    if cfg.model.dtype == "float32":
        said.append("the peak is that of bfloat16, which float32 does not reach: give the device's with --peak")
    reachable = memory.products_per_byte(cfg.model) * device.bandwidth_tb_s / device.peak_tflops
    if plan.utilisation > reachable:
        said.append(
            f"{device.name} can keep at most {reachable:.0%} of its peak busy with products that each go through "
            f"memory once ({device.bandwidth_tb_s:g} TB/s): the time at {plan.utilisation:.0%} is out of reach"
        )
    return said


def _too_large(plan: Plan, mesh: AbstractMesh) -> str:
    if plan.verdict:
        return plan.verdict.problem
    room = plan.device.memory_gb * 1e9

    def takes(cfg: RunConfig) -> float:
        return plan.state_bytes + COMPILERS_TAKE * memory.step_bytes(cfg, mesh)

    needed = takes(plan.cfg)
    if needed <= room:
        return ""
    said = (
        f"about {needed / 1e9:.0f} GB a chip with what compilers take on top, and {plan.device.name} has "
        f"{plan.device.memory_gb:g}: "
    )
    for parts in memory.accumulations(plan.cfg, mesh):
        smaller = dataclasses.replace(plan.cfg.train, accumulation=parts)
        if takes(dataclasses.replace(plan.cfg, train=smaller)) <= room:
            return f"{said}set train.accumulation={parts}, which gives the same update"
    return f"{said}no train.accumulation is enough; take more chips, model.remat=block or a smaller model"
