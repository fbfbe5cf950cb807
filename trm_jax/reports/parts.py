"""What sections are made of: tables with a row for each arm, axes, points with their spread."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from trm_jax.reports.content import Panel, Series, Table
from trm_jax.reports.measures import COSTS, PARAMETERS, Measure, spent
from trm_jax.reports.statistics import TTest
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import Scale, compact, digits, headed, plain, scale_for, setting_name
from trm_jax.reports.words import Pair, pair_tests, verdict

SPEED_NOTE = (
    "Speed, time and memory are of the program as it ran: they compare only between runs on the same device with "
    "nothing else on it. Memory is that of accelerators; on a CPU it would be that of the whole process."
)
SPREADS = "mean ± standard deviation (n seeds)"
Column = tuple[str, Mapping[str, str]]  # of a table of arms: its header, its cells by the names of the arms


def arm_table(study: Study, columns: Iterable[Column], caption: str = SPREADS) -> Table:
    """A row for each arm, those that were not run among them, with what the group varies."""
    settings = [(setting_name(k), {a.name: plain(a.settings[k]) for a in study.arms}) for k in study.varied]
    heads, cells = zip(*settings, *columns, strict=True)
    empty = {arm.name: "not known" if arm.runs else "not run" for arm in study.arms}
    rows = ((arm.label, *(column.get(arm.name, empty[arm.name]) for column in cells)) for arm in study.arms)
    return Table(("experiment", *heads), tuple(rows), caption)


def common_scale(arms: Iterable[Arm], measure: Measure) -> Scale:
    return scale_for(measure.unit, [value for arm in arms for value in arm.values(measure)])


def measured(study: Study, *measures: Measure) -> list[Column]:
    """A column for each measure."""
    columns = []
    for measure in measures:
        scale = common_scale(study.ran, measure)
        cells = {arm.name: scale.text(arm.spread(measure), measure.computed) for arm in study.ran}
        columns.append((headed(measure.name, scale), cells))
    return columns


def tested(study: Study, measure: Measure) -> Column:
    """Each arm against the reference."""
    base, scale = study.reference, common_scale(study.ran, measure)
    others = [arm for arm in study.ran if arm is not base and arm.values(measure) and base.values(measure)]
    tests = pair_tests([(arm, base) for arm in others], measure)
    words = {arm.name: verdict(test, scale) for arm, test in zip(others, tests, strict=True)}
    return f"{measure.name} against {base.name} (Welch, Holm)", {**words, base.name: "reference"}


def pair_table(pairs: Sequence[Pair], heads: tuple[str, str], *measures: Measure) -> tuple[Table, list[TTest]]:
    """Pairs of arms side by side with the test of their difference in the first measure. heads: what the arms of a
    pair are."""
    tests, arms = pair_tests(pairs, measures[0]), [arm for pair in pairs for arm in pair]
    scales = [common_scale(arms, measure) for measure in measures]
    names = [headed(measure.name, scale) for measure, scale in zip(measures, scales, strict=True)]

    def cells(arm: Arm) -> list[str]:
        told = zip(measures, scales, strict=True)
        return [arm.named, *(scale.text(arm.spread(measure), measure.computed) for measure, scale in told)]

    rows = [
        (*cells(one), *cells(other), verdict(test, scales[0])) for (one, other), test in zip(pairs, tests, strict=True)
    ]
    columns = (heads[0], *names, heads[1], *names, "first less second (Welch, Holm)")
    return Table(columns, tuple(rows), SPREADS), tests


def expected(study: Study, *keys: str) -> list[Column]:
    """What the users' guide expects, which nobody measured; nothing for groups and runs that it does not speak of."""
    known = {key for arm in study.arms for key in arm.expects if not study.guide_problem}
    names = {key: f"the guide expects: {key.replace('_', ' ')} (unmeasured)" for key in keys if key in known}
    return [(name, {arm.name: digits(arm.expects[key]) for arm in study.arms}) for key, name in names.items()]


class Axis(NamedTuple):
    """What arms are plotted over; without `of`, their names in order. named: their names stand beside the points."""

    label: str = ""
    of: Callable[[Arm], float | None] | None = None
    scale: str = "linear"
    named: bool = False


