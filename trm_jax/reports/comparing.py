"""Differences between arms: what a test lets one say, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

from trm_jax.reports.measures import STEPS, Measure
from trm_jax.reports.statistics import ALPHA, PairedTest, Spread, holm, paired, welch
from trm_jax.reports.study import Arm
from trm_jax.reports.units import FRACTION, Scale, listed, p_text, scale_for


class Contrast(NamedTuple):
    """One arm's mean less another's: `p` is adjusted for all that were tested together; None, and why."""

    difference: float
    p: float | None
    why: str = ""

    @property
    def shown(self) -> bool:
        return self.p is not None and self.p < ALPHA


def contrasts(pairs: Sequence[tuple[Sequence[float], Sequence[float]]]) -> list[Contrast]:
    """Welch's test of each pair (one, other), each with values, Holm's correction over those that can be tested."""
    tests = [welch(one, other) for one, other in pairs]
    adjusted = iter(holm([test.p for test in tests if test.p is not None]))
    return [
        Contrast(sum(one) / len(one) - sum(other) / len(other), None if test.p is None else next(adjusted), test.why)
        for (one, other), test in zip(pairs, tests, strict=True)
    ]


def against(arms: Sequence[Arm], measure: Measure, reference: Arm) -> dict[str, Contrast]:
    """Each other arm's contrast with the reference, by the arm's name; arms without the figure are left out."""
    base = reference.values(measure)
    others = [arm for arm in arms if arm.name != reference.name and arm.values(measure)] if base else []
    found = contrasts([(arm.values(measure), base) for arm in others])
    return {arm.name: contrast for arm, contrast in zip(others, found, strict=True)}


def between(arms: Sequence[Arm], measure: Measure, chosen: Arm) -> dict[str, Contrast]:
    """The chosen arm's contrast with each other one, by the other's name, adjusted over all pairs of the arms.

    For an arm that was chosen by its result: it was compared with all of them, whoever it turned out to be.
    """
    known = [arm for arm in arms if arm.values(measure)]
    pairs = list(combinations(known, 2))
    found = contrasts([(one.values(measure), other.values(measure)) for one, other in pairs])
    result = {}
    for (one, other), contrast in zip(pairs, found, strict=True):
        if one.name == chosen.name:
            result[other.name] = contrast
        elif other.name == chosen.name:
            result[one.name] = contrast._replace(difference=-contrast.difference)
    return result


def pairs_tested(arms: Sequence[Arm], measure: Measure) -> int:
    values = [arm.values(measure) for arm in arms if arm.values(measure)]
    return sum(welch(one, other).p is not None for one, other in combinations(values, 2))


def verdict(contrast: Contrast, scale: Scale) -> str:
    """'+0.0123, higher (p = 0.012)' and the like, for a table."""
    difference = scale.signed(contrast.difference)
    if contrast.p is None:
        return f"{difference}, {contrast.why}"
    return f"{difference}, {_finding(contrast)} ({p_text(contrast.p)})"


def paired_contrasts(pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]) -> list[PairedTest]:
    """Paired t-tests over the seeds that both of a pair (one, other), each {seed: value}, have.

    Their p values are adjusted by Holm's correction over those that can be tested; the intervals are not.
    """
    tests = []
    for one, other in pairs:
        seeds = sorted(one.keys() & other.keys())
        tests.append(paired([one[seed] for seed in seeds], [other[seed] for seed in seeds]))
    adjusted = iter(holm([test.p for test in tests if test.p is not None]))
    return [test if test.p is None else test._replace(p=next(adjusted)) for test in tests]


def paired_verdict(test: PairedTest, scale: Scale) -> str:
    """'+0.0123 ± 0.0100, higher (n = 3, p = 0.012)': with half the interval of the difference."""
    difference = scale.signed(test.difference)
    if test.half_width is None:
        return f"{difference}, {test.why}"
    return f"{difference} ± {scale.number(test.half_width)}, {_finding(test)} (n = {test.n}, {p_text(test.p)})"


def _finding(test: Contrast | PairedTest) -> str:
    return ("higher" if test.difference > 0 else "lower") if test.p < ALPHA else "no difference shown"


def best(arms: Sequence[Arm], measure: Measure, *, higher: bool = True) -> Arm | None:
    """The arm with the best mean, the first of equals."""
    known = [arm for arm in arms if arm.values(measure)]
    sign = 1 if higher else -1
    return max(known, key=lambda arm: sign * arm.spread(measure).mean, default=None)


def said(found: Spread, measure: Measure, scale: Scale) -> str:
    """A mean with its unit, where the figure's name does not hold it, and with its spread unless it was computed."""
    unit = "" if scale.label in measure.said.split() else scale.label
    if measure.computed and not found.deviation:
        return f"{scale.number(found.mean)} {unit}".rstrip()
    return scale._replace(label=unit).with_unit(found)


