"""Sections that the pages of several groups have: each function makes one from a study."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from trm_jax.reports import measures as m
from trm_jax.reports import parts as p
from trm_jax.reports.content import Panel, Section, Series
from trm_jax.reports.measures import Measure
from trm_jax.reports.parts import BY_NAME, SPREADS, Axis, Column, arm_panel, arm_table, expected, measured, tested
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import digits, listed
from trm_jax.reports.words import best, best_sentence

SPEED_NOTE = (
    "Speed, time and memory are of the program as it ran: they compare only between runs on the same device with "
    "nothing else on it."
)


def general(study: Study) -> list[Section]:
    """What is said of any runs."""
    levels = [levels_reached(study, m.time_to)] if study.levels else []
    return [accuracy(study, BY_NAME, m.PARAMETERS, m.TRAIN_FLOPS), *levels, costs(study), curves(study)]


def accuracy(study: Study, axis: Axis = BY_NAME, *extra: Measure, optimum: bool = False) -> Section:
    """The score of record along an axis, with `extra` measures in the table.

    optimum: say whether the best arm lies inside the range.
    """
    score = study.score
    columns = [*measured(study, *extra, score), tested(study, score), *measured(study, m.STEPS)]
    columns += expected(study, "exact_accuracy")
    sentence = best_sentence(study.ran, score) + (_edge(study, axis) if optimum else "")
    shown = arm_panel(study, score, axis)
    title = f"{shown.title} over {axis.label}" if axis.label else shown.title
    return Section(title, sentence, arm_table(study, columns), "accuracy", (shown,))


def _edge(study: Study, axis: Axis) -> str:
    """Whether the best mean lies inside the range, where it can be an optimum."""
    places = list(p.positions(study.ran, axis))
    if len(places) < 3:
        return " Two arms show no optimum."
    if best(study.ran, study.score).name in (places[0], places[-1]):
        return f" It is at the edge of what was run, so the optimum in {axis.label} may lie beyond."
    return f" It lies inside the range of {axis.label} that was run."


def figures(
    study: Study, title: str, name: str, *measures: Measure, axis: Axis = BY_NAME, ratio: bool = False
) -> Section:
    """Measures side by side, a panel each. ratio: with each mean over the first arm's."""
    columns: list[Column] = []
    for measure in measures:
        columns += measured(study, measure)
        if not study.shared(measure):
            columns += [tested(study, measure), *([_ratio(study, measure)] if ratio else [])]
    columns += expected(study, "speed", "memory")
    sentence = " ".join(not_compared(study, one) or best_sentence(study.ran, one) for one in measures)
    panels = tuple(arm_panel(study, measure, axis) for measure in measures)
    return Section(title, sentence, arm_table(study, columns), name, panels, (SPEED_NOTE,))


def costs(study: Study, axis: Axis = BY_NAME) -> Section:
    return figures(study, "Time, speed and memory", "costs", m.TIME, m.SPEED, m.MEMORY, axis=axis)


def not_compared(study: Study, measure: Measure) -> str:
    """A sentence where arms do not compare in a measure, else nothing."""
    why = "on a CPU it is that of the whole process, compiler and data included"
    return f"Arms are not compared in {measure.name}: {why}." if study.shared(measure) else ""


def _ratio(study: Study, measure: Measure) -> Column:
    """Means over that of the group's first arm, which may not have been run."""
    first = study.arms[0]
    base = first.spread(measure)

    def cell(arm: Arm) -> str:
        return f"{arm.mean(measure) / base.mean:.2f}" if arm.values(measure) and base and base.mean else "not known"

    return Column(f"{measure.name}, times {first.name}'s", cell)


