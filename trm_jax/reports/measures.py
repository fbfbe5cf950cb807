"""What is measured of a run, each with its name and unit."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

from trm_jax.configs.runs import Run
from trm_jax.reports import units
from trm_jax.reports.statistics import Halting, added, detrended_variance, halting
from trm_jax.reports.units import Unit
from trm_jax.train import clock

LOWER_IS_BETTER = ("loss",)  # of the scores that judge a task
# "Late" in a run is its last fifth.
LATE = 0.8


@dataclass(frozen=True)
class Measure:
    """A figure of a run.

    higher: more of it is better. computed: it follows from the settings, so it has no spread to test.
    """

    key: str  # of CSV files
    name: str
    unit: Unit
    of: Callable[[Run], float | None]
    higher: bool = True
    computed: bool = False


def late(run: Run) -> list[dict]:
    return [record for record in run.training if record["step"] > LATE * run.final["step"]]


def seconds_at(record: dict) -> float | None:
    """Training and evaluations up to a record, restarts not counted twice."""
    return record.get("clock", {}).get("elapsed_s")


def epochs_at(run: Run, step: int) -> float | None:
    """Epochs that `step` updates took: one draws each training puzzle once."""
    groups = run.facts.get("groups")
    return step * run.settings["train.batch_size"] / groups if groups else None


class Scores(NamedTuple):
    """The measures that are made from the score by which a task is judged.

    final: after the last update, with averaged weights where a run averages. train: late in training, of the
    sequences that halted then, weights not averaged. early: of the answers at the first step with a positive q_halt.
    """

    final: Measure
    live: Measure
    train: Measure
    gap: Measure
    early: Measure
    efficiency: Measure


@cache
def scores(headline: str) -> Scores:
    """headline: the score's key in the records."""
    name, lower = headline.replace("_", " "), headline in LOWER_IS_BETTER
    early = f"early_exit_{headline}"

    def live(run: Run) -> float | None:
        return run.final.get(f"{headline}_live" if run.settings["optim.ema_decay"] else headline)

    def train(run: Run) -> float | None:
        lines = [record for record in late(run) if headline in record]
        halted = sum(record["halted"] for record in lines)
        return sum(record[headline] * record["halted"] for record in lines) / halted if halted else None

    def gap(run: Run) -> float | None:
        known = train(run)
        return None if known is None else known - run.final[headline]

    def efficiency(run: Run) -> float | None:
        parameters, seconds = run.facts.get("parameters"), TIME.of(run)
        return run.final[headline] / (parameters / 1e6 * seconds / 3600) if parameters and seconds else None

    def scored(key: str, what: str, of: Callable, unit: Unit = units.PLAIN if lower else units.FRACTION) -> Measure:
        return Measure(key, what, unit, of, higher=not lower)

    return Scores(
        scored(headline, name, lambda run: run.final[headline]),
        scored(f"{headline}_live", f"{name}, live weights", live),
        scored(f"train_{headline}", f"training {name}", train),
        Measure("train_test_gap", "train-test gap", units.FRACTION, gap, higher=False),
        scored(early, f"{name} when stopped there", lambda run: run.final.get(early)),
        scored("efficiency", f"{name} per million parameters and hour", efficiency, units.PLAIN),
    )


_lower = partial(Measure, higher=False)
_computed = partial(Measure, higher=False, computed=True)


def _fact(key: str) -> Callable[[Run], Any]:
    return lambda run: run.facts.get(key)


def _puzzle_flops(run: Run) -> float | None:
    """Of an evaluation in which nothing stops early."""
    flops = run.facts.get("eval_flops")
    return flops / run.final["count"] if flops else None


def _early_flops(run: Run) -> float | None:
    """Of a puzzle that stops at its first positive q_halt."""
    flops, steps = _puzzle_flops(run), run.final.get("early_exit_steps")
    return flops * steps / run.settings["model.halt_max_steps"] if flops and steps else None


STEPS = _computed("steps", "updates", units.PLAIN, lambda run: run.final["step"])
PARAMETERS = _computed("parameters", "parameters", units.COUNT, _fact("parameters"))
TRAIN_FLOPS = _computed("train_flops", "training compute", units.FLOPS, _fact("train_flops"))
STEP_FLOPS = _computed("flops_per_step", "compute of an update", units.FLOPS, _fact("flops_per_step"))
PUZZLE_FLOPS = _computed("eval_flops_per_puzzle", "inference compute of a puzzle", units.FLOPS, _puzzle_flops)
EARLY_FLOPS = _lower("early_exit_flops", "inference compute of a puzzle", units.FLOPS, _early_flops)


def _speed(run: Run) -> float | None:
    """Median over the log lines but the first, which holds the compilation."""
    found = [record.get("clock", {}).get("examples_per_s") for record in run.training[1:]]
    return statistics.median(filter(None, found)) if any(found) else None


