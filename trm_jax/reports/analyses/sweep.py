"""Accuracy along what a group varies: means, the best arm, a fit, the curves of training."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from trm_jax.reports.analyses.parts import (
    SATURATED,
    SPREADS,
    Analysis,
    Axis,
    Column,
    arm_panel,
    arm_series,
    arm_table,
    by_pairs,
    expected,
    measured,
    paired_column,
    paired_name,
    placed,
    plotted,
    positions,
    setting_columns,
    tested,
    with_series,
)
from trm_jax.reports.comparing import best, best_sentence, contrasts, named, tested_words, verdict
from trm_jax.reports.content import Panel, Plot, Section, Series, Table
from trm_jax.reports.fits import CONFIDENCE, PowerFit, fit_power
from trm_jax.reports.measures import EXACT, STEPS, Measure
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import EPOCHS, FRACTION, digits, listed

PAIRS_NOTE = (
    "runs of one seed share their first weights and the order of their data, which drop out of their difference; "
    "intervals are of one difference each, p values are adjusted"
)


def accuracy_over(axis: Axis, *extra: Measure, optimum: bool = False, pairs: bool = False) -> Analysis:
    """The accuracy of record along an axis, with `extra` measures in the table.

    optimum: say whether the best arm lies inside the range. pairs: test arms against the reference seed by seed too,
    for arms that share all that a seed decides.
    """

    def analyse(study: Study) -> Section:
        columns = [
            *setting_columns(study),
            *(measured(study.ran, measure) for measure in extra),
            measured(study.ran, EXACT),
            tested(study),
            *([paired_column(study)] if pairs else []),
            measured(study.ran, STEPS),
            *expected(study, "exact_accuracy"),
        ]
        word = f" over {axis.label}" if axis.label else ""
        sentence = best_sentence(study.ran, EXACT)
        if optimum:
            sentence += _edge(study, axis)
        if pairs:
            sentence += _paired_words(study)
        plots = plotted("accuracy", f"Exact accuracy{word} of {study.name}", arm_panel(study.ran, EXACT, axis))
        caption = f"{SPREADS}; {PAIRS_NOTE}" if pairs else SPREADS
        return Section(f"Exact accuracy{word}", sentence, (arm_table(study.arms, columns, caption),), plots)

    return analyse


def _paired_words(study: Study) -> str:
    found = by_pairs(study)
    number = sum(test.p is not None for test in found.values())
    if not number:
        return " No pairs of one seed can be tested: that takes two seeds that both arms have."
    words = tested_words(found, f"a test by pairs of one seed ({paired_name(number)})")
    return f" Against {study.reference.name} {words}."


def _edge(study: Study, axis: Axis) -> str:
    """Whether the best mean lies inside the range, where it can be an optimum."""
    places = sorted(positions(study.ran, axis).items(), key=lambda item: item[1])
    if len(places) < 3:
        return " Two arms show no optimum."
    winner = best(study.ran, EXACT).name
    if winner in (places[0][0], places[-1][0]):
        return f" It is at the edge of what was run, so the optimum in {axis.label} may lie beyond."
    return f" It lies inside the range of {axis.label} that was run."


def power_law(axis: Axis) -> Analysis:
    """The fit a - b x^-c over all runs, and where accuracy saturates."""

    def analyse(study: Study) -> Section:
        arms = placed(study.ran, axis)
        x = [axis.of(arm) for arm in arms for _ in arm.values(EXACT)]
        fit = fit_power(x, [value for arm in arms for value in arm.values(EXACT)])
        title = f"How accuracy grows with {axis.label}"
        if not arms:
            return Section(title, f"Not answered: no run recorded its {axis.label}.")
        measured_words = _measured_saturation(arms, axis)
        points = tuple(arm_series(arms, EXACT, axis, FRACTION[0], style="points"))
        panel = replace(arm_panel(arms, EXACT, axis), series=points)
        if isinstance(fit, str):
            plot = Plot("fit", f"Exact accuracy over {axis.label}", (panel,))
            return Section(title, f"No fit of a - b x^-c: {fit}. {measured_words}", plots=(plot,))
        low, high = min(x), max(x)
        grid = np.geomspace(low, high, 200)
        label = "a - b x^-c" if fit.determined else "a - b x^-c, not determined"
        curve = Series(
            label, grid, fit(grid), band=fit.band(grid), style="line" if fit.determined else "dashed", color=1
        )
        plot = Plot("fit", f"Exact accuracy over {axis.label} with the fit", (with_series(panel, curve),))
        return Section(
            title,
            f"{_fit_words(fit, axis, low, high)} {measured_words}",
            (_fit_table(fit, axis),),
            (plot,),
            (
                f"The fit is of all {len(x)} runs, least squares; intervals are Wald's at {CONFIDENCE:.0%} with "
                f"Student's t of {len(x) - 3} degrees of freedom. The shaded band is that of the curve, not of single "
                "runs.",
            ),
        )

    return analyse


def _measured_saturation(arms: list[Arm], axis: Axis) -> str:
    winner = best(arms, EXACT)
    if winner is None or len(arms) < 2:
        return "One size alone does not show a saturation point."
    top = winner.spread(EXACT).mean
    close = [arm for arm in arms if arm.spread(EXACT).mean >= top - SATURATED]
    smallest = min(close, key=axis.of)
    if smallest is max(arms, key=axis.of):
        return (
            f"No saturation as measured: the largest, {named(smallest)}, has the best mean, {top:.4f}, and no smaller "
            f"one is within {SATURATED:g} of it."
        )
    whose = (
        "has the best mean itself" if smallest is winner else f"is the smallest within {SATURATED:g} of the best mean"
    )
    best_is = f"{top:.4f}" if smallest is winner else f"{winner.name}'s {top:.4f}"
    return f"Saturation point as measured: {named(smallest)} {whose}, {best_is}."


def _fit_words(fit: PowerFit, axis: Axis, low: float, high: float) -> str:
    if not fit.determined:
        return "The intervals of the fit's b or c include 0: these runs do not determine how accuracy saturates."
    limit = f"The fit's limit is {fit.a:.4f} ± {fit.half_width('a'):.4f} ({CONFIDENCE:.0%} confidence)"
    point = fit.reaches(SATURATED)
    where = f" (outside the {digits(low)} to {digits(high)} that were run)" if not low <= point <= high else ""
    return f"{limit}; the curve is within {SATURATED:g} of it from {digits(point)} {axis.label} on{where}."


def _fit_table(fit: PowerFit, axis: Axis) -> Table:
    rows = tuple((name, digits(getattr(fit, name)), f"± {digits(fit.half_width(name))}") for name in "abc")
    where = f"accuracy = a - b (x / x0)^-c, x: {axis.label}, x0 = {digits(fit.scale)} (their geometric mean)"
    return Table(("parameter", "estimate", f"{CONFIDENCE:.0%} confidence interval"), rows, where)


def neighbours(axis: Axis) -> Analysis:
    """What each doubling along the axis gains, from arm to arm."""

    def analyse(study: Study) -> Section:
        title = f"What each doubling of {axis.label} gains"
        arms = placed(study.ran, axis)
        if len(arms) < 2:
            return Section(title, "Not answered: it takes two sizes that were run.")
        pairs = list(zip(arms, arms[1:], strict=False))
        found = contrasts([(after.values(EXACT), before.values(EXACT)) for before, after in pairs])
        doublings = [float(np.log2(axis.of(after) / axis.of(before))) for before, after in pairs]
        gains = [contrast.difference / count for contrast, count in zip(found, doublings, strict=True)]
        rows = tuple(
            (f"{before.name} to {after.name}", f"{digits(axis.of(before))} to {digits(axis.of(after))}",
             verdict(contrast, FRACTION[0]), FRACTION[0].signed(gain))
            for (before, after), contrast, gain in zip(pairs, found, gains, strict=True)
        )  # fmt: skip
        shown = [f"{after.name} over {before.name}" for (before, after), c in zip(pairs, found, strict=True) if c.shown]
        number = sum(contrast.p is not None for contrast in found)
        if not number:
            said = "no step can be tested: that needs two seeds an arm"
        else:
            gains_shown = f"a difference of {listed(shown)}" if shown else "no difference between neighbours"
            said = f"Welch's test (Holm over {number}) shows {gains_shown}"
        sentence = (
            f"A doubling of {axis.label} changes the mean accuracy by {FRACTION[0].signed(gains[0])} at the small end "
            f"and by {FRACTION[0].signed(gains[-1])} at the large end; {said}."
        )
        columns = ("step", axis.label, f"change of the mean (Welch, Holm over {number})", "a doubling")
        middles = [float(np.sqrt(axis.of(a) * axis.of(b))) for a, b in pairs]
        panel = Panel("Gain a doubling", axis.label, "change of exact accuracy",
                      (Series("gain", middles, gains, style="joined"),), "log", levels=((0.0, ""),))  # fmt: skip
        plot = Plot("gain", f"Gain of accuracy a doubling of {axis.label}", (panel,))
        return Section(title, sentence, (Table(columns, rows),), (plot,))

    return analyse


def curves(study: Study) -> Section:
    """Held-out accuracy while training, the mean over seeds of each arm."""
    series = []
    over_epochs = all(run.epochs(1) for run in study.runs)
    for number, arm in enumerate(study.ran):
        steps = sorted(set.intersection(*({r["step"] for r in run.evaluations} for run in arm.runs)))
        means = [
            np.mean([r["exact_accuracy"] for run in arm.runs for r in run.evaluations if r["step"] == step])
            for step in steps
        ]
        x = [arm.runs[0].epochs(step) for step in steps] if over_epochs else steps
        series.append(Series(arm.name, x, means, style="joined", color=number))
    label = EPOCHS[0].label if over_epochs else "updates"
    panel = Panel("Held-out exact accuracy while training", label, "exact accuracy, mean of the seeds", tuple(series))
    rows = [
        Column("evaluations a run", lambda arm: digits(len(arm.runs[0].evaluations))),
        Column("best on the way", lambda arm: f"{max(_best(run) for run in arm.runs):.4f}"),
    ]
    return Section(
        "While training",
        "The curves behind the figures; nothing above is taken from a curve's best point.",
        (arm_table(study.arms, rows, "best: the highest evaluation of any seed, for comparison only"),),
        (Plot("curves", f"Exact accuracy of {study.name} while training", (panel,)),),
    )


def _best(run) -> float:
    return max(record["exact_accuracy"] for record in run.evaluations)