def setting_axis(key: str, label: str = "", scale: str = "linear") -> Axis:
    """Over a setting; without a label, under its own name."""
    return Axis(label or setting_name(key).replace("_", " "), lambda arm: arm.settings[key], scale)


BY_NAME = Axis()
OVER_PARAMETERS = Axis("parameters", lambda arm: next(iter(arm.values(PARAMETERS)), None), "log")


def over_measure(study: Study, measure: Measure) -> Axis:
    """An axis of the arms' means."""
    scale = common_scale(study.ran, measure)
    of = lambda arm: arm.mean(measure) / scale.factor if arm.values(measure) else None  # noqa: E731
    return Axis(headed(measure.name, scale), of, named=True)


def placed(arms: Sequence[Arm], axis: Axis) -> list[Arm]:
    """The arms that have a place on the axis, in its order."""
    if axis.of is None:
        return list(arms)
    found = [(axis.of(arm), arm) for arm in arms]
    known = [(x, arm) for x, arm in found if x is not None and (x > 0 or axis.scale == "linear")]
    return [arm for _, arm in sorted(known, key=lambda pair: pair[0])]


class Line(NamedTuple):
    """A measure of arms, joined along an axis unless `style` says how; without a label, under the measure's name."""

    arms: Sequence[Arm]
    measure: Measure
    label: str = ""
    style: str = ""


def panel(title: str, axis: Axis, *lines: Line, y_label: str = "") -> Panel:
    """Means with standard deviations; the first line's measure gives the unit."""
    arms = placed(list({arm.name: arm for line in lines for arm in line.arms}.values()), axis)
    places = {arm.name: axis.of(arm) if axis.of else number for number, arm in enumerate(arms)}
    values = [value for line in lines for arm in line.arms for value in arm.values(line.measure)]
    scale, series = scale_for(lines[0].measure.unit, values), []
    for color, line in enumerate(lines):
        known = [arm for arm in arms if arm in line.arms and arm.values(line.measure)]
        x, spreads = [places[arm.name] for arm in known], [arm.spread(line.measure) for arm in known]
        y = [found.mean / scale.factor for found in spreads]
        error = [None if found.deviation is None else found.deviation / scale.factor for found in spreads]
        names, style = [arm.name for arm in known if axis.named], line.style or ("joined" if axis.of else "points")
        series += [Series(line.label or line.measure.name, x, y, error, names, style, color)] * bool(known)
    ticks = dict.fromkeys((x, compact(x) if axis.of else name) for name, x in places.items() if not axis.named)
    x_label = axis.label or ", ".join(setting_name(key) for key in lines[0].arms[0].varied[:2])
    y_label = headed(y_label or lines[0].measure.name, scale)
    return Panel(title, x_label, y_label, tuple(series), axis.scale, ticks=tuple(ticks))


def arm_panel(study: Study, measure: Measure, axis: Axis = BY_NAME) -> Panel:
    """One measure of all arms along an axis."""
    return panel(measure.name[:1].upper() + measure.name[1:], axis, Line(study.ran, measure))


def score_while_training(study: Study, title: str, over: str) -> Panel:
    """Held-out scores over one of the COSTS, the mean over seeds of each arm whose runs recorded it."""
    unit, of = COSTS[over]
    known = [arm for arm in study.ran if len(arm.values(spent(over))) == len(arm.runs)]
    scale, series = common_scale(known, spent(over)), []
    for number, arm in enumerate(study.ran):
        seen = [{record["step"]: (run, record) for record in run.evaluations} for run in arm.runs if arm in known]
        steps = sorted(set.intersection(*map(set, seen))) if seen else []
        x = [fmean(of(*run[step]) for run in seen) / scale.factor for step in steps]
        y = [fmean(run[step][1][study.score.key] for run in seen) for step in steps]
        series += [Series(arm.name, x, y, style="joined", color=number)] * bool(steps)
    return Panel(title, headed(over, scale), f"{study.score.name}, mean of the seeds", tuple(series))
