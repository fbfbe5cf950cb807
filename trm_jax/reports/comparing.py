"""Differences between arms: what a test lets one say, in words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import NamedTuple

from trm_jax.reports.measures import Measure
from trm_jax.reports.statistics import ALPHA, Spread, holm, welch
from trm_jax.reports.study import Arm
from trm_jax.reports.units import Scale, digits, listed, p_text, scale_for


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
    difference = ("+" if contrast.difference >= 0 else "") + scale.number(contrast.difference)
    if contrast.p is None:
        return f"{difference}, {contrast.why}"
    word = ("higher" if contrast.difference > 0 else "lower") if contrast.shown else "no difference shown"
    return f"{difference}, {word} ({p_text(contrast.p)})"


def best(arms: Sequence[Arm], measure: Measure, *, higher: bool = True) -> Arm | None:
    """The arm with the best mean, the first of equals."""
    known = [arm for arm in arms if arm.values(measure)]
    sign = 1 if higher else -1
    return max(known, key=lambda arm: sign * arm.spread(measure).mean, default=None)


def said(found: Spread, measure: Measure, scale: Scale) -> str:
    """A mean with its unit, and with its spread unless it was computed."""
    if measure.computed and not found.deviation:
        return f"{scale.number(found.mean)} {scale.label}".rstrip()
    return scale.with_unit(found)


def named(arm: Arm) -> str:
    return f"{arm.name} ({arm.differs})" if arm.differs else arm.name


def best_sentence(arms: Sequence[Arm], measure: Measure, *, higher: bool = True) -> str:
    """Which arm's mean is best, and from which others the test tells it."""
    winner = best(arms, measure, higher=higher)
    if winner is None:
        return f"No run recorded its {measure.name}."
    found = winner.spread(measure)
    scale = scale_for(measure.unit, [found.mean])
    value = said(found, measure, scale)
    others = between(arms, measure, winner)
    if not others:
        return f"{named(winner)} has a mean {measure.name} of {value} and nothing to be compared with."
    equal = [
        arm.name for arm in arms if arm is not winner and arm.values(measure) and arm.spread(measure).mean == found.mean
    ]
    holds = f"and {listed(equal)} share" if equal else "has"
    head = f"{named(winner)} {holds} the {'highest' if higher else 'lowest'} mean {measure.name}, {value}"
    if measure.computed:
        return f"{head}."
    return f"{head}; {_tested_words(others, pairs_tested(arms, measure), 'lower' if higher else 'higher')}."


def _tested_words(found: dict[str, Contrast], pairs: int, word: str) -> str:
    """What Welch's test says of the contrasts of the arm named before, as a clause; `pairs`: tested together."""
    tested = {name: contrast for name, contrast in found.items() if contrast.p is not None}
    if not tested:
        return "no difference is claimed, since a test needs at least two seeds, with some spread, in each arm"
    shown = [f"{name} ({p_text(contrast.p)})" for name, contrast in tested.items() if contrast.shown]
    hidden = [name for name, contrast in tested.items() if not contrast.shown]
    parts = [f"shows {listed(shown)} to be {word}"] if shown else []
    parts += [f"shows no difference from {listed(hidden)}"] if hidden else []
    untested = [name for name in found if name not in tested]
    end = f"; {listed(untested)} cannot be tested" if untested else ""
    return f"{_test_name(pairs)} {' and '.join(parts)}{end}"


def _test_name(pairs: int) -> str:
    return f"Welch's t-test (alpha {ALPHA}{f', Holm over all {pairs} pairs' if pairs > 1 else ''})"


def range_sentence(arms: Sequence[Arm], measure: Measure) -> str:
    """From which lowest to which highest mean a figure goes, with the test of these two."""
    known = [arm for arm in arms if arm.values(measure)]
    if not known:
        return f"No run recorded its {measure.name}."
    low, high = best(known, measure, higher=False), best(known, measure)
    spreads = [arm.spread(measure) for arm in (low, high)]
    scale = scale_for(measure.unit, [found.mean for found in spreads])
    if low is high or spreads[0].mean == spreads[1].mean:
        return f"The mean {measure.name} is {said(spreads[0], measure, scale)} in each arm."
    ends = [f"{said(found, measure, scale)} in {arm.name}" for found, arm in zip(spreads, (low, high), strict=True)]
    text = f"The mean {measure.name} goes from {ends[0]} to {ends[1]}"
    if spreads[0].mean > 0:
        text += f", {digits(round(spreads[1].mean / spreads[0].mean, 2))} times as much"
    if measure.computed:
        return text + "."
    test = between(known, measure, high)[low.name]
    if test.p is None:
        return f"{text} ({test.why})."
    word = "a difference" if test.shown else "no difference shown"
    return f"{text} ({word}: {_test_name(pairs_tested(known, measure))}, {p_text(test.p)})."
