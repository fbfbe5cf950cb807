"""Sections that the pages of several groups have: each function makes one from a study."""

from collections.abc import Iterable

import numpy as np

from trm_jax.reports import measures as m
from trm_jax.reports import parts as p
from trm_jax.reports.content import Panel, Section, Series, unanswered
from trm_jax.reports.equal import at_equal_cost
from trm_jax.reports.fits import CONFIDENCE, PowerFit, fit_power
from trm_jax.reports.measures import Measure
from trm_jax.reports.parts import (
    BY_NAME,
    SPEED_NOTE,
    SPREADS,
    Axis,
    Column,
    arm_panel,
    arm_table,
    expected,
    measured,
    tested,
)
from trm_jax.reports.statistics import added
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import digits, headed, listed
from trm_jax.reports.words import best, best_sentence

EVAL_NOTE = (
    "In evaluation every puzzle thinks for all its steps; a row's halt step is the first at which its q_halt is "
    "positive. Rows that never halt count at the last step."
)
LATE_NOTE = (
    "Late: the last fifth of a run's updates. Loss variance is that of its log lines around their straight line; a log "
    "line is a mean over the updates since the one before, so it compares runs with the same batch and log interval."
)
# A mean this close to the best, or to a fitted limit, counts as saturated.
SATURATED = 0.01
# What a section shows of what the guide expects, by the section's name.
EXPECTED = {"accuracy": ["exact_accuracy"], "costs": ["speed", "memory"], "halting": ["steps"]}
EXPECTED["inference"] = EXPECTED["accuracy"]


def general(study: Study) -> list[Section]:
    """What is said of any runs."""
    return [accuracy(study, BY_NAME, m.PARAMETERS, m.TRAIN_FLOPS), *at_equal_cost(study), costs(study)]


def accuracy(study: Study, axis: Axis = BY_NAME, *extra: Measure, optimum: bool = False) -> Section:
    """The score of record along an axis, with `extra` measures in the table.

    optimum: say whether the best arm lies inside the range.
    """
    title = study.score.name[:1].upper() + study.score.name[1:] + (f" over {axis.label}" if axis.label else "")
    part = figures(study, title, "accuracy", study.score, axis=axis, beside=(*extra, m.STEPS), notes=())
    return part._replace(sentence=part.sentence + _edge(study, axis)) if optimum else part


def _edge(study: Study, axis: Axis) -> str:
    """Whether the best mean lies inside the range, where it can be an optimum."""
    arms = p.placed(study.ran, axis)
    if best(study.ran, study.score) in arms[1:-1]:
        return f" It lies inside the range of {axis.label} that was run."
    return f" It is at the edge of what was run, so the optimum in {axis.label} may lie beyond."


def figures(
    study: Study,
    title: str,
    name: str,
    *measures: Measure,
    axis: Axis = BY_NAME,
    beside: Iterable[Measure] = (),
    ratio: bool = False,
    notes: tuple[str, ...] = (SPEED_NOTE,),
) -> Section:
    """Measures, tested, with a panel each; those `beside` stand in the table only. ratio: with each mean over the first
    arm's."""
    columns: list[Column] = []
    for measure in measures:
        columns += [*measured(study, measure), tested(study, measure), *[_ratio(study, measure)] * ratio]
    columns += [*measured(study, *beside), *expected(study, *EXPECTED.get(name, ()))]
    sentence = " ".join(best_sentence(study.ran, measure) for measure in measures)
    panels = tuple(arm_panel(study, measure, axis) for measure in measures)
    return Section(title, sentence, arm_table(study, columns), name, panels, notes)


def costs(study: Study, axis: Axis = BY_NAME, ratio: bool = False) -> Section:
    title, counted = "Time, speed and memory", [m.GOODPUT] * any(arm.values(m.GOODPUT) for arm in study.ran)
    return figures(study, title, "costs", m.TIME, m.SPEED, m.MEMORY, axis=axis, beside=counted, ratio=ratio)


