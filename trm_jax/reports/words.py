"""Differences between arms, and what a test lets one say of them in words."""

from collections.abc import Sequence
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


def shown_words(pairs: Sequence[Pair], tests: Sequence[TTest], measure: Measure) -> str:
    """From which arms the test tells the first of each pair, as a clause."""
    if all(test.p is None for test in tests):
        return UNTESTED
    scale = scale_for(measure.unit, [abs(test.difference) for test in tests])
    unit = f" {scale.label}" * bool(scale.label)
    shown = [
        f"{one.name} {scale.number(abs(test.difference))}{unit} {'above' if test.difference > 0 else 'below'} "
        f"{other.name} ({p_text(test.p)})"
        for (one, other), test in zip(pairs, tests, strict=True)
        if test.shown
    ]
    rest = ", and no other difference" if shown and len(shown) < len(tests) else ""
    return f"Welch's test shows {listed(shown) or 'no difference'}{rest}"


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
    others = [arm for arm in arms if arm is not winner and arm.values(measure)]
    pairs = [*((winner, other) for other in others), *combinations(others, 2)]
    tests = pair_tests(pairs, measure)
    return f"{head}; {shown_words(pairs[: len(others)], tests[: len(others)], measure)}."
