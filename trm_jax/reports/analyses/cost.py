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
    not_compared,
    plotted,
    setting_columns,
    short_names,
    tested,
    ticks,
    titled,
)
from trm_jax.reports.comparing import best, best_sentence, named, range_sentence
from trm_jax.reports.content import Panel, Section, Series
from trm_jax.reports.measures import EXACT, Measure, compute_to
from trm_jax.reports.statistics import pareto_front
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import FRACTION, digits, listed, scale_for

SPEED_NOTE = (
    "Speed, time and memory are of the program as it ran: they compare only between runs on the same device with "
    "nothing else on it."
)


def figures(title: str, *measures: Measure, axis: Axis = BY_NAME, name: str, ratio_to_first: bool = False) -> Analysis:
    """Measures side by side, a panel each; `ratio_to_first` adds each mean over the first arm's."""

    def analyse(study: Study) -> Section:
        columns = setting_columns(study)
        compared = [measure for measure in measures if not study.shared(measure)]
        for measure in measures:
            columns.append(measured(study.ran, measure))
            if measure in compared and not measure.computed:
                columns.append(tested(study, measure))
            if measure in compared and ratio_to_first:
                columns.append(_ratio(study, measure))
        columns += expected(study, "speed", "memory")
        sentences = [*(range_sentence(study.ran, measure) for measure in compared), not_compared(study, measures)]
        panels = (arm_panel(study.ran, measure, axis) for measure in measures)
        plots = plotted(name, f"{title} of {study.name}", *panels)
        notes = (SPEED_NOTE,) if compared and any(measure.clocked for measure in compared) else ()
        return Section(title, _joined(*sentences), (arm_table(study.arms, columns),), plots, notes)

    return analyse