def _ratio(study: Study, measure: Measure) -> Column:
    """Means over that of the group's first arm, which may not have been run."""
    base = study.arms[0].spread(measure)
    known = [arm for arm in study.ran if arm.values(measure) and base and base.mean]
    return f"{measure.name}, times {study.arms[0].name}'s", {
        a.name: f"{a.mean(measure) / base.mean:.2f}" for a in known
    }


def levels_reached(study: Study, what: str, axis: Axis = BY_NAME) -> Section:
    """When each arm first reaches the study's levels, in "time" or "epochs"."""
    found = {f"{level:g}": m.until(what, level) for level in study.levels}
    columns = [*(reached(study.ran, measure) for measure in found.values()), *expected(study, what)]
    table = arm_table(study, columns, f"{SPREADS} over the seeds that reached it")
    title = f"{what.capitalize()} to {listed(found)}"
    lines = [p.Line(study.ran, measure, f"to {level}") for level, measure in found.items()]
    panel = p.panel(title, axis, *lines, y_label=what)
    sentence = " ".join(_first_words(study.ran, measure, level) for level, measure in found.items())
    note = (
        "A score is reached at the first evaluation that shows it or a better one, so these figures are as coarse as "
        f"the evaluations: at most {digits(max(len(run.evaluations) for run in study.runs))} in a run."
    )
    return Section(title, sentence, table, f"{what}_to_levels", (panel,), (note,))


def reached(arms: list[Arm], measure: Measure) -> Column:
    """What it took to reach a level, over the seeds that did."""
    scale, cells = p.common_scale(arms, measure), {}
    for arm in arms:
        missed = len(arm.runs) - len(arm.values(measure))
        some = scale.text(arm.spread(measure)) + f", {missed} not reached" * bool(missed)
        cells[arm.name] = some if arm.values(measure) else "not reached"
    return headed(measure.name, scale), cells


def _first_words(arms: list[Arm], measure: Measure, level: str) -> str:
    """Of arms of which every seed got there: a mean over the lucky ones alone would flatter."""
    through = [arm for arm in arms if len(arm.values(measure)) == len(arm.runs)]
    short = [f"{arm.name} ({len(arm.values(measure))} of {len(arm.runs)})" for arm in arms if arm not in through]
    rest = f" Not every seed reaches {level} in {listed(short)}." if short else ""
    return (best_sentence(through, measure) if through else f"No arm reaches {level} with every seed.") + rest


def stability(study: Study) -> Section:
    """Variance of the loss, gradient norms, skipped updates."""
    skipped = [m.SKIPPED] * any(arm.values(m.SKIPPED) for arm in study.ran)
    title, late = "Loss variance and gradient norms", (m.LOSS_VARIANCE, m.GRAD_NORM)
    return figures(study, title, "stability", *late, beside=(m.MAX_GRAD_NORM, *skipped), notes=(LATE_NOTE,))


def fitted(study: Study, axis: Axis) -> PowerFit | str:
    """The fit to the scores of all runs along the axis, or why there is none."""
    points = [(axis.of(arm), value) for arm in p.placed(study.ran, axis) for value in arm.values(study.score)]
    return fit_power([x for x, _ in points], [y for _, y in points])


def power_law(study: Study, axis: Axis) -> Section:
    """How the score grows along an axis: the fit over all runs, where it saturates by it and as measured."""
    title, arms = f"How accuracy grows with {axis.label}", p.placed(study.ran, axis)
    if not arms:
        return unanswered(title, f"no run recorded its {axis.label}")
    fit, low, high = fitted(study, axis), axis.of(arms[0]), axis.of(arms[-1])
    panel = p.panel(study.score.name.capitalize(), axis, p.Line(study.ran, study.score, style="points"))
    as_measured = _as_measured(study, arms)
    if isinstance(fit, str):
        return Section(title, f"No fit of a - b x^-c: {fit}. {as_measured}", name="fit", panels=(panel,))
    label, style = ("a - b x^-c", "line") if fit.determined else ("a - b x^-c, not determined", "dashed")
    x = np.geomspace(low, high, 200)
    curve = Series(label, x, fit(x), style=style, color=1)
    found = zip("abc", fit, fit.half_widths, strict=False)
    parameters = ", ".join(f"{name} = {digits(value)} ± {digits(half)}" for name, value, half in found)
    runs = sum(len(arm.runs) for arm in arms)
    note = (
        f"{study.score.name} = a - b (x / x0)^-c, x: {axis.label}, x0 = {digits(fit.scale)} (their geometric mean): "
        f"{parameters}. The fit is of all {runs} runs, least squares; intervals are Wald's at {CONFIDENCE:.0%} with "
        f"Student's t of {runs - 3} degrees of freedom."
    )
    sentence = f"{_fit_words(fit, axis, low, high)} {as_measured}"
    return Section(title, sentence, None, "fit", (panel._replace(series=(*panel.series, curve)),), (note,))


