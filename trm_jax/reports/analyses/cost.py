"""What accuracy costs: time, speed, memory, compute; when a level is reached; Pareto fronts."""

from __future__ import annotations

from collections.abc import Callable

from trm_jax.reports.analyses.parts import (
    BY_NAME,
    SPREADS,
    Analysis,
    Axis,
    Column,
    arm_panel,
    arm_series,
    arm_table,
    axis_label,
    common_scale,
    expected,
    headed,
    measured,
    plotted,
    setting_columns,
    tested,
    ticks,
)
from trm_jax.reports.comparing import best, best_sentence, named, range_sentence
from trm_jax.reports.content import Panel, Section, Series
from trm_jax.reports.measures import EXACT, Measure
from trm_jax.reports.statistics import pareto_front
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import FRACTION, digits, listed

SPEED_NOTE = (
    "Speed, time and memory are of the program as it ran: they compare only between runs on the same device with "
    "nothing else on it. On a CPU memory is that of the whole process."
)


def figures(title: str, *measures: Measure, axis: Axis = BY_NAME, name: str, ratio_to_first: bool = False) -> Analysis:
    """Measures side by side, a panel each; `ratio_to_first` adds each mean over the first arm's."""

    def analyse(study: Study) -> Section:
        columns = setting_columns(study)
        for measure in measures:
            columns.append(measured(study.ran, measure))
            if not measure.computed:
                columns.append(tested(study, measure))
            if ratio_to_first:
                columns.append(_ratio(study, measure))
        columns += expected(study, "speed", "memory")
        sentence = " ".join(range_sentence(study.ran, measure) for measure in measures)
        panels = (arm_panel(study.ran, measure, axis) for measure in measures)
        plots = plotted(name, f"{title} of {study.name}", *panels)
        notes = (SPEED_NOTE,) if {"seconds", "examples_per_s", "peak_memory_bytes"} & {m.key for m in measures} else ()
        return Section(title, sentence, (arm_table(study.arms, columns),), plots, notes)

    return analyse


def _ratio(study: Study, measure: Measure) -> Column:
    """Means over that of the group's first arm, which may not have been run."""
    first = study.arms[0]
    base = first.spread(measure)

    def cell(arm: Arm) -> str:
        found = arm.spread(measure)
        return f"{found.mean / base.mean:.2f}" if found and base and base.mean else "not known"

    return Column(f"{measure.name}, times {first.name}'s", cell)


def best_figure(title: str, measure: Measure, *, name: str, axis: Axis = BY_NAME) -> Analysis:
    """One measure of which more is better."""

    def analyse(study: Study) -> Section:
        columns = [*setting_columns(study), measured(study.ran, measure), tested(study, measure)]
        plots = plotted(name, f"{title} of {study.name}", arm_panel(study.ran, measure, axis))
        table = arm_table(study.arms, columns)
        return Section(title, best_sentence(study.ran, measure), (table,), plots)

    return analyse


def levels_reached(until: Callable[[float], Measure], *guides: float, axis: Axis = BY_NAME) -> Analysis:
    """When each arm first reaches accuracies, by default those that the guide asks for."""

    def analyse(study: Study) -> Section:
        levels = study.levels or guides
        found = [until(level) for level in levels]
        what = found[0].name.rsplit(" to ", 1)[0]
        columns = [*setting_columns(study), *(_reached(study.ran, measure) for measure in found)]
        columns += expected(study, what)
        table = arm_table(study.arms, columns, f"{SPREADS} over the seeds that reached it")
        sentence = " ".join(_first_words(study.ran, until(level), level) for level in levels)
        scale = common_scale(study.ran, found[0])
        series = [
            line
            for number, (measure, level) in enumerate(zip(found, levels, strict=True))
            for line in arm_series(study.ran, measure, axis, scale, label=f"to {level:g}", color=number)
        ]
        title = f"{what.capitalize()} to an accuracy"
        panel = Panel(title, axis_label(study.ran, axis), headed(what, scale), tuple(series),
                      axis.scale, ticks=ticks(study.ran, axis))  # fmt: skip
        plots = plotted(f"{what}_to_levels", f"{what} to accuracies, {study.name}", panel)
        note = (
            "An accuracy is reached at the first evaluation that shows it or more, so these figures are as coarse as "
            f"the evaluations: at most {digits(max(len(run.evaluations) for run in study.runs))} in a run."
        )
        return Section(f"{what.capitalize()} to {listed([f'{level:g}' for level in levels])}", sentence, (table,),
                       plots, (note,))  # fmt: skip

    return analyse