def _joined(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _ratio(study: Study, measure: Measure) -> Column:
    """Means over that of the group's first arm, which may not have been run."""
    first = study.arms[0]
    base = first.spread(measure)

    def cell(arm: Arm) -> str:
        found = arm.spread(measure)
        return f"{found.mean / base.mean:.2f}" if found and base and base.mean else "not known"

    return Column(f"{measure.name}, times {first.name}'s", cell)


def best_figure(title: str, measure: Measure, instead: Measure, *, name: str, axis: Axis = BY_NAME) -> Analysis:
    """One measure of which more is better, and the one that says the same by counting where the clock is shared."""

    def analyse(study: Study) -> Section:
        used = instead if study.shared(measure) else measure
        columns = [*setting_columns(study), *(measured(study.ran, one) for one in (measure, instead))]
        columns.append(tested(study, used))
        plots = plotted(name, f"{title} of {study.name}", arm_panel(study.ran, used, axis))
        sentence = _joined(not_compared(study, [measure]), best_sentence(study.ran, used))
        return Section(title, sentence, (arm_table(study.arms, columns),), plots)

    return analyse


def levels_reached(until: Callable[[float], Measure], *guides: float, axis: Axis = BY_NAME) -> Analysis:
    """When each arm first reaches accuracies, by default those that the guide asks for.

    Where the clock is not an arm's own, the compute until then says which gets there first.
    """

    def analyse(study: Study) -> Section:
        levels = study.levels or guides
        found = [until(level) for level in levels]
        counted = [compute_to(level) for level in levels] if study.shared(found[0]) else []
        what = found[0].name.rsplit(" to ", 1)[0]
        columns = [*setting_columns(study), *(_reached(study.ran, measure) for measure in (*found, *counted))]
        columns += expected(study, what)
        table = arm_table(study.arms, columns, f"{SPREADS} over the seeds that reached it")
        pairs = zip(counted or found, levels, strict=True)
        sentence = _joined(
            not_compared(study, found[:1]).replace(found[0].name, what),
            *(_first_words(study.ran, measure, level) for measure, level in pairs),
        )
        scale = common_scale(study.ran, (counted or found)[0])
        series = [
            line
            for number, (measure, level) in enumerate(zip(counted or found, levels, strict=True))
            for line in arm_series(study.ran, measure, axis, scale, label=f"to {level:g}", color=number)
        ]
        shown = (counted or found)[0].name.rsplit(" to ", 1)[0]
        panel = Panel(f"{shown.capitalize()} to an accuracy", axis_label(study.ran, axis), headed(shown, scale),
                      tuple(series), axis.scale, ticks=ticks(study.ran, axis))  # fmt: skip
        plots = plotted(f"{what}_to_levels", f"{shown.capitalize()} to accuracies, {study.name}", panel)
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
    some = [arm.name for arm in arms if arm not in through and arm.values(measure)]
    none = [arm.name for arm in arms if not arm.values(measure)]
    if not through:
        return f"No arm reaches {level:g}" + (f" with every seed ({listed(some)} with some)." if some else ".")
    missed = [f"with some seeds only by {listed(some)}"] * bool(some) + [f"with none by {listed(none)}"] * bool(none)
    rest = f"{level:g} is reached {', '.join(missed)}." if missed else ""
    if len(through) > 1 or len(arms) == 1:
        return _joined(best_sentence(through, measure, higher=False), rest)
    found = through[0].spread(measure)
    value = scale_for(measure.unit, [found.mean]).with_unit(found)
    return _joined(f"Only {named(through[0])} reaches {level:g} with every seed, after {value}.", rest)


def pareto(*costs: tuple[Measure, bool]) -> Analysis:
    """Which arms no other one beats in accuracy and a cost; a cost comes with whether more of it is better.

    Costs in which arms do not compare stand in the table alone.
    """

    def analyse(study: Study) -> Section:
        compared = [(measure, more) for measure, more in costs if not study.shared(measure)]
        fronts = {measure.key: _front(study.ran, measure, more) for measure, more in compared}
        columns = [*setting_columns(study), measured(study.ran, EXACT)]
        for measure, _ in costs:
            columns.append(measured(study.ran, measure))
            if measure.key in fronts:
                front = fronts[measure.key]
                columns.append(
                    Column(f"on the front of {measure.name}", lambda arm, front=front: _yes(front.get(arm.name)))
                )
        said = [
            f"against {measure.name}, {listed([n for n, on in fronts[measure.key].items() if on]) or 'not recorded'}"
            for measure, _ in compared
        ]
        panels = (_front_panel(study.ran, measure, fronts[measure.key]) for measure, _ in compared)
        plots = plotted("pareto", f"Accuracy against costs of {study.name}", *panels)
        winner = best(study.ran, EXACT)
        sentence = _joined(
            f"No other arm beats these in mean accuracy and cost: {'; '.join(said)}. The highest mean exact accuracy "
            f"is {named(winner)}'s, {FRACTION[0].text(winner.spread(EXACT))}.",
            not_compared(study, [measure for measure, _ in costs]),
        )
        notes = ["Compute is counted from the settings: matrix products of the updates, whatever they ran on."]
        notes += [SPEED_NOTE] if any(measure.clocked for measure, _ in compared) else []
        notes.append("Fronts are of means; whether two means differ is tested where accuracy is reported.")
        return Section("Accuracy against cost", sentence, (arm_table(study.arms, columns),), plots, tuple(notes))

    return analyse


def _yes(on: bool | None) -> str:
    return "not known" if on is None else "yes" if on else "no"


def _front(arms: list[Arm], measure: Measure, more_is_better: bool) -> dict[str, bool]:
    known = [arm for arm in arms if arm.values(measure)]
    sign = -1 if more_is_better else 1
    points = [(sign * arm.spread(measure).mean, arm.spread(EXACT).mean) for arm in known]
    return {arm.name: on for arm, on in zip(known, pareto_front(points), strict=True)}


def _front_panel(arms: list[Arm], measure: Measure, front: dict[str, bool]) -> Panel:
    scale, names = common_scale(arms, measure), short_names(arms)

    def points(label: str, on: bool, color: int) -> Series:
        chosen = sorted((arm for arm in arms if front.get(arm.name) is on), key=lambda arm: arm.spread(measure).mean)
        spreads = [arm.spread(EXACT) for arm in chosen]
        return Series(
            label,
            [arm.spread(measure).mean / scale.factor for arm in chosen],
            [found.mean for found in spreads],
            [found.deviation for found in spreads],
            names=[names[arm.name] for arm in chosen],
            style="joined" if on else "points",
            color=color,
        )

    series = tuple(line for line in (points("on the front", True, 0), points("beaten", False, 1)) if len(line.x))
    title = titled(arms, f"accuracy against {measure.name}")
    return Panel(title, headed(measure.name, scale), "exact accuracy", series)
