"""What is measured of a run, each with its name and unit."""

import math
import statistics
from collections.abc import Callable
from functools import cache, partial
from typing import Any, NamedTuple

import numpy as np

from trm_jax.configs.resolve import freeze
from trm_jax.configs.runs import Run
from trm_jax.errors import InputError
from trm_jax.reports import units
from trm_jax.reports.statistics import Halting, detrended_variance, halting
from trm_jax.reports.units import Unit
from trm_jax.train import clock
from trm_jax.train.curriculum import train_flops

LOWER_IS_BETTER = ("loss",)  # of the scores that judge a task
LATE = 0.8  # "late" in a run is its last fifth
OVER = 0.02  # costs that exceed a budget by no more than this share of it lie within


class Measure(NamedTuple):
    """A figure of a run.

    take: from the run; it need not ask whether the records hold what it looks up. higher: more of it is better.
    computed: it follows from the settings, so it has no spread to test.
    """

    key: str  # of CSV files
    name: str
    unit: Unit
    take: Callable[[Run], float | None]
    higher: bool = True
    computed: bool = False

    def of(self, run: Run) -> float | None:
        """None where the run has not recorded what it is made of."""
        try:
            return self.take(run)
        except InputError:  # a damaged file
            raise
        except (LookupError, ValueError, ZeroDivisionError):  # a key, the mean of nothing, a share of nothing
            return None


_lower = partial(Measure, higher=False)
_computed = partial(Measure, higher=False, computed=True)


def late(run: Run) -> list[dict]:
    return [record for record in run.training if record["step"] > LATE * run.final["step"]]


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
    name, higher = headline.replace("_", " "), headline not in LOWER_IS_BETTER
    live, early = f"{headline}_live", f"early_exit_{headline}"

    def train(run: Run) -> float:
        lines = [record for record in late(run) if headline in record]
        return float(np.average([line[headline] for line in lines], weights=[line["halted"] for line in lines]))

    def efficiency(run: Run) -> float:
        return run.final[headline] / (run.facts["parameters"] / 1e6 * seconds_at(run.final) / 3600)

    def scored(key: str, what: str, take: Callable, unit: Unit = units.FRACTION if higher else units.PLAIN) -> Measure:
        return Measure(key, what, unit, take, higher)

    return Scores(
        scored(headline, name, lambda run: run.final[headline]),
        scored(live, f"{name}, live weights", lambda r: r.final[live if r.settings["optim.ema_decay"] else headline]),
        scored(f"train_{headline}", f"training {name}", train),
        _lower("train_test_gap", "train-test gap", units.FRACTION, lambda run: train(run) - run.final[headline]),
        scored(early, f"{name} when stopped there", lambda run: run.final[early]),
        scored("efficiency", f"{name} per million parameters and hour", efficiency, units.PLAIN),
    )


def _puzzle_flops(run: Run) -> float:
    """Of an evaluation in which nothing stops early."""
    return run.facts["eval_flops"] / run.final["count"]


STEPS = _computed("steps", "updates", units.PLAIN, lambda run: run.final["step"])
PARAMETERS = _computed("parameters", "parameters", units.COUNT, lambda run: run.facts["parameters"])
TRAIN_FLOPS = _computed("train_flops", "training compute", units.FLOPS, lambda run: run.facts["train_flops"])
STEP_FLOPS = _computed("flops_per_step", "compute of an update", units.FLOPS, lambda run: run.facts["flops_per_step"])
PUZZLE_FLOPS = _computed("eval_flops_per_puzzle", "inference compute of a puzzle", units.FLOPS, _puzzle_flops)


def _cycles(run: Run) -> tuple[int, int]:
    return run.settings["model.H_cycles"], run.settings["model.L_cycles"]


def _applications(run: Run) -> int:
    H, L = _cycles(run)
    return H * (L + 1) * run.settings["model.L_layers"]


# The effective depth of the users' guide, and the paper's: layer applications of a supervision step.
GUIDE_DEPTH = _computed("guide_depth", "depth H*L (the guide's)", units.PLAIN, lambda run: math.prod(_cycles(run)))
DEPTH = _computed("depth", "layer applications H*(L+1)*layers (the paper's depth)", units.PLAIN, _applications)


def _boards(run: Run) -> int:
    return run.settings["data.train_puzzles"] * (run.settings["data.augmentations"] + 1)


# Training boards: each puzzle and its augmentations.
BOARDS = _computed("boards", "distinct boards", units.PLAIN, _boards)


def seconds_at(record: dict) -> float:
    """Training and evaluations up to a record, restarts not counted twice."""
    return record["clock"]["elapsed_s"]


def _speed(run: Run) -> float:
    """Median over the log lines but the first, which holds the compilation."""
    return statistics.median(filter(None, (record["clock"]["examples_per_s"] for record in run.training[1:])))


def _memory(run: Run) -> float | None:
    """Of accelerators: on a CPU it would be that of the process, compiler and data included."""
    peak = max(record["clock"]["peak_memory_bytes"] or 0 for record in run.training)
    return peak if peak and run.facts.get("backend") != "cpu" else None