def _fit_words(fit: PowerFit, axis: Axis, low: float, high: float) -> str:
    if not fit.determined:
        return "The intervals of the fit's b or c include 0: these runs do not determine how accuracy saturates."
    point = fit.reaches(SATURATED)
    where = f" (outside the {digits(low)} to {digits(high)} that were run)" if not low <= point <= high else ""
    return (
        f"The fit's limit is {fit.a:.4f} ± {fit.half_widths[0]:.4f} ({CONFIDENCE:.0%} confidence); the curve is within "
        f"{SATURATED:g} of it from {digits(point)} {axis.label} on{where}."
    )


def _as_measured(study: Study, arms: list[Arm]) -> str:
    """Where the means saturate. arms: in the order of their sizes."""
    winner = best(arms, study.score)
    top = winner.mean(study.score)
    smallest = next(arm for arm in arms if arm.mean(study.score) >= top - SATURATED)
    none = "; there is no smaller one, so no saturation is seen" if smallest is arms[-1] else ""
    return (
        f"As measured, {smallest.named} is the smallest within {SATURATED:g} of the best mean, {winner.name}'s "
        f"{top:.4f}{none}."
    )


def when_it_halts(study: Study, axis: Axis = BY_NAME) -> Section:
    """Mean, variance and distribution of the halt step after training."""
    told = m.HALT_VARIANCE, m.HALT_EARLY
    part = figures(study, "When it halts", "halting", m.EARLY_STEPS, axis=axis, beside=told, notes=(EVAL_NOTE,))
    evaluated = {arm.name: [run.final.get("halt_steps", []) for run in arm.runs] for arm in study.ran}
    panels = (*part.panels, distribution("Where held-out puzzles would halt", evaluated))
    return part._replace(sentence=f"{early_words(study)} {part.sentence}", panels=panels)


def distribution(title: str, counts: dict[str, Iterable[list[float]]]) -> Panel:
    """counts: how many sequences halted at step 1, 2, ... in each run of an arm, by the arm's name."""
    series = []
    for number, (name, rows) in enumerate(counts.items()):
        found = added(rows)
        if total := sum(found):
            shares = [count / total for count in found]
            series.append(Series(name, range(1, len(found) + 1), shares, style="joined", color=number))
    return Panel(title, "supervision step", "share", tuple(series))


def early_words(study: Study) -> str:
    """Whether puzzles would halt before the last step, of arms that have more than one."""
    shares = sorted((arm.mean(m.HALT_EARLY), arm.name) for arm in study.ran if arm.values(m.HALT_EARLY))
    if not shares:
        return "The runs recorded no halt steps."
    (least, low), (most, high) = shares[0], shares[-1]
    answer = "Whether it halts early depends on the arm"
    if least > 0.5 or most < 0.5:
        answer = "It halts early" if least > 0.5 else "It mostly does not halt early"
    return f"{answer}: {least:.1%} ({low}) to {most:.1%} ({high}) of held-out puzzles would halt before the last step."


def curves(study: Study) -> Section:
    """Held-out scores while training, the mean over seeds of each arm."""
    over = "epochs" if all("groups" in run.facts for run in study.runs) else "updates"
    panel = p.score_while_training(study, f"Held-out {study.score.name} while training", over)
    said = "The curves behind the figures; nothing above is taken from a curve's best point."
    return Section("While training", said, name="curves", panels=(panel,))
