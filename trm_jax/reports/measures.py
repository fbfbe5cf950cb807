"""What is measured of a run, each with its name and unit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from trm_jax.configs.resolve import freeze
from trm_jax.reports import units
from trm_jax.reports.runs import Run, eval_halting, seconds_at
from trm_jax.reports.units import Unit
from trm_jax.train import clock, cost


@dataclass(frozen=True)
class Measure:
    """A figure of a run.

    computed: it follows from the settings, so it has no spread to test. clocked: it is of the program that the run
    trained in, which other runs may share. spoken: how a sentence names it where that is not its name.
    """

    key: str  # of CSV files
    name: str
    unit: Unit
    of: Callable[[Run], float | None]
    computed: bool = False
    clocked: bool = False
    spoken: str = ""

    @property
    def said(self) -> str:
        """How a sentence names an arm's figure: a mean over its runs, unless they all have to agree."""
        return (self.spoken or self.name) if self.computed else f"mean {self.spoken or self.name}"


def _fact(key: str) -> Callable[[Run], float | None]:
    return lambda run: run.facts.get(key)


def _halting(of_run, part: str) -> Callable[[Run], float | None]:
    def of(run: Run) -> float | None:
        found = of_run(run)
        return None if found is None else getattr(found, part)

    return of


def _final_halting(run: Run):
    return eval_halting(run.final)


def _train_halting(run: Run):
    return run.train_halting


EXACT = Measure("exact_accuracy", "exact accuracy", units.FRACTION, lambda run: run.final["exact_accuracy"])
TOKENS = Measure("accuracy", "token accuracy", units.FRACTION, lambda run: run.final.get("accuracy"))
TRAIN_EXACT = Measure(
    "train_exact_accuracy", "training exact accuracy", units.FRACTION, lambda run: run.train_exact_accuracy
)
GAP = Measure("train_test_gap", "train-test gap", units.FRACTION, lambda run: run.gap)
LIVE = Measure(
    "exact_accuracy_live", "exact accuracy, live weights", units.FRACTION,
    lambda run: run.final["exact_accuracy"] if not run.settings["optim.ema_decay"]
    else run.final.get("exact_accuracy_live"),
)  # fmt: skip
PARAMETERS = Measure("parameters", "parameters", units.PARAMETERS, _fact("parameters"), computed=True)
STEPS = Measure("steps", "updates", units.PLAIN, lambda run: run.final["step"], computed=True)
TRAIN_FLOPS = Measure("train_flops", "training compute", units.FLOPS, _fact("train_flops"), computed=True)
STEP_FLOPS = Measure("flops_per_step", "compute of an update", units.FLOPS, _fact("flops_per_step"), computed=True)
DEPTH = Measure(
    "layer_applications", "layer applications", units.PLAIN, lambda run: run.layer_applications, computed=True
)
TIME = Measure("seconds", "time", units.SECONDS, lambda run: run.seconds, clocked=True)
SPEED = Measure("examples_per_s", "throughput", units.RATE, lambda run: run.examples_per_s, clocked=True)
MEMORY = Measure("peak_memory_bytes", "peak memory", units.BYTES, lambda run: run.peak_memory_bytes, clocked=True)
LOSS_VARIANCE = Measure("loss_variance", "late loss variance", units.PLAIN, lambda run: run.loss_variance)
GRAD_NORM = Measure("late_grad_norm", "late gradient norm", units.PLAIN, lambda run: run.late_mean("grad_norm"))
MAX_GRAD_NORM = Measure("max_grad_norm", "largest gradient norm", units.PLAIN, lambda run: run.max_grad_norm)
SKIPPED = Measure("skipped", "updates skipped", units.PLAIN, lambda run: run.skipped)
PUZZLE_FLOPS = Measure(
    "eval_flops_per_puzzle", "inference compute a puzzle", units.FLOPS, lambda run: run.eval_flops_per_puzzle,
    computed=True, spoken="inference compute of a puzzle",
)  # fmt: skip
EARLY_STEPS = Measure(
    "early_exit_steps", "mean halt step", units.HALT_STEPS, lambda run: run.final.get("early_exit_steps"),
    spoken="halt step",
)  # fmt: skip
EARLY_EXACT = Measure(
    "early_exit_exact_accuracy", "exact accuracy when stopped there", units.FRACTION,
    lambda run: run.final.get("early_exit_exact_accuracy"),
)  # fmt: skip
HALT_VARIANCE = Measure("halt_variance", "variance of the halt step", units.PLAIN, _halting(_final_halting, "variance"))
HALT_EARLY = Measure("halt_early", "share halting early", units.FRACTION, _halting(_final_halting, "early"))
TRAIN_STEPS = Measure("train_steps", "mean halt step in training", units.HALT_STEPS, _halting(_train_halting, "mean"))
TRAIN_VARIANCE = Measure(
    "train_halt_variance", "variance of the halt step in training", units.PLAIN, _halting(_train_halting, "variance")
)