def _memory(run: Run) -> float | None:
    """Of accelerators: on a CPU it would be that of the process, compiler and data included."""
    if run.facts.get("backend") == "cpu":
        return None
    return max((record.get("clock", {}).get("peak_memory_bytes") or 0 for record in run.records), default=0) or None


TIME = _lower("seconds", "time", units.SECONDS, lambda run: seconds_at(run.final))
SPEED = Measure("examples_per_s", "throughput", units.RATE, _speed)
MEMORY = _lower("peak_memory_bytes", "peak memory", units.BYTES, _memory)


def _over(key: str, take: Callable, at_end: bool = True) -> Callable[[Run], float | None]:
    """What `take` makes of a key's values in the training records, by default the late ones; None without any."""

    def of(run: Run) -> float | None:
        values = [record[key] for record in (late(run) if at_end else run.training) if key in record]
        return take(values) if values else None

    return of


LOSS_VARIANCE = _lower("loss_variance", "late loss variance", units.PLAIN, _over("loss", detrended_variance))
GRAD_NORM = _lower("late_grad_norm", "late gradient norm", units.PLAIN, _over("grad_norm", statistics.fmean))
MAX_GRAD_NORM = _lower("max_grad_norm", "largest gradient norm", units.PLAIN, _over("grad_norm", max, at_end=False))
# Because a gradient overflowed; recorded with loss scaling only.
SKIPPED = _lower("skipped", "updates skipped", units.PLAIN, _over("skipped", sum, at_end=False))


def eval_halting(record: dict) -> Halting | None:
    """When the rows of an evaluation would have stopped; those that never would count at the last step."""
    return halting(record.get("halt_steps", []))


def train_halt_counts(run: Run) -> list[float]:
    """How many sequences halted at step 1, 2, ... late in training; empty where that was not recorded."""
    return added(record.get("halt_steps", []) for record in late(run))


def _halting(part: str, train: bool = False) -> Callable[[Run], float | None]:
    return lambda run: getattr(halting(train_halt_counts(run)) if train else eval_halting(run.final), part, None)


EARLY_STEPS = _lower("early_exit_steps", "halt step", units.HALT_STEPS, _halting("mean"))
HALT_VARIANCE = Measure("halt_variance", "variance of the halt step", units.PLAIN, _halting("variance"))
HALT_EARLY = Measure("halt_early", "share halting early", units.FRACTION, _halting("early"))
TRAIN_STEPS = Measure("train_steps", "halt step in training", units.HALT_STEPS, _halting("mean", True))
TRAIN_VARIANCE = Measure(
    "train_halt_variance", "variance of the halt step in training", units.PLAIN, _halting("variance", True)
)


def _spent(key: str, name: str, unit: Unit, of: Callable[[dict], float]) -> Measure:
    """A figure of goodput.json, for runs that have it."""
    return Measure(key, name, unit, lambda run: of(run.goodput) if run.goodput else None)


def _share(kind: str) -> Measure:
    """Of the time of all starts."""
    names = {"train": "trained", "compile": "compilation", "data": "waiting for data", "lost": "lost to crashes"}
    of = lambda found: found["seconds"][kind] / (clock.spent(found["seconds"]) or 1.0)  # noqa: E731
    return _spent(f"share_{kind}", names.get(kind, kind), units.PERCENT, of)


SHARES = [_share(kind) for kind in (*clock.SPENT, "lost")]
TIME_SPENT = (
    _spent("seconds_spent", "time of all starts", units.SECONDS, lambda found: clock.spent(found["seconds"])),
    _spent("starts", "starts", units.PLAIN, lambda found: found["lives"]),
    _spent("seconds_down", "time between starts", units.SECONDS, lambda found: found["seconds"]["down"]),
    *SHARES,
)
# Those that stand in the CSV file, besides scores and levels.
OF_RUNS = (
    *(STEPS, TIME, SPEED, MEMORY, PARAMETERS, TRAIN_FLOPS, PUZZLE_FLOPS, EARLY_STEPS, HALT_VARIANCE, HALT_EARLY),
    *(TRAIN_STEPS, LOSS_VARIANCE, GRAD_NORM, *TIME_SPENT),
)


def first_at(run: Run, level: float) -> dict | None:
    """The first evaluation with a score that is as good as `level` or better."""
    sign = -1 if run.headline in LOWER_IS_BETTER else 1
    return next((record for record in run.evaluations if sign * record[run.headline] >= sign * level), None)


_REACHED = {
    "time": (units.SECONDS, lambda run, record: seconds_at(record)),
    "epochs": (units.EPOCHS, lambda run, record: epochs_at(run, record["step"])),
    "updates": (units.UPDATES, lambda run, record: record["step"]),
}


def until(what: str, level: float) -> Measure:
    """Time, epochs or updates (`what`) until the first evaluation that reaches `level`."""
    unit, of = _REACHED[what]

    def first(run: Run) -> float | None:
        record = first_at(run, level)
        return None if record is None else of(run, record)

    return _lower(f"{what}_to_{level:g}", f"{what} to {level:g}", unit, first)
