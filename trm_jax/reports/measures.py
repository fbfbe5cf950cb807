"""What is measured of a run, each with its name and unit."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from trm_jax.reports import units
from trm_jax.reports.runs import Run, eval_halting, seconds_at, train_halt_counts
from trm_jax.reports.statistics import detrended_variance, halting
from trm_jax.reports.units import Unit
from trm_jax.train import clock

LOWER_IS_BETTER = ("loss",)  # of the scores that judge a task


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

    def live(run: Run) -> float | None:
        return run.final.get(f"{headline}_live" if run.settings["optim.ema_decay"] else headline)

    def train(run: Run) -> float | None:
        lines = [record for record in run.late if headline in record]
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
        scored(f"early_exit_{headline}", f"{name} when stopped there", lambda r: r.final.get(f"early_exit_{headline}")),
        scored("efficiency", f"{name} per million parameters and hour", efficiency, units.PLAIN),
    )


def depth(settings) -> int:
    """H * (L + 1) * layers: layer applications of a supervision step, the paper's effective depth."""
    return settings["model.H_cycles"] * (settings["model.L_cycles"] + 1) * settings["model.L_layers"]


def _puzzle_flops(run: Run) -> float | None:
    """Of an evaluation in which nothing stops early."""
    flops = run.facts.get("eval_flops")
    return flops / run.final["count"] if flops else None


def _computed(key: str, name: str, unit: Unit, of: Callable | None = None) -> Measure:
    return Measure(key, name, unit, of or (lambda run: run.facts.get(key)), False, True)


STEPS = _computed("steps", "updates", units.PLAIN, lambda run: run.final["step"])
PARAMETERS = _computed("parameters", "parameters", units.COUNT)
TRAIN_FLOPS = _computed("train_flops", "training compute", units.FLOPS)
STEP_FLOPS = _computed("flops_per_step", "compute of an update", units.FLOPS)
PUZZLE_FLOPS = _computed("eval_flops_per_puzzle", "inference compute of a puzzle", units.FLOPS, _puzzle_flops)
DEPTH = _computed("layer_applications", "layer applications", units.PLAIN, lambda run: depth(run.settings))


def _speed(run: Run) -> float | None:
    """Median over the log lines but the first, which holds the compilation."""
    found = [record.get("clock", {}).get("examples_per_s") for record in run.training[1:]]
    return statistics.median(filter(None, found)) if any(found) else None


def _memory(run: Run) -> float | None:
    return max((record.get("clock", {}).get("peak_memory_bytes") or 0 for record in run.records), default=0) or None


TIME = Measure("seconds", "time", units.SECONDS, lambda run: seconds_at(run.final), higher=False)
SPEED = Measure("examples_per_s", "throughput", units.RATE, _speed)
MEMORY = Measure("peak_memory_bytes", "peak memory", units.BYTES, _memory, higher=False)


def _over(key: str, take: Callable, late: bool = True) -> Callable[[Run], float | None]:
    """What `take` makes of a key's values in the training records, by default the late ones; None without any."""

    def of(run: Run) -> float | None:
        values = [record[key] for record in (run.late if late else run.training) if key in record]
        return take(values) if values else None

    return of


LOSS_VARIANCE = Measure(
    "loss_variance", "late loss variance", units.PLAIN, _over("loss", detrended_variance), higher=False
)
GRAD_NORM = Measure("late_grad_norm", "late gradient norm", units.PLAIN, _over("grad_norm", statistics.fmean), False)
MAX_GRAD_NORM = Measure("max_grad_norm", "largest gradient norm", units.PLAIN, _over("grad_norm", max, late=False))
# Because a gradient overflowed; recorded with loss scaling only.
SKIPPED = Measure("skipped", "updates skipped", units.PLAIN, _over("skipped", sum, late=False))


def _halting(part: str, train: bool = False) -> Callable[[Run], float | None]:
    return lambda run: getattr(halting(train_halt_counts(run)) if train else eval_halting(run.final), part, None)


EARLY_STEPS = Measure(
    "early_exit_steps", "halt step", units.HALT_STEPS, lambda run: run.final.get("early_exit_steps"), higher=False
)
HALT_VARIANCE = Measure("halt_variance", "variance of the halt step", units.PLAIN, _halting("variance"))
HALT_EARLY = Measure("halt_early", "share halting early", units.FRACTION, _halting("early"))
TRAIN_STEPS = Measure("train_steps", "halt step in training", units.HALT_STEPS, _halting("mean", True))
TRAIN_VARIANCE = Measure(
    "train_halt_variance", "variance of the halt step in training", units.PLAIN, _halting("variance", True)
)


def _counted(key: str, name: str, unit: Unit, of: Callable[[dict], float]) -> Measure:
    """A figure of goodput.json, for runs that have it."""
    return Measure(key, name, unit, lambda run: of(run.goodput) if run.goodput else None)


_SPENT_ON = {"train": "trained", "compile": "compilation", "data": "waiting for data", "lost": "lost to crashes"}
SPENT = _counted("seconds_spent", "time of all starts", units.SECONDS, lambda found: clock.spent(found["seconds"]))
STARTS = _counted("starts", "starts", units.PLAIN, lambda found: found["lives"])
DOWN = _counted("seconds_down", "time between starts", units.SECONDS, lambda found: found["seconds"]["down"])
# Of the time of all starts, by what it went to.
SHARES = [
    _counted(
        f"share_{kind}", _SPENT_ON.get(kind, kind), units.PERCENT,
        lambda found, kind=kind: found["seconds"][kind] / (clock.spent(found["seconds"]) or 1.0),
    )
    for kind in (*clock.SPENT, "lost")
]  # fmt: skip
TIME_SPENT = (SPENT, STARTS, DOWN, *SHARES)


def first_at(run: Run, level: float) -> dict | None:
    """The first evaluation with a score that is as good as `level` or better."""
    sign = -1 if run.headline in LOWER_IS_BETTER else 1
    return next((record for record in run.evaluations if sign * record[run.headline] >= sign * level), None)


def _until(key: str, unit: Unit, level: float, of: Callable[[Run, dict], float | None], name: str = "") -> Measure:
    def first(run: Run) -> float | None:
        record = first_at(run, level)
        return None if record is None else of(run, record)

    return Measure(f"{key}_to_{level:g}", f"{name or key} to {level:g}", unit, first, higher=False)


def time_to(level: float) -> Measure:
    """Seconds until the first evaluation that reaches `level`."""
    return _until("seconds", units.SECONDS, level, lambda _, record: seconds_at(record), "time")


def epochs_to(level: float) -> Measure:
    return _until("epochs", units.EPOCHS, level, lambda run, record: run.epochs(record["step"]))


def steps_to(level: float) -> Measure:
    return _until("steps", units.UPDATES, level, lambda _, record: record["step"], "updates")
