"""What the analyses share: tables with a row for each arm, points with their spread, axes."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from trm_jax.reports.comparing import against, paired_contrasts, paired_verdict, verdict
from trm_jax.reports.content import Panel, Plot, Section, Series, Table
from trm_jax.reports.measures import EXACT, PARAMETERS, Measure
from trm_jax.reports.statistics import PairedTest
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import Scale, compact, digits, listed, scale_for, setting_name, setting_value

Analysis = Callable[[Study], Section]

SPREADS = "mean ± standard deviation (n seeds)"
# What the guide has expectations of.
GUIDE_NAMES = {
    "exact_accuracy": "exact accuracy",
    "steps": "mean halt step",
    "epochs": "epochs to its accuracy",
    "speed": "relative speed",
    "memory": "relative memory",
}
# A mean this close to the best, or to a fitted limit, counts as saturated.
SATURATED = 0.01


class Column(NamedTuple):
    """A column of a table of arms; `always`: it can be told of arms that were not run."""

    header: str
    cell: Callable[[Arm], str]
    always: bool = False


def arm_table(arms: Sequence[Arm], columns: Sequence[Column], caption: str = SPREADS) -> Table:
    """A row for each arm, those that were not run among them."""
    rows = []
    for arm in arms:
        label = f"{arm.label} *" if arm.runs and arm.unfinished else arm.label
        rows.append((label, *(c.cell(arm) if arm.runs or c.always else "not run" for c in columns)))
    if any(arm.runs and arm.unfinished for arm in arms):
        caption += "; * has unfinished runs"
    return Table(("experiment", *(c.header for c in columns)), tuple(rows), caption)


def setting_columns(study: Study) -> list[Column]:
    """What the group varies."""
    return [
        Column(setting_name(key), lambda arm, key=key: setting_value(key, arm.settings[key]), always=True)
        for key in study.varied
    ]


def common_scale(arms: Sequence[Arm], measure: Measure) -> Scale:
    return scale_for(measure.unit, [value for arm in arms for value in arm.values(measure)])


def measured(arms: Sequence[Arm], measure: Measure) -> Column:
    scale = common_scale(arms, measure)

    def cell(arm: Arm) -> str:
        found = arm.spread(measure)
        if found and measure.computed and not found.deviation:
            return scale.number(found.mean)
        return scale.text(found)

    return Column(headed(measure.name, scale), cell)


def headed(name: str, scale: Scale) -> str:
    return f"{name} ({scale.label})" if scale.label and scale.label not in name.split() else name


def tested(study: Study, measure: Measure = EXACT) -> Column:
    """Each arm against the reference."""
    found = against(study.ran, measure, study.reference)
    number = sum(contrast.p is not None for contrast in found.values())
    test = "Welch" if number < 2 else f"Welch, Holm over {number}"
    scale = common_scale(study.ran, measure)

    def cell(arm: Arm) -> str:
        if arm.name == study.reference.name:
            return "reference"
        return verdict(found[arm.name], scale) if arm.name in found else "not known"

    return Column(f"{measure.name} against {study.reference.name} ({test})", cell)


def by_pairs(study: Study, measure: Measure = EXACT) -> dict[str, PairedTest]:
    """Each other arm against the reference, seed by seed, by the arm's name."""
    others = [arm for arm in study.ran if arm.name != study.reference.name]
    base = study.reference.by_seed(measure)
    pairs = {arm.name: arm.by_seed(measure) for arm in others if arm.by_seed(measure).keys() & base.keys()}
    found = paired_contrasts([(values, base) for values in pairs.values()])
    return dict(zip(pairs, found, strict=True))


def paired_column(study: Study, measure: Measure = EXACT) -> Column:
    found = by_pairs(study, measure)
    number = sum(test.p is not None for test in found.values())
    scale = common_scale(study.ran, measure)

    def cell(arm: Arm) -> str:
        if arm.name == study.reference.name:
            return "reference"
        return paired_verdict(found[arm.name], scale) if arm.name in found else "no seed in common"

    return Column(f"the same by pairs of one seed{interval_head(number)}", cell)


def interval_head(number: int) -> str:
    """What the cells of `paired_verdict` hold, where `number` of them hold a test."""
    return f": difference ± 95% interval ({paired_name(number)})" if number else ""


def paired_name(number: int) -> str:
    return f"paired t{f', Holm over {number}' if number > 1 else ''}"


def not_compared(study: Study, measures: Sequence[Measure]) -> str:
    """A sentence on those of the measures in which arms do not compare here, and why; empty without any."""
    reasons: dict[str, list[str]] = {}
    for measure in measures:
        if why := study.shared(measure):
            reasons.setdefault(why, []).append(measure.name)
    return " ".join(
        f"Arms are not compared in {listed(list(dict.fromkeys(names)))}: {why}." for why, names in reasons.items()
    )


def expected(study: Study, *keys: str) -> list[Column]:
    """What the users' guide expects, which nobody measured; nothing for groups and runs that it does not speak of."""
    known = [key for key in keys if not study.guide_problem and any(key in arm.expects for arm in study.arms)]
    return [
        Column(
            f"the guide expects: {GUIDE_NAMES[key]} (unmeasured)",
            lambda arm, key=key: digits(arm.expects[key]) if key in arm.expects else "",
            always=True,
        )
        for key in known
    ]


