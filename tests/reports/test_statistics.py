"""Means, tests and fronts: laws that hold for any numbers, and known values."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given
from hypothesis import strategies as st

from trm_jax.reports.statistics import detrended_variance, halting, holm, paired, pareto_front, spread, welch

NUMBERS = st.floats(-1e6, 1e6)
SAMPLES = st.lists(st.floats(0, 1), min_size=2, max_size=8)
POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)


@given(st.lists(NUMBERS, min_size=1, max_size=10), st.randoms())
def test_a_spread_does_not_depend_on_the_order(values, random):
    shuffled = random.sample(values, len(values))
    assert spread(shuffled) == spread(values)


@given(st.lists(NUMBERS, min_size=2, max_size=10))
def test_a_spread_is_mean_and_sample_deviation(values):
    found = spread(values)
    # Sums of up to ten numbers of up to 1e6: a few ulps.
    assert found.mean == pytest.approx(np.mean(values), abs=1e-8)
    assert found.deviation == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-8)
    assert found.n == len(values)


def test_spreads_of_none_of_one_and_of_equal_values():
    assert spread([]) is None
    assert spread([0.3]) == (0.3, None, 1)
    assert spread([0.1, 0.1, 0.1]) == (0.1, 0.0, 3), "rounding of the mean is no spread"


@given(SAMPLES, SAMPLES)
def test_welch_agrees_with_scipy(one, other):
    assume(min(np.std(one), np.std(other)) > 1e-6)
    expected = scipy.stats.ttest_ind(one, other, equal_var=False).pvalue
    assert welch(one, other).p == pytest.approx(expected, rel=1e-6, abs=1e-12)
    assert welch(one, other).p == welch(other, one).p


@pytest.mark.parametrize(
    "one, other, expected",
    [
        ([0.5], [0.4, 0.6], (None, "no test: n < 2")),
        ([], [0.4, 0.6], (None, "no test: n < 2")),
        ([0.5, 0.5], [0.4, 0.4], (None, "no test: no spread")),
        ([0.5, 0.5], [0.5, 0.5, 0.5], (1.0, "")),
    ],
)
def test_what_cannot_be_tested_says_why(one, other, expected):
    assert welch(one, other) == expected


PAIRS = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=8)


@given(PAIRS)
def test_pairs_agree_with_scipy(pairs):
    one, other = zip(*pairs, strict=True)
    assume(np.std(np.subtract(one, other)) > 1e-6)
    expected = scipy.stats.ttest_rel(one, other)
    low, high = expected.confidence_interval(0.95)
    found = paired(one, other)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6, abs=1e-12) and found.n == len(pairs)
    assert (found.difference - found.half_width, found.difference + found.half_width) == pytest.approx((low, high))
    assert paired(other, one).difference == -found.difference and paired(other, one).p == found.p


def test_pairs_tell_what_their_spread_hides_from_welch():
    one, other = [0.80, 0.85, 0.90], [0.79, 0.838, 0.891]
    assert welch(one, other).p > 0.5 and paired(one, other).p < 0.05


@pytest.mark.parametrize(
    "one, other, why",
    [
        ([0.5], [0.4], "no test: n < 2"),
        # 0.932 - 0.812 and 0.9 - 0.78 differ in their last bits only.
        ([0.932, 0.9, 0.62], [0.812, 0.78, 0.5], "no test: no spread"),
    ],
)
def test_pairs_that_cannot_be_tested_say_why(one, other, why):
    found = paired(one, other)
    assert (found.half_width, found.p, found.why) == (None, None, why)


def test_equal_pairs_are_no_difference():
    assert paired([0.3, 0.7, 0.5], [0.3, 0.7, 0.5]) == (0.0, 0.0, 1.0, 3, "")


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(ps):
    adjusted = holm(ps)
    assert all(p <= a <= 1 for p, a in zip(ps, adjusted, strict=True))
    assert all(a <= min(1, p * len(ps)) for p, a in zip(ps, adjusted, strict=True)), "no stricter than Bonferroni"
    assert [adjusted[i] for i in np.argsort(ps, kind="stable")] == sorted(adjusted)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def beats(one, other):
    return one != other and one[0] <= other[0] and one[1] >= other[1]


@given(POINTS)
def test_a_front_holds_what_nothing_beats(points):
    front = pareto_front(points)
    kept = [point for point, on in zip(points, front, strict=True) if on]
    left = [point for point, on in zip(points, front, strict=True) if not on]
    assert bool(kept) == bool(points)
    assert not any(beats(one, other) for one in kept for other in kept)
    assert all(any(beats(one, other) for one in kept) for other in left)


@given(POINTS, st.randoms())
def test_a_front_does_not_depend_on_the_order(points, random):
    order = random.sample(range(len(points)), len(points))
    front = pareto_front(points)
    assert pareto_front([points[i] for i in order]) == [front[i] for i in order]


@given(st.lists(st.floats(0, 10), min_size=4, max_size=30), st.floats(-5, 5), st.floats(-5, 5))
def test_a_trend_adds_no_variance(values, start, slope):
    tilted = [value + start + slope * place for place, value in enumerate(values)]
    # Cancellation of a trend that is up to 150 high.
    assert detrended_variance(tilted) == pytest.approx(detrended_variance(values), rel=1e-6, abs=1e-9)


def test_variance_around_a_line():
    assert detrended_variance([1, 2, 3]) is None
    noise = np.random.default_rng(0).normal(0, 0.2, 4000)
    # The standard error of a variance from 4000 values is 2.2% of it.
    assert detrended_variance(list(noise)) == pytest.approx(0.04, rel=0.1)


@given(st.lists(st.integers(0, 50), min_size=1, max_size=32), st.integers(1, 9))
def test_halting_of_counts(counts, factor):
    found = halting(counts)
    assume(found is not None)
    assert 1 <= found.mean <= len(counts) + 1e-9 and found.variance >= 0
    assert found == pytest.approx(halting([factor * count for count in counts]))
    values = np.repeat(np.arange(1, len(counts) + 1), counts)
    assert (found.mean, found.variance) == pytest.approx((values.mean(), values.var()), abs=1e-9)
    assert found.early == pytest.approx(np.mean(values < len(counts)))


def test_halting_of_nothing():
    assert halting([]) is None and halting([0, 0]) is None
    assert not math.isnan(halting([0, 1]).mean)