def _counted(of: Callable[[dict], float]) -> Callable[[Run], float | None]:
    """A figure of goodput.json, for runs that have it."""
    return lambda run: of(run.goodput) if run.goodput else None


def seconds_of(kind: str) -> Measure:
    """The seconds of a kind (`clock.KINDS`) over all lives of a run."""
    return Measure(
        f"seconds_{kind}", f"{kind} time", units.SECONDS, _counted(lambda found: found["seconds"][kind]), clocked=True
    )


GOODPUT = Measure(
    "goodput", "share that trained", units.FRACTION, _counted(lambda found: clock.goodput(found["seconds"])),
    clocked=True,
)  # fmt: skip
LIVES = Measure("lives", "lives", units.PLAIN, _counted(lambda found: found["lives"]))
SPENT = Measure(
    "seconds_spent", "time in all lives", units.SECONDS, _counted(lambda found: clock.spent(found["seconds"])),
    clocked=True,
)  # fmt: skip
DOWN = seconds_of("down")
TIME_SPENT = (GOODPUT, LIVES, SPENT, *map(seconds_of, clock.KINDS))


def _efficiency(run: Run) -> float | None:
    parameters, seconds = run.facts.get("parameters"), run.seconds
    if not parameters or not seconds:
        return None
    return run.final["exact_accuracy"] / (parameters / 1e6 * seconds / 3600)


def _compute_efficiency(run: Run) -> float | None:
    parameters, flops = run.facts.get("parameters"), run.facts.get("train_flops")
    if not parameters or not flops:
        return None
    return run.final["exact_accuracy"] / (parameters / 1e6 * flops / 1e15)


EFFICIENCY = Measure("efficiency", "accuracy per million parameters and hour", units.PLAIN, _efficiency, clocked=True)
COMPUTE_EFFICIENCY = Measure(
    "compute_efficiency", "accuracy per million parameters and PFLOP of training", units.PLAIN, _compute_efficiency
)


def time_to(level: float) -> Measure:
    """Seconds until the first evaluation at or above `level`."""
    return _until("seconds", "time", units.SECONDS, level, lambda run, record: seconds_at(record))


def epochs_to(level: float) -> Measure:
    return _until("epochs", "epochs", units.EPOCHS, level, lambda run, record: run.epochs(record["step"]))


def steps_to(level: float) -> Measure:
    return _until("steps", "updates", units.STEPS, level, lambda run, record: record["step"])


def compute_to(level: float) -> Measure:
    """Matmul FLOPs of the updates until then, by the analytic count."""
    return _until("flops", "training compute", units.FLOPS, level, _flops_until)


def _flops_until(run: Run, record: dict) -> float | None:
    groups = run.facts.get("groups")
    return float(cost.train_flops(freeze(run.folder.config), record["step"], groups)) if groups else None


def _until(key: str, name: str, unit: Unit, level: float, of) -> Measure:
    def first(run: Run) -> float | None:
        record = run.first_at(level)
        return None if record is None else of(run, record)

    counted = "number of " * (unit in (units.EPOCHS, units.STEPS))
    spoken = f"{counted}{name} to {level:g}"
    return Measure(
        f"{key}_to_{level:g}", f"{name} to {level:g}", unit, first, clocked=unit is units.SECONDS, spoken=spoken
    )