@dataclass(frozen=True)
class Axis:
    """What arms are plotted over; without `of`, their names in order."""

    label: str = ""
    of: Callable[[Arm], float | None] | None = None
    scale: str = "linear"


def setting_axis(key: str, label: str, scale: str = "linear") -> Axis:
    return Axis(label, lambda arm: float(arm.settings[key]), scale)


def _first_value(measure: Measure) -> Callable[[Arm], float | None]:
    return lambda arm: next(iter(arm.values(measure)), None)


BY_NAME = Axis()
OVER_PARAMETERS = Axis("parameters", _first_value(PARAMETERS), "log")


def positions(arms: Sequence[Arm], axis: Axis) -> dict[str, float]:
    """Where each arm stands on the axis, by its name; arms that have no place are left out."""
    if axis.of is None:
        return {arm.name: float(index) for index, arm in enumerate(arms)}
    found = {arm.name: axis.of(arm) for arm in arms}
    return {name: x for name, x in found.items() if x is not None and (x > 0 or axis.scale == "linear")}


def placed(arms: Sequence[Arm], axis: Axis) -> list[Arm]:
    """The arms that have a place on the axis, in its order."""
    places = positions(arms, axis)
    return sorted((arm for arm in arms if arm.name in places), key=lambda arm: places[arm.name])


def ticks(arms: Sequence[Arm], axis: Axis) -> tuple[tuple[float, str], ...]:
    """The places of the arms, where there are few enough to name them all."""
    if axis.of is None:
        names = short_names(arms)
        return tuple((float(index), _below(arm, names[arm.name])) for index, arm in enumerate(arms))
    return tuple((x, compact(x)) for x in sorted(set(positions(arms, axis).values())))


def short_names(arms: Sequence[Arm]) -> dict[str, str]:
    """What tells the arms' names apart, by the name: {"exp07a": "a", ...}; names that share nothing stay whole."""
    start = len(shared_start(arms))
    return {arm.name: arm.name[start:] for arm in arms}


def shared_start(arms: Sequence[Arm]) -> str:
    """The beginning that all names share, as 'exp07' or 'contrib01_'; empty where that is not a whole word."""
    start = os.path.commonprefix([arm.name for arm in arms]) if len(arms) > 1 else ""
    rests = [arm.name[len(start) :] for arm in arms]
    if re.search(r"\d$", start) and all(re.match(r"[a-zA-Z]", rest) for rest in rests):
        return start
    start = re.sub(r"[^_]*$", "", start)
    return start if all(len(arm.name) > len(start) for arm in arms) else ""


def titled(arms: Sequence[Arm], words: str) -> str:
    """The title of a panel in which the arms stand by their short names."""
    start = shared_start(arms).rstrip("_")
    return f"{start}: {words}" if start else words[:1].upper() + words[1:]


def _below(arm: Arm, name: str) -> str:
    """A name over what fits below an axis of the values that tell it from the others."""
    return "\n".join([name, *(setting_value(key, arm.settings[key]) for key in arm.varied[:2])])


def axis_label(arms: Sequence[Arm], axis: Axis) -> str:
    """The axis' own, or what the names begin with and the settings whose values stand below them."""
    settings = ", ".join(setting_name(key) for arm in arms[:1] for key in arm.varied[:2])
    return axis.label or ": ".join(filter(None, [shared_start(arms).rstrip("_"), settings]))


def arm_series(
    arms: Sequence[Arm], measure: Measure, axis: Axis, scale: Scale, *, label: str = "", color: int = 0, style: str = ""
) -> list[Series]:
    """Means with standard deviations, and each run as a dot; means along an axis are joined unless `style` says how."""
    places = positions(arms, axis)
    known = [arm for arm in placed(arms, axis) if arm.values(measure)]
    if not known:
        return []
    spreads = [arm.spread(measure) for arm in known]
    means = Series(
        label or measure.name,
        [places[arm.name] for arm in known],
        [found.mean / scale.factor for found in spreads],
        [None if found.deviation is None else found.deviation / scale.factor for found in spreads],
        style=style or ("points" if axis.of is None else "joined"),
        color=color,
    )
    runs = [(places[arm.name], value / scale.factor) for arm in known for value in arm.values(measure)]
    dots = Series("single runs", [x for x, _ in runs], [y for _, y in runs], style="dots", color=color)
    return [means, dots] if len(runs) > len(known) else [means]


def arm_panel(arms: Sequence[Arm], measure: Measure, axis: Axis, title: str = "", *, y_scale: str = "linear") -> Panel:
    """One measure of the arms along an axis."""
    scale = common_scale(arms, measure)
    return Panel(
        title or measure.name[:1].upper() + measure.name[1:],
        axis_label(arms, axis),
        headed(measure.name, scale),
        tuple(arm_series(arms, measure, axis, scale)),
        axis.scale,
        y_scale,
        ticks(arms, axis),
    )


def plotted(name: str, alt: str, *panels: Panel) -> tuple[Plot, ...]:
    """One plot of the panels that have something in them, or none."""
    full = tuple(panel for panel in panels if panel.series)
    return (Plot(name, alt, full),) if full else ()


def with_levels(panel: Panel, levels: Sequence[float]) -> Panel:
    return replace(panel, levels=tuple((level, f"{level:g}") for level in levels))


def with_series(panel: Panel, *series: Series) -> Panel:
    return replace(panel, series=(*panel.series, *series))
