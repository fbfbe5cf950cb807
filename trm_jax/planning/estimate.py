"""The arithmetic of a plan."""

from __future__ import annotations

from dataclasses import dataclass

from trm_jax.errors import InputError
from trm_jax.models import params
from trm_jax.models.quant import bytes_of
from trm_jax.planning import memory
from trm_jax.planning.floor import optimiser_flops
from trm_jax.planning.hardware import Device
from trm_jax.train.config import RunConfig
from trm_jax.train.curriculum import train_flops
from trm_jax.train.memory import state_bytes, step_bytes, takes


@dataclass(frozen=True)
class Work:
    """What a run computes, wherever it runs. FLOPs are analytic, of the whole run."""

    steps: int
    parameters: int
    puzzle_table: int
    train_flops: int  # the optimiser's products too
    evaluations: int
    eval_puzzles: int  # of the last evaluation
    eval_puzzles_before_end: int  # of each one before it
    eval_flops: int  # of all evaluations


@dataclass(frozen=True)
class Plan:
    """A run on a device; `memory_bytes` are an estimate of one chip's.

    obstacle: why the run cannot be there as it is, a batch that the chips cannot share or a memory that is too small,
    and what to do; empty where it can.
    """

    work: Work
    train_hours: float
    eval_hours: float
    dollars: float | None  # None where the device has no price
    memory_bytes: int
    warnings: tuple[str, ...]
    obstacle: str


def work(cfg: RunConfig) -> Work:
    """What a run computes, from its settings alone; an epoch has one puzzle of each group.

    Raises InputError where they do not tell how many puzzles there are, and for a budget of less than one step.
    """
    info, held_out = cfg.task.info(cfg.data), cfg.task.eval_size(cfg.data)
    groups, mean = info.groups, info.mean_examples_per_puzzle
    for size, name in ((groups, "train_puzzles"), (held_out, "test_puzzles")):
        if not size:
            give = f"give their number: --set data.{name}=1000"
            raise InputError(f"data.{name} is 0, all of the source, which only the data tell; {give}")
    steps = cfg.total_steps(groups, mean)
    tested = min(cfg.eval.max_examples or held_out, held_out)
    tested_before = min(cfg.eval.max_examples_before_end or tested, tested)
    before_end = len(cfg.evaluation_steps(groups, mean, steps))
    scored = 1 + len(cfg.optim.other_decays)  # every averaged set of weights is evaluated
    specs = cfg.family.specs(cfg.model)
    tables = [spec for spec in specs.values() if params.is_spec(spec) and spec.kind == "rows"]
    return Work(
        steps=steps,
        parameters=params.count(specs["weights"]),
        puzzle_table=params.count(tables),
        train_flops=train_flops(cfg, steps, groups * mean) + steps * optimiser_flops(cfg),
        evaluations=before_end + 1,
        eval_puzzles=tested,
        eval_puzzles_before_end=tested_before,
        eval_flops=(before_end * tested_before + tested) * scored * cfg.family.flops(cfg.model)[1],
    )


def plan(cfg: RunConfig, device: Device, *, utilisation: float = 0.4) -> Plan:
    """The plan of one run at `utilisation` of the peak; no device is touched. Raises InputError for settings that no
    device can run."""
    if not 0 < utilisation <= 1:
        raise InputError(f"the utilisation is {utilisation:g}; give a share of the peak, for example 0.4")
    mesh, found = memory.abstract_mesh(cfg, device.chips), work(cfg)
    with device.target():
        return _plan(cfg, device, utilisation, mesh, found)


def _plan(cfg: RunConfig, device: Device, utilisation: float, mesh, found: Work) -> Plan:
    there = memory.on(cfg, device, mesh)
    try:
        memory.check_batches(cfg, mesh)
        obstacle = memory.shortage(there, device, mesh)
    except InputError as error:
        obstacle = str(error)
    warnings = [*cfg.warnings(found.steps), *filter(None, [obstacle])]
    if not obstacle and there.model != cfg.model and there.model.remat == "block":
        faster = memory.remedy(cfg, mesh, lambda parts: takes(cfg, mesh, parts), device.memory_gb * 1e9)
        warnings.append(f"fits by computing activations again (model.remat), which costs time; without: {faster}")
    if getattr(cfg.model, "dtype", "float32") == "float32":
        warnings.append("the peak is that of bfloat16, which float32 does not reach: give the device's with --peak")
    per_hour = 3600 * utilisation * device.chips * device.peak_tflops * 1e12
    hours = found.train_flops / per_hour, found.eval_flops / per_hour
    dollars = None if device.dollars_per_hour is None else sum(hours) * device.dollars_per_hour
    chip_bytes = state_bytes(there, mesh) + step_bytes(there, mesh, cfg.train.accumulation)
    if hasattr(cfg.task, "reader"):
        from trm_jax.planning.language import reader_bytes

        source, reading = reader_bytes(*cfg.task.reader(cfg.data))
        source = source.removesuffix(": its config.json")
        features = bytes_of(params.abstract(cfg.family.specs(cfg.model).get("features", {})))
        of_features = f"{chip_bytes / 1e9:.2f} GB, {features / 1e9:.2f} of them features"
        warnings.append(f"{source} reads the tasks first, {reading / 1e9:.2f} GB, and is gone; then {of_features}")
        if reading > device.memory_gb * 1e9:
            obstacle = obstacle or f"{source} takes {reading / 1e9:.0f} GB, and {device.name} has {device.memory_gb:g}"
        chip_bytes = max(chip_bytes, reading)
    return Plan(found, *hours, dollars, chip_bytes, tuple(warnings), obstacle)
