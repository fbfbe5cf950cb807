"""Means with their spread, t-tests, Holm's correction, AUROC, Pareto fronts: pure functions on numbers."""

import math
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from typing import NamedTuple

import numpy as np

ALPHA = 0.05
ROUNDING = 1e-12  # of the figures: values that spread no more than this are equal


class Spread(NamedTuple):
    """Mean and standard deviation (n - 1 in its denominator; None for n = 1) of n values."""

    mean: float
    deviation: float | None
    n: int


def spread(values: Sequence[float]) -> Spread | None:
    """The spread of the values; None when there are none. It does not depend on their order."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if max(values) - min(values) <= ROUNDING * abs(mean):  # rounding of the mean must not look like a spread
        return Spread(float(values[0]), None if n == 1 else 0.0, n)
    return Spread(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)), n)


def wilson(share: float, n: int) -> tuple[float, float]:
    """Wilson's interval of 95% for the chance of which `share` of n tries succeeded."""
    z = 1.959964
    middle, half = share + z * z / (2 * n), z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    low, high = ((middle + side * half) / (1 + z * z / n) for side in (-1, 1))
    return max(low, 0.0), min(high, 1.0)  # but for rounding they lie there anyway


class TTest(NamedTuple):
    """A difference of two means and its two-sided p value; where p is None, `why` says so."""

    difference: float
    p: float | None
    why: str = ""

    @property
    def shown(self) -> bool:
        return self.p is not None and self.p < ALPHA


def welch(one: Sequence[float], other: Sequence[float]) -> TTest:
    """Welch's t-test of equal means; no equal variances are assumed. Both need a value."""
    from scipy.stats import ttest_ind_from_stats

    a, b = spread(one), spread(other)
    difference = a.mean - b.mean
    if min(a.n, b.n) < 2:
        return TTest(difference, None, "no test: n < 2")
    if a.deviation == b.deviation == 0:
        return TTest(difference, 1.0) if difference == 0 else TTest(difference, None, "no test: no spread")
    return TTest(difference, float(ttest_ind_from_stats(*a, *b, equal_var=False).pvalue))


def paired(one: Sequence[float], other: Sequence[float]) -> TTest:
    """Student's t-test of pairs (one[i], other[i]), for runs that share what is random in them, as a seed: Welch's of
    the differences and zeros, which do not vary."""
    return welch(np.subtract(one, other).tolist(), [0.0] * len(one))


def adjusted(tests: Sequence[TTest]) -> list[TTest]:
    """The tests with p values by Holm's step-down correction over those that have one."""
    order = sorted((i for i, test in enumerate(tests) if test.p is not None), key=lambda i: tests[i].p)
    found, running = list(tests), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(order) - rank) * tests[i].p))
        found[i] = tests[i]._replace(p=running)
    return found


def auroc(confidence: Sequence[float], correct: Sequence[float]) -> float | None:
    """The chance that a correct one [N] has a higher confidence [N] than a wrong one, ties one half; None without both.

    Whatever is greater than 0 is correct, and what equals 0 is wrong.
    """
    right = np.asarray(correct) > 0
    positive, negative = int(right.sum()), int(np.sum(np.asarray(correct) == 0))
    _, place, counts = np.unique(confidence, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]  # the mean of those that equal values share
    wins = float(np.sum(ranks[right])) - positive * (positive + 1) / 2
    return wins / (positive * negative) if positive and negative else None


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of the points (cost, gain) no other one beats: none costs less or as much and gains more or as much,
    one of the two truly."""
    return [not any(c <= cost and g >= gain and (c < cost or g > gain) for c, g in points) for cost, gain in points]


def detrended_variance(values: Sequence[float]) -> float:
    """Variance around a straight line through equally spaced values; ValueError for fewer than 4 of them."""
    if len(values) < 4:
        raise ValueError("too few values around a line")
    x = np.arange(len(values))
    residuals = np.asarray(values) - np.polyval(np.polyfit(x, values, 1), x)
    return float(residuals @ residuals / (len(values) - 2))


class Halting(NamedTuple):
    """When sequences halt: mean and variance of the step, share that halts before the last one."""

    mean: float
    variance: float
    early: float


def halting(counts: Sequence[float]) -> Halting:
    """Of counts of sequences that ended at step 1, 2, ..., len(counts); ValueError when there are none, or one step
    only: before it nothing can halt."""
    weights = np.asarray(counts, np.float64)
    if weights.size < 2 or weights.sum() == 0:
        raise ValueError("nothing could halt")
    shares, steps = weights / weights.sum(), np.arange(1, weights.size + 1)
    mean = float(shares @ steps)
    return Halting(mean, float(shares @ (steps - mean) ** 2), float(1 - shares[-1]))


def added(counts: Iterable[Sequence[float]]) -> list[float]:
    """Histograms added up, the shorter ones as if they ended in zeros."""
    return [sum(column) for column in zip_longest(*counts, fillvalue=0)]
