"""Differences between arms, and what a test lets one say of them in words."""

from collections.abc import Mapping, Sequence
from itertools import combinations

from trm_jax.reports.measures import Measure
from trm_jax.reports.statistics import TTest, adjusted, welch
from trm_jax.reports.study import Arm
from trm_jax.reports.units import Scale, headed, listed, p_text, scale_for

Pair = tuple[Arm, Arm]
UNTESTED = "no difference is claimed, since a test needs two arms with two seeds and some spread in each"


def pair_tests(pairs: Sequence[Pair], measure: Measure) -> list[TTest]:
    """Welch's test of each pair (one less other) of arms that have the figure, adjusted over all of them."""
    return adjusted([welch(one.values(measure), other.values(measure)) for one, other in pairs])


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
        return UNTESTED
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
    scale = scale_for(measure.unit, [arm.mean(measure)])
    value, n, seeds = scale.text(arm.spread(measure), measure.computed).partition(" (n")
    unit = f" {scale.label}" if headed(measure.name, scale) != measure.name else ""
    return f"{value}{unit}{n}{seeds}"


def best_sentence(arms: Sequence[Arm], measure: Measure) -> str:
    """Which arm's mean is best, and from which others the test tells it.

    An arm that was chosen by its result was compared with all others, so p values are adjusted over all pairs.
    """
    winner, name = best(arms, measure), measure.name if measure.computed else f"mean {measure.name}"
    if winner is None:
        return f"No run recorded its {measure.name}."
    head = f"{winner.named} has the {'highest' if measure.higher else 'lowest'} {name}, {said(winner, measure)}"
    if measure.computed:
        return f"{head}."
    pairs = list(combinations([arm for arm in arms if arm.values(measure)], 2))
    tests = zip(pairs, pair_tests(pairs, measure), strict=True)
    against = {(b if a is winner else a).name: test for (a, b), test in tests if winner in (a, b)}
    return f"{head}; {_tested_words(against, 'lower' if measure.higher else 'higher')}."


def _tested_words(found: Mapping[str, TTest], word: str) -> str:
    """What a test says of differences from arms, by these arms' names, as a clause. word: what they can only be."""
    if all(test.p is None for test in found.values()):
        return UNTESTED
    shown = [f"{arm} ({p_text(test.p)})" for arm, test in found.items() if test.shown]
    hidden = [arm for arm, test in found.items() if test.p is not None and not test.shown]
    parts = [f"{listed(shown)} to be {word}"] * bool(shown) + [f"no difference from {listed(hidden)}"] * bool(hidden)
    untested = [arm for arm, test in found.items() if test.p is None]
    return f"Welch's t-test shows {', and '.join(parts)}" + f"; {listed(untested)} cannot be tested" * bool(untested)