def named(arm: Arm) -> str:
    return f"{arm.name} ({arm.differs})" if arm.differs else arm.name


def best_sentence(arms: Sequence[Arm], measure: Measure, *, higher: bool = True) -> str:
    """Which arm's mean is best, and from which others the test tells it."""
    winner = best(arms, measure, higher=higher)
    if winner is None:
        return f"No run recorded its {measure.name}."
    found = winner.spread(measure)
    value = said(found, measure, scale_for(measure.unit, [found.mean]))
    others = between(arms, measure, winner)
    if not others:
        return f"The {measure.said} of {named(winner)} is {value}; there is no other arm to compare it with."
    equal = [name for name in others if next(a for a in arms if a.name == name).spread(measure).mean == found.mean]
    holds = f"and {listed(equal)} share" if equal else "has"
    head = f"{named(winner)} {holds} the {'highest' if higher else 'lowest'} {measure.said}, {value}"
    unequal = {name: contrast for name, contrast in others.items() if name not in equal}
    if measure.computed or not unequal:
        return f"{head}."
    words = tested_words(unequal, test_name(pairs_tested(arms, measure)), "lower" if higher else "higher")
    return f"{head}; {words}."


def tested_words(found: Mapping[str, Contrast | PairedTest], test: str, word: str = "") -> str:
    """What a test says of contrasts by the names of arms, as a clause; `word`: what those that it shows are."""
    tested = {name: contrast for name, contrast in found.items() if contrast.p is not None}
    if not tested:
        return "no difference is claimed, since a test needs at least two seeds, with some spread, in each arm"
    shown: dict[str, list[str]] = {}
    for name, contrast in tested.items():
        if contrast.p < ALPHA:
            direction = word or ("higher" if contrast.difference > 0 else "lower")
            shown.setdefault(direction, []).append(f"{name} ({p_text(contrast.p)})")
    hidden = [name for name, contrast in tested.items() if contrast.p >= ALPHA]
    parts = [f"{listed(names)} to be {direction}" for direction, names in shown.items()]
    parts += [f"no difference from {listed(hidden)}"] if hidden else []
    untested = [name for name in found if name not in tested]
    end = f"; {listed(untested)} cannot be tested" if untested else ""
    return f"{test} shows {', and '.join(parts)}{end}"


def test_name(pairs: int) -> str:
    return f"Welch's t-test (alpha {ALPHA}{f', Holm over all {pairs} pairs' if pairs > 1 else ''})"


def range_sentence(arms: Sequence[Arm], measure: Measure) -> str:
    """Where a figure's mean is lowest and where it is highest, with the test of these two."""
    known = [arm for arm in arms if arm.values(measure)]
    if not known:
        return f"No run recorded its {measure.name}."
    low, high = best(known, measure, higher=False), best(known, measure)
    spreads = [arm.spread(measure) for arm in (low, high)]
    scale = scale_for(measure.unit, [found.mean for found in spreads])
    if low is high or spreads[0].mean == spreads[1].mean:
        where = f"in {low.name}" if len(known) == 1 else "in every arm"
        return f"The {measure.said} is {said(spreads[0], measure, scale)} {where}."
    ends = [f"{said(found, measure, scale)} in {arm.name}" for found, arm in zip(spreads, (low, high), strict=True)]
    text = f"The {measure.said} lies between {ends[0]} and {ends[1]}{_ratio_words(spreads, measure)}"
    if measure.computed:
        return text + "."
    test = between(known, measure, high)[low.name]
    if test.p is None:
        return f"{text}; {test.why}."
    word = "shows that they differ" if test.shown else "shows no difference"
    return f"{text}; {test_name(pairs_tested(known, measure))} {word} ({p_text(test.p)})."


def _ratio_words(spreads: Sequence[Spread], measure: Measure) -> str:
    """How much more the second mean is; nothing of shares and differences, where a ratio says little."""
    low, high = (found.mean for found in spreads)
    if measure.unit is FRACTION or low <= 0 or high / low < 1.005:
        return ""
    return f" ({high / low:.3g} times as much)" if high / low >= 1.995 else f" ({high / low - 1:.0%} more)"


def updates_words(arms: Sequence[Arm]) -> str:
    """'from 62 (exp04a_100) to 3,125 (exp04a_5000)'; empty where all arms made as many updates, but for 1%."""
    known = [(arm.spread(STEPS).mean, arm.name) for arm in arms]
    (least, first), (most, last) = min(known), max(known)
    return f"from {least:,.0f} ({first}) to {most:,.0f} ({last})" if most > 1.01 * least else ""
