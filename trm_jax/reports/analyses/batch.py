"""The batch: up to which size do fewer updates do, and where does that end?"""

from __future__ import annotations

import numpy as np

from trm_jax.reports.analyses.parts import SPREADS, Column, arm_series, arm_table, plotted, setting_axis
from trm_jax.reports.comparing import best
from trm_jax.reports.content import Panel, Section, Series
from trm_jax.reports.fits import CONFIDENCE, BatchFit, fit_batch
from trm_jax.reports.measures import EXACT, steps_to
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import STEPS, digits

OVER_BATCH = setting_axis("train.batch_size", "batch size", "log2")
GUIDE_LEVEL = 0.85
# In the linear regime twice the batch takes half the updates; evaluations are coarse, so a quarter more is allowed.
LINEAR = 0.8
# A batch still does when its mean is within this of the best.
TOLERATED = 0.01


def critical_batch(study: Study) -> Section:
    """Updates to a level over the batch: linear regime, fitted critical batch, the largest that keeps accuracy."""
    level = (study.levels or (GUIDE_LEVEL,))[0]
    measure = steps_to(level)
    title = f"Critical batch: updates to {level:g}"
    through = sorted(
        (arm for arm in study.ran if arm.complete(measure)),
        key=lambda arm: arm.settings["train.batch_size"],
    )
    efficiency = _efficiencies(through, measure)
    columns = [
        Column("batch size", lambda arm: digits(arm.settings["train.batch_size"]), always=True),
        Column(f"updates to {level:g}", lambda arm: STEPS[0].text(arm.spread(measure)) if arm in through else
               f"reached by {arm.having(measure)} of {len(arm.runs)} seeds"),
        Column("examples, smallest batch's over this one's", lambda arm: f"{efficiency[arm.name]:.2f}"
               if arm.name in efficiency else ""),
    ]  # fmt: skip
    fit = fit_batch(
        [arm.settings["train.batch_size"] for arm in through for _ in arm.runs],
        [value for arm in through for value in arm.values(measure)],
    )
    series = arm_series(through, measure, OVER_BATCH, STEPS[0], label=f"updates to {level:g}")
    if len(through) > 1:
        batches = [float(arm.settings["train.batch_size"]) for arm in through]
        grid = np.geomspace(batches[0], batches[-1], 100)
        first = through[0].spread(measure).mean * batches[0]
        series.append(Series("half as many for twice the batch", grid, first / grid, style="dashed", color=2))
        if not isinstance(fit, str):
            label = "fit" if fit.determined else "fit, not determined"
            series.append(Series(label, grid, fit(grid), style="line", color=1))
    panel = Panel("Updates over batch", OVER_BATCH.label, "updates", tuple(series), "log2", "log")
    plots = plotted("critical", f"Updates to {level:g} over the batch of {study.name}", panel)
    notes = (
        f"Linear regime: batches that need at most {1 / LINEAR:g} times the examples of the smallest. Critical batch: "
        "the B of updates = S (1 + B / batch), fitted to all runs of arms that reach the level with every seed "
        "(McCandlish et al., 2018), least squares of relative errors; its interval is Fieller's at "
        f"{CONFIDENCE:.0%} with Student's t. The learning rate grows with the root of the batch here, and evaluations "
        "are coarse, so both are estimates.",
    )
    return Section(title, f"{_regime_words(through, efficiency, level)} {_fit_words(fit)} {_accuracy_words(study)}",
                   (arm_table(study.arms, columns, SPREADS),), plots, notes)  # fmt: skip


def _efficiencies(through: list[Arm], measure) -> dict[str, float]:
    """Examples that the smallest batch takes over those that each batch takes, by the arm's name."""
    examples = {arm.name: arm.spread(measure).mean * arm.settings["train.batch_size"] for arm in through}
    return {name: examples[through[0].name] / count for name, count in examples.items()}


def _regime_words(through: list[Arm], efficiency: dict[str, float], level: float) -> str:
    if len(through) < 2:
        return f"Not answered: {len(through)} of the batch sizes reach {level:g} with every seed, and it takes two."
    last = through[0]
    for arm in through[1:]:
        if efficiency[arm.name] < LINEAR:
            break
        last = arm
    if last is through[0]:
        return f"No larger batch than {digits(last.settings['train.batch_size'])} is in the linear regime."
    size = digits(last.settings["train.batch_size"])
    return f"The linear regime goes up to batch {size}, of those that reach {level:g}."


def _fit_words(fit: BatchFit | str) -> str:
    if isinstance(fit, str):
        return f"No critical batch was fitted: {fit}."
    low, high = fit.interval
    basis = f"{CONFIDENCE:.0%} confidence, n = {fit.points} runs, {fit.freedom} degrees of freedom"
    if fit.determined:
        return (
            f"The fitted critical batch is {digits(round(fit.critical))}, between {digits(round(low))} and "
            f"{digits(round(high))} ({basis})."
        )
    if low > 0:
        bounds = f"anything from {digits(round(low))} up"
    else:
        bounds = f"anything up to {digits(round(high))}" if high < float("inf") else "any size"
    return (
        f"These runs do not determine the critical batch: {bounds} agrees with them ({basis}; the best fit is "
        f"{digits(round(fit.critical))})."
    )


def _accuracy_words(study: Study) -> str:
    top = best(study.ran, EXACT).spread(EXACT).mean
    close = [arm for arm in study.ran if arm.spread(EXACT).mean >= top - TOLERATED]
    largest = max(close, key=lambda arm: arm.settings["train.batch_size"])
    return (
        f"The largest batch whose mean accuracy is within {TOLERATED:g} of the best is "
        f"{digits(largest.settings['train.batch_size'])} ({largest.name})."
    )
