"""Means with their spread, Welch's test, Holm's correction, Pareto fronts: pure functions on numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

ALPHA = 0.05
ROUNDING = 1e-12  # of the figures: differences that spread no more than this are equal


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
    if n == 1:
        return Spread(float(values[0]), None, 1)
    if min(values) == max(values):  # rounding of the mean must not look like a spread
        return Spread(float(values[0]), 0.0, n)
    mean = math.fsum(values) / n
    return Spread(mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1)), n)


class PValue(NamedTuple):
    """A two-sided p value, or None and why there is none."""

    p: float | None
    why: str = ""


def welch(one: Sequence[float], other: Sequence[float]) -> PValue:
    """Welch's t-test of equal means; no equal variances are assumed."""
    from scipy.special import stdtr

    if len(one) < 2 or len(other) < 2:
        return PValue(None, "no test: n < 2")
    a, b = spread(one), spread(other)
    parts = [s.deviation**2 / s.n for s in (a, b)]
    error = math.sqrt(sum(parts))
    if error == 0:
        return PValue(1.0) if a.mean == b.mean else PValue(None, "no test: no spread")
    # In shares of the sum: squares of tiny variances would vanish.
    shares = [part / sum(parts) for part in parts]
    freedom = 1 / sum(share**2 / (s.n - 1) for share, s in zip(shares, (a, b), strict=True))
    return PValue(float(2 * stdtr(freedom, -abs(a.mean - b.mean) / error)))


class PairedTest(NamedTuple):
    """The mean of differences within n pairs; half its confidence interval and p, or None for both, and why."""

    difference: float
    half_width: float | None
    p: float | None
    n: int
    why: str = ""


def paired(one: Sequence[float], other: Sequence[float]) -> PairedTest:
    """Student's t-test of pairs (one[i], other[i]): for runs that share what is random in them, as a seed."""
    from scipy.special import stdtr, stdtrit

    found = spread([a - b for a, b in zip(one, other, strict=True)])
    if found.n < 2:
        return PairedTest(found.mean, None, None, found.n, "no test: n < 2")
    if found.deviation <= ROUNDING * max(map(abs, [*one, *other])):
        if all(a == b for a, b in zip(one, other, strict=True)):
            return PairedTest(0.0, 0.0, 1.0, found.n)
        return PairedTest(found.mean, None, None, found.n, "no test: no spread")
    error = found.deviation / math.sqrt(found.n)
    quantile = float(stdtrit(found.n - 1, 1 - ALPHA / 2))
    p = float(2 * stdtr(found.n - 1, -abs(found.mean) / error))
    return PairedTest(found.mean, quantile * error, p, found.n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment for testing all of these together, in their order."""
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = running
    return adjusted


def pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which of the points (cost, gain) no other one beats: none costs less or as much and gains more or as much,
    one of the two truly."""
    return [not any(c <= cost and g >= gain and (c < cost or g > gain) for c, g in points) for cost, gain in points]


def detrended_variance(values: Sequence[float]) -> float | None:
    """Variance around a straight line through equally spaced values; None for fewer than 4 of them."""
    n = len(values)
    if n < 4:
        return None
    y, x = np.asarray(values, np.float64), np.arange(n, dtype=np.float64)
    x -= x.mean()
    y -= y.mean()
    residuals = y - x * (x @ y) / (x @ x)
    return float(residuals @ residuals / (n - 2))


class Halting(NamedTuple):
    """When sequences halt: mean and variance of the step, share that halts before the last one."""

    mean: float
    variance: float
    early: float


def halting(counts: Sequence[float]) -> Halting | None:
    """Of counts of sequences that ended at step 1, 2, ..., len(counts); None when there are none."""
    weights = np.asarray(counts, np.float64)
    if weights.sum() == 0:
        return None
    shares, steps = weights / weights.sum(), np.arange(1, weights.size + 1)
    mean = float(shares @ steps)
    return Halting(mean, float(shares @ (steps - mean) ** 2), float(1 - shares[-1]))