def _reached(arms: list[Arm], measure: Measure) -> Column:
    scale = common_scale(arms, measure)

    def cell(arm: Arm) -> str:
        missed = len(arm.runs) - arm.having(measure)
        if missed == len(arm.runs):
            return "not reached"
        return scale.text(arm.spread(measure)) + (f", {missed} not reached" if missed else "")

    return Column(headed(measure.name, scale), cell)


def _first_words(arms: list[Arm], measure: Measure, level: float) -> str:
    """Of arms of which every seed got there: a mean over the lucky ones alone would flatter."""
    through = [arm for arm in arms if arm.complete(measure)]
    if not through:
        some = [arm.name for arm in arms if arm.values(measure)]
        return f"No arm reaches {level:g}" + (f" with every seed ({listed(some)} with some)." if some else ".")
    left = [arm.name for arm in arms if arm not in through]
    words = best_sentence(through, measure, higher=False)
    return f"{words} {listed(left)} did not reach {level:g} with every seed." if left else words


def pareto(*costs: tuple[Measure, bool]) -> Analysis:
    """Which arms no other one beats in accuracy and a cost; a cost comes with whether more of it is better."""

    def analyse(study: Study) -> Section:
        fronts = {measure.key: _front(study.ran, measure, more) for measure, more in costs}
        columns = [*setting_columns(study), measured(study.ran, EXACT)]
        for measure, _ in costs:
            columns.append(measured(study.ran, measure))
            front = fronts[measure.key]
            columns.append(
                Column(f"on the front of {measure.name}", lambda arm, front=front: _yes(front.get(arm.name)))
            )
        said = [
            f"against {measure.name}, {listed([n for n, on in fronts[measure.key].items() if on]) or 'not recorded'}"
            for measure, _ in costs
        ]
        panels = (_front_panel(study.ran, measure, fronts[measure.key]) for measure, _ in costs)
        plots = plotted("pareto", f"Accuracy against costs of {study.name}", *panels)
        winner = best(study.ran, EXACT)
        return Section(
            "Accuracy against cost",
            f"No other arm beats these in mean accuracy and cost: {'; '.join(said)}. The highest mean exact accuracy "
            f"is {named(winner)}'s, {FRACTION[0].text(winner.spread(EXACT))}.",
            (arm_table(study.arms, columns),),
            plots,
            (SPEED_NOTE, "Fronts are of means; whether two means differ is tested where accuracy is reported."),
        )

    return analyse


def _yes(on: bool | None) -> str:
    return "not known" if on is None else "yes" if on else "no"


def _front(arms: list[Arm], measure: Measure, more_is_better: bool) -> dict[str, bool]:
    known = [arm for arm in arms if arm.values(measure)]
    sign = -1 if more_is_better else 1
    points = [(sign * arm.spread(measure).mean, arm.spread(EXACT).mean) for arm in known]
    return {arm.name: on for arm, on in zip(known, pareto_front(points), strict=True)}


def _front_panel(arms: list[Arm], measure: Measure, front: dict[str, bool]) -> Panel:
    scale = common_scale(arms, measure)

    def points(label: str, on: bool, color: int) -> Series:
        chosen = sorted((arm for arm in arms if front.get(arm.name) is on), key=lambda arm: arm.spread(measure).mean)
        spreads = [arm.spread(EXACT) for arm in chosen]
        return Series(
            label,
            [arm.spread(measure).mean / scale.factor for arm in chosen],
            [found.mean for found in spreads],
            [found.deviation for found in spreads],
            names=[arm.name for arm in chosen],
            style="joined" if on else "points",
            color=color,
        )

    series = tuple(line for line in (points("on the front", True, 0), points("beaten", False, 1)) if len(line.x))
    return Panel(f"Accuracy against {measure.name}", headed(measure.name, scale), "exact accuracy", series)