TIME = _lower("seconds", "time", units.SECONDS, lambda run: seconds_at(run.final))
SPEED = Measure("examples_per_s", "throughput", units.RATE, _speed)
MEMORY = _lower("peak_memory_bytes", "peak memory", units.BYTES, _memory)


def _over(key: str, take: Callable, lines: Callable = late) -> Callable[[Run], float | None]:
    """What `take` makes of a key's values in the training records, by default the late ones; None without any."""

    return lambda run: take(values) if (values := [r[key] for r in lines(run) if key in r]) else None


_whole = lambda run: run.training  # noqa: E731
LOSS_VARIANCE = _lower("loss_variance", "late loss variance", units.PLAIN, _over("loss", detrended_variance))
GRAD_NORM = _lower("late_grad_norm", "late gradient norm", units.PLAIN, _over("grad_norm", statistics.fmean))
MAX_GRAD_NORM = _lower("max_grad_norm", "largest gradient norm", units.PLAIN, _over("grad_norm", max, _whole))
# Because a gradient overflowed; recorded with loss scaling only.
SKIPPED = _lower("skipped", "updates skipped", units.PLAIN, _over("skipped", sum, _whole))


def _ended(run: Run) -> Halting:
    """When held-out rows would have stopped; those that never would count at the last step."""
    return halting(run.final["halt_steps"])


EARLY_STEPS = _lower("early_exit_steps", "halt step", units.HALT_STEPS, lambda run: _ended(run).mean)
HALT_VARIANCE = Measure("halt_variance", "variance of the halt step", units.PLAIN, lambda run: _ended(run).variance)
HALT_EARLY = Measure("halt_early", "share halting early", units.FRACTION, lambda run: _ended(run).early)


GOODPUT = Measure("goodput", "goodput", units.FRACTION, lambda run: clock.goodput(run.goodput["seconds"]))
# Those that stand in the CSV file, besides scores and levels.
OF_RUNS = (
    *(STEPS, TIME, SPEED, MEMORY, PARAMETERS, TRAIN_FLOPS, PUZZLE_FLOPS, EARLY_STEPS, HALT_VARIANCE, HALT_EARLY),
    *(LOSS_VARIANCE, GRAD_NORM, GOODPUT),
)


def first_at(run: Run, level: float) -> dict:
    """The first evaluation with a score that is as good as `level` or better; LookupError when there is none."""
    sign = -1 if run.headline in LOWER_IS_BETTER else 1
    return [record for record in run.evaluations if sign * record[run.headline] >= sign * level][0]


def epochs_at(run: Run, step: int) -> float:
    """Epochs that `step` updates took: one draws each training puzzle once."""
    return step * run.settings["train.batch_size"] / run.facts["groups"]


def flops_at(run: Run, record: dict) -> float:
    """Analytic FLOPs of the updates up to a record, those of evaluations not counted."""
    if run.settings["train.curriculum_epochs"]:  # early updates are cheap
        return train_flops(freeze(run.config), record["step"], run.facts["groups"])
    return run.facts["train_flops"] * record["step"] / run.total_steps


# What a run spends until a record: its unit, and how much.
COSTS: dict[str, tuple[Unit, Callable[[Run, Any], float]]] = {
    "time": (units.SECONDS, lambda run, record: seconds_at(record)),
    "epochs": (units.EPOCHS, lambda run, record: epochs_at(run, record["step"])),
    "updates": (units.UPDATES, lambda run, record: record["step"]),
    "training compute": (units.FLOPS, flops_at),
}


def until(what: str, level: float) -> Measure:
    """What one of the COSTS is at the first evaluation that reaches `level`."""
    unit, of = COSTS[what]
    return _lower(f"{what}_to_{level:g}", f"{what} to {level:g}", unit, lambda run: of(run, first_at(run, level)))


def spent(what: str, budget: float = math.inf) -> Measure:
    """What one of the COSTS is at the last evaluation, or at the last one within the budget."""
    unit, of = COSTS[what]
    take = lambda run: of(run, last_within(run, what, budget))  # noqa: E731
    return _lower(f"{what}_spent", f"{what} until then", unit, take, computed=what != "time")


def score_within(score: Measure, what: str, budget: float) -> Measure:
    """The score, by its key in the records, of the last evaluation within a budget of one of the COSTS."""
    scale = units.scale_for(COSTS[what][0], [budget])
    name = f"{score.name} within {scale.number(budget)} {scale.label}"
    take = lambda run: last_within(run, what, budget)[score.key]  # noqa: E731
    return score._replace(key=f"{score.key}_within_{what}", name=name, take=take)


def last_within(run: Run, what: str, budget: float) -> dict:
    """The last evaluation of all the examples that were scored at the end, among those whose cost lies within the
    budget; LookupError when there is none."""
    of = COSTS[what][1]
    whole = [record for record in run.evaluations if record["count"] == run.final["count"]]
    return [record for record in whole if of(run, record) <= (1 + OVER) * budget][-1]