def levels_reached(study: Study, until: Callable[[float], Measure], axis: Axis = BY_NAME) -> Section:
    """When each arm first reaches the study's levels."""
    found = {f"{level:g}": until(level) for level in study.levels}
    what = until(0).name.rsplit(" to ", 1)[0]
    columns = [*(reached(study.ran, measure) for measure in found.values()), *expected(study, what)]
    title = f"{what.capitalize()} to {listed(found)}"
    lines = [p.Line(study.ran, measure, f"to {level}") for level, measure in found.items()]
    note = (
        "A score is reached at the first evaluation that shows it or a better one, so these figures are as coarse as "
        f"the evaluations: at most {digits(max(len(run.evaluations) for run in study.runs))} in a run."
    )
    return Section(
        title,
        " ".join(_first_words(study.ran, measure, level) for level, measure in found.items()),
        arm_table(study, columns, f"{SPREADS} over the seeds that reached it"),
        f"{what}_to_levels",
        (p.panel(title, axis, *lines, y_label=what),),
        (note,),
    )


def reached(arms: list[Arm], measure: Measure) -> Column:
    """What it took to reach a level, over the seeds that did."""
    scale = p.common_scale(arms, measure)

    def cell(arm: Arm) -> str:
        missed = len(arm.runs) - len(arm.values(measure))
        if missed == len(arm.runs):
            return "not reached"
        return scale.text(arm.spread(measure)) + (f", {missed} not reached" if missed else "")

    return Column(p.headed(measure.name, scale), cell)


def _first_words(arms: list[Arm], measure: Measure, level: str) -> str:
    """Of arms of which every seed got there: a mean over the lucky ones alone would flatter."""
    through = [arm for arm in arms if arm.complete(measure)]
    short = [f"{arm.name} ({len(arm.values(measure))} of {len(arm.runs)})" for arm in arms if arm not in through]
    rest = f" Not every seed reaches {level} in {listed(short)}." if short else ""
    return (best_sentence(through, measure) if through else f"No arm reaches {level} with every seed.") + rest


def stability(study: Study) -> Section:
    """Variance of the loss, gradient norms, skipped updates."""
    late = (m.LOSS_VARIANCE, m.GRAD_NORM)
    skipped = [m.SKIPPED] * any(arm.values(m.SKIPPED) for arm in study.ran)
    columns = measured(study, *late, m.MAX_GRAD_NORM, *skipped) + [tested(study, measure) for measure in late]
    panels = [arm_panel(study, measure) for measure in late]
    note = (
        "Late: the last fifth of a run's updates. Loss variance is that of its log lines around their straight line; a "
        "log line is a mean over the updates since the one before, so it compares runs with the same batch and log "
        "interval."
    )
    sentence = " ".join(best_sentence(study.ran, measure) for measure in late)
    title = "Loss variance and gradient norms"
    return Section(title, sentence, arm_table(study, columns), "stability", tuple(panels), (note,))


def curves(study: Study) -> Section:
    """Held-out scores while training, the mean over seeds of each arm."""
    over_epochs, series = all(run.epochs(1) for run in study.runs), []
    for number, arm in enumerate(study.ran):
        seen = [{record["step"]: record[study.score.key] for record in run.evaluations} for run in arm.runs]
        steps = sorted(set.intersection(*map(set, seen)))
        x = [arm.runs[0].epochs(step) for step in steps] if over_epochs else steps
        series.append(
            Series(arm.name, x, [fmean(run[step] for run in seen) for step in steps], style="joined", color=number)
        )
    title, what = f"Held-out {study.score.name} while training", f"{study.score.name}, mean of the seeds"
    panel = Panel(title, "epochs" if over_epochs else "updates", what, tuple(series))
    said = "The curves behind the figures; nothing above is taken from a curve's best point."
    return Section("While training", said, name="curves", panels=(panel,))


def where_time_went(study: Study) -> Section:
    """The share of each kind of time, over all starts of a run. Of runs without a count nothing is said."""
    table = arm_table(study, measured(study, *m.TIME_SPENT), f"{SPREADS}; shares of the time of all starts")
    counted = [run for run in study.runs if run.goodput]
    trained, *rest = ((fmean(map(share.of, counted)), share.name) for share in m.SHARES)
    share, name = max(rest)
    sentence = f"{trained[0]:.1%} of the time trained; most of the rest was {name}, {share:.1%}."
    return Section("Where the time went", sentence, table)
