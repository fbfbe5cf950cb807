"""Which analyses answer each group's question; the first one's sentence is the page's answer."""

from __future__ import annotations

from trm_jax.reports import measures as m
from trm_jax.reports.analyses import batch, cost, data, depth, halting, sweep, training
from trm_jax.reports.analyses.parts import BY_NAME, OVER_PARAMETERS, Analysis, Axis, setting_axis

_L = setting_axis("model.L_cycles", "L cycles")
_H = setting_axis("model.H_cycles", "H cycles")
_PUZZLES = setting_axis("data.train_puzzles", "training puzzles", "log")
_VARIANTS = Axis("variants a puzzle", lambda arm: arm.settings["data.augmentations"] + 1.0, "log")


def _costs(axis=BY_NAME) -> Analysis:
    return cost.figures("Time, speed and memory", m.TIME, m.SPEED, m.MEMORY, axis=axis, name="costs")


# What is said of any runs.
GENERAL: tuple[Analysis, ...] = (
    sweep.accuracy_over(BY_NAME, m.PARAMETERS, m.TRAIN_FLOPS),
    cost.levels_reached(m.time_to, 0.80, 0.85, 0.87),
    _costs(),
    sweep.curves,
)

ANALYSES: dict[str, tuple[Analysis, ...]] = {
    "exp01": (
        sweep.accuracy_over(OVER_PARAMETERS, m.PARAMETERS),
        sweep.power_law(OVER_PARAMETERS),
        cost.best_figure(
            "Accuracy per parameter and time",
            m.EFFICIENCY,
            m.COMPUTE_EFFICIENCY,
            name="efficiency",
            axis=OVER_PARAMETERS,
        ),
        cost.levels_reached(m.time_to, 0.80, 0.85, 0.87, axis=OVER_PARAMETERS),
        cost.figures("Throughput and memory", m.SPEED, m.MEMORY, axis=OVER_PARAMETERS, name="costs"),
        sweep.curves,
    ),
    "exp02a": (sweep.accuracy_over(_L, optimum=True), depth.gap(_L), depth.equal_depth, _costs(_L), sweep.curves),
    "exp02b": (sweep.accuracy_over(_H, optimum=True), depth.gap(_H), depth.equal_depth, _costs(_H), sweep.curves),
    "exp03": (
        cost.pareto((m.SPEED, True), (m.STEP_FLOPS, False), (m.PARAMETERS, False), (m.MEMORY, False)),
        sweep.accuracy_over(BY_NAME),
        depth.recursion_depth,
        sweep.curves,
    ),
    "exp04a": (
        data.smallest_for(_PUZZLES, 0.85),
        sweep.accuracy_over(_PUZZLES),
        sweep.neighbours(_PUZZLES),
        sweep.power_law(_PUZZLES),
        data.substitute,
        sweep.curves,
    ),
    "exp04b": (
        data.smallest_for(_VARIANTS, 0.85),
        sweep.accuracy_over(_VARIANTS),
        sweep.neighbours(_VARIANTS),
        sweep.power_law(_VARIANTS),
        data.substitute,
        sweep.curves,
    ),
    "exp05": (halting.inference_cost, halting.halting(halting.OVER_STEPS), _costs(halting.OVER_STEPS), sweep.curves),
    "exp06": (
        batch.critical_batch,
        sweep.accuracy_over(batch.OVER_BATCH),
        cost.figures("Throughput", m.SPEED, m.TIME, m.MEMORY, axis=batch.OVER_BATCH, name="costs"),
        sweep.curves,
    ),
    "exp07": (
        sweep.accuracy_over(BY_NAME),
        cost.figures("Speed and memory", m.SPEED, m.MEMORY, name="costs", ratio_to_first=True),
        training.stability,
        sweep.curves,
    ),
    "exp08": (sweep.accuracy_over(BY_NAME, pairs=True), training.averaging, sweep.curves),
    "exp09": (
        cost.levels_reached(m.epochs_to, 0.85),
        sweep.accuracy_over(BY_NAME),
        training.beta2_sensitivity,
        training.stability,
        sweep.curves,
    ),
    "exp10": (training.schedules, sweep.accuracy_over(BY_NAME), sweep.curves),
    "contrib01": (
        cost.levels_reached(m.epochs_to, 0.85, 0.87),
        sweep.accuracy_over(BY_NAME, m.TRAIN_FLOPS),
        cost.levels_reached(m.time_to, 0.85, 0.87),
        training.stability,
        sweep.curves,
    ),
    "contrib02": (
        halting.halting_at_equal_accuracy,
        halting.halting(),
        sweep.accuracy_over(BY_NAME),
        sweep.curves,
    ),
}


def analyses_of(kind: str) -> tuple[Analysis, ...]:
    return ANALYSES.get(kind, GENERAL)
