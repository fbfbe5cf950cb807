"""Differences between arms, and what a test lets one say of them in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from trm_jax.reports.measures import Measure
from trm_jax.reports.statistics import ALPHA, TTest, adjusted, paired, welch
from trm_jax.reports.study import Arm
from trm_jax.reports.units import Scale, listed, p_text, scale_for

Pair = tuple[Arm, Arm]


def pair_tests(pairs: Sequence[Pair], measure: Measure) -> list[TTest]:
    """Welch's test of each pair (one less other) of arms that have the figure, adjusted over all of them."""
    return adjusted([welch(one.values(measure), other.values(measure)) for one, other in pairs])


def seed_tests(pairs: Sequence[tuple[Mapping[int, float], Mapping[int, float]]]) -> list[TTest]:
    """Paired t-tests over the seeds that both of a pair (one, other), each {seed: value}, have; p values adjusted."""
    shared = [(one, other, sorted(one.keys() & other.keys())) for one, other in pairs]
    return adjusted([paired([one[s] for s in seeds], [other[s] for s in seeds]) for one, other, seeds in shared])


def adjusted_name(tests: Iterable[TTest], name: str = "Welch") -> str:
    """'Welch, Holm over 5': of a column."""
    number = sum(test.p is not None for test in tests)
    return f"{name}, Holm over {number}" if number > 1 else name


def verdict(test: TTest, scale: Scale) -> str:
    """'+0.0123, higher (p = 0.012)'."""
    difference = scale.signed(test.difference)
    if test.p is None:
        return f"{difference}, {test.why}"
    word = ("higher" if test.difference > 0 else "lower") if test.shown else "no difference shown"
    return f"{difference}, {word} ({p_text(test.p)})"


def shown_words(pairs: Sequence[Pair], tests: Sequence[TTest]) -> str:
    """Of which pairs (one, other) the test shows that one is above or below the other, as a clause."""
    if all(test.p is None for test in tests):
        return "no difference is claimed, since a test needs two seeds an arm"
    shown = [
        f"{one.name} {abs(test.difference):.4f} {'above' if test.difference > 0 else 'below'} {other.name} "
        f"({p_text(test.p)})"
        for (one, other), test in zip(pairs, tests, strict=True)
        if test.shown
    ]
    return f"Welch's test shows {listed(shown) or 'no difference'}"


def best(arms: Sequence[Arm], measure: Measure) -> Arm | None:
    """The arm with the best mean, the first of equals; None where no arm has the figure."""
    known = [arm for arm in arms if arm.values(measure)]
    return max(known, key=lambda arm: arm.mean(measure) * (1 if measure.higher else -1), default=None)


def said(arm: Arm, measure: Measure) -> str:
    """An arm's mean with its unit, where the figure's name does not hold it, and with its spread unless computed."""
    found = arm.spread(measure)
    scale = scale_for(measure.unit, [found.mean])
    unit = f" {scale.label}" if scale.label and scale.label not in measure.name.split() else ""
    if measure.computed and not found.deviation:
        return scale.number(found.mean) + unit
    return scale.text(found).replace(" (n", f"{unit} (n")


def best_sentence(arms: Sequence[Arm], measure: Measure) -> str:
    """Which arm's mean is best, and from which others the test tells it.

    An arm that was chosen by its result was compared with all others, so p values are adjusted over all pairs.
    """
    winner, name = best(arms, measure), measure.name if measure.computed else f"mean {measure.name}"
    if winner is None:
        return f"No run recorded its {measure.name}."
    pairs = list(combinations([arm for arm in arms if arm.values(measure)], 2))
    found = pair_tests(pairs, measure)
    if not pairs:
        return f"The {name} of {winner.named} is {said(winner, measure)}; there is no other arm to compare it with."
    tests = {(b if a is winner else a).name: t for (a, b), t in zip(pairs, found, strict=True) if winner in (a, b)}
    equal = [other for other, test in tests.items() if test.difference == 0]
    holds = f"and {listed(equal)} share" if equal else "has"
    head = f"{winner.named} {holds} the {'highest' if measure.higher else 'lowest'} {name}, {said(winner, measure)}"
    unequal = {other: test for other, test in tests.items() if other not in equal}
    if measure.computed or not unequal:
        return f"{head}."
    number = sum(test.p is not None for test in found)
    test_name = f"Welch's t-test (alpha {ALPHA}{f', Holm over all {number} pairs' if number > 1 else ''})"
    return f"{head}; {_tested_words(unequal, test_name, 'lower' if measure.higher else 'higher')}."


def _tested_words(found: Mapping[str, TTest], name: str, word: str) -> str:
    """What a test says of differences from arms, by these arms' names, as a clause. word: what they can only be."""
    if all(test.p is None for test in found.values()):
        return "no difference is claimed, since a test needs at least two seeds, with some spread, in each arm"
    shown = [f"{arm} ({p_text(test.p)})" for arm, test in found.items() if test.shown]
    hidden = [arm for arm, test in found.items() if test.p is not None and not test.shown]
    parts = [f"{listed(shown)} to be {word}"] * bool(shown) + [f"no difference from {listed(hidden)}"] * bool(hidden)
    untested = [arm for arm, test in found.items() if test.p is None]
    return f"{name} shows {', and '.join(parts)}" + (f"; {listed(untested)} cannot be tested" if untested else "")
