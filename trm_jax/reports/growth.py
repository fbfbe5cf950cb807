"""How a score grows along an axis: the fit a - b x^-c over all runs, and where it saturates."""

from __future__ import annotations

from dataclasses import replace

from trm_jax.reports.content import Section, Series, Table
from trm_jax.reports.fits import CONFIDENCE, PowerFit, fit_power, grid
from trm_jax.reports.parts import Axis, arm_panel, placed
from trm_jax.reports.study import Study
from trm_jax.reports.units import digits
from trm_jax.reports.words import best

# A mean this close to the best, or to a fitted limit, counts as saturated.
SATURATED = 0.01


def fitted(study: Study, axis: Axis) -> tuple[list[float], PowerFit | str]:
    """The place of each run on the axis, and the fit to their scores or why there is none."""
    points = [(axis.of(arm), value) for arm in placed(study.ran, axis) for value in arm.values(study.score)]
    x = [x for x, _ in points]
    return x, fit_power(x, [y for _, y in points])


def power_law(study: Study, axis: Axis) -> Section:
    """The fit over all runs, and where the score saturates by it and as measured."""
    title = f"How accuracy grows with {axis.label}"
    if not placed(study.ran, axis):
        return Section(title, f"Not answered: no run recorded its {axis.label}.")
    x, fit = fitted(study, axis)
    panel = arm_panel(study, study.score, axis)
    points = tuple(replace(one, style="points") if one.style == "joined" else one for one in panel.series)
    if isinstance(fit, str):
        sentence = f"No fit of a - b x^-c: {fit}. {_as_measured(study, axis)}"
        return Section(title, sentence, name="fit", panels=(replace(panel, series=points),))
    x_curve = grid(min(x), max(x))
    label, style = ("a - b x^-c", "line") if fit.determined else ("a - b x^-c, not determined", "dashed")
    curve = Series(label, x_curve, fit(x_curve), style=style, color=1)
    found = zip("abc", fit, fit.half_widths, strict=False)
    table = Table(
        ("parameter", "estimate", f"{CONFIDENCE:.0%} confidence interval"),
        tuple((name, digits(value), f"± {digits(half)}") for name, value, half in found),
        f"{study.score.name} = a - b (x / x0)^-c, x: {axis.label}, x0 = {digits(fit.scale)} (their geometric mean)",
    )
    note = (
        f"The fit is of all {len(x)} runs, least squares; intervals are Wald's at {CONFIDENCE:.0%} with Student's t of "
        f"{len(x) - 3} degrees of freedom."
    )
    sentence = f"{_fit_words(fit, axis, min(x), max(x))} {_as_measured(study, axis)}"
    return Section(title, sentence, table, "fit", (replace(panel, series=(*points, curve)),), (note,))


def _fit_words(fit: PowerFit, axis: Axis, low: float, high: float) -> str:
    if not fit.determined:
        return "The intervals of the fit's b or c include 0: these runs do not determine how accuracy saturates."
    point = fit.reaches(SATURATED)
    where = f" (outside the {digits(low)} to {digits(high)} that were run)" if not low <= point <= high else ""
    return (
        f"The fit's limit is {fit.a:.4f} ± {fit.half_widths[0]:.4f} ({CONFIDENCE:.0%} confidence); the curve is within "
        f"{SATURATED:g} of it from {digits(point)} {axis.label} on{where}."
    )


def _as_measured(study: Study, axis: Axis) -> str:
    arms = placed(study.ran, axis)
    if len(arms) < 2:
        return "One size alone does not show a saturation point."
    winner = best(arms, study.score)
    top = winner.mean(study.score)
    smallest = next(arm for arm in arms if arm.mean(study.score) >= top - SATURATED)
    if smallest is arms[-1]:
        return (
            f"No saturation as measured: the largest, {smallest.named}, has the best mean, {top:.4f}, and no smaller "
            f"one is within {SATURATED:g} of it."
        )
    if smallest is winner:
        return f"Saturation point as measured: {smallest.named} has the best mean itself, {top:.4f}."
    return (
        f"Saturation point as measured: {smallest.named} is the smallest within {SATURATED:g} of the best mean, "
        f"{winner.name}'s {top:.4f}."
    )
