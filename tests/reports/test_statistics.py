"""Means, tests and fronts: laws that hold for any numbers, and known values."""

import json

import numpy as np
import pytest
import scipy.stats
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from trm_jax.reports.statistics import (
    TTest,
    adjusted,
    auroc,
    detrended_variance,
    halting,
    paired,
    pareto_front,
    spread,
    welch,
    wilson,
)

NUMBERS = st.floats(-1e6, 1e6)
SAMPLES = st.lists(st.floats(0, 1), min_size=2, max_size=8)
POINTS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=12)
few = settings(max_examples=40)


@few
@given(st.lists(NUMBERS, min_size=2, max_size=10), st.randoms())
def test_a_spread_is_mean_and_sample_deviation_in_any_order(values, random):
    found = spread(values)
    # Sums of up to ten numbers of up to 1e6: a few ulps.
    assert found.mean == pytest.approx(np.mean(values), abs=1e-8)
    assert found.deviation == pytest.approx(np.std(values, ddof=1), rel=1e-6, abs=1e-6)
    assert found == pytest.approx(spread(random.sample(values, len(values))), rel=1e-12)


def test_spreads_of_none_of_one_and_of_equal_values():
    assert spread([]) is None
    assert spread([0.3]) == (0.3, None, 1)
    assert spread([0.1, 0.1, 0.1]) == (0.1, 0.0, 3), "rounding of the mean is no spread"


@few
@given(SAMPLES, SAMPLES)
def test_welch_and_its_direction(one, other):
    assume(min(np.std(one), np.std(other)) > 1e-6)
    found = welch(one, other)
    assert found.p == pytest.approx(scipy.stats.ttest_ind(one, other, equal_var=False).pvalue, rel=1e-6, abs=1e-12)
    assert found.difference == pytest.approx(np.mean(one) - np.mean(other), abs=1e-12)
    assert found.p == welch(other, one).p and found.difference == -welch(other, one).difference


@pytest.mark.parametrize(
    "test, one, other, p, why",
    [
        (welch, [0.5], [0.4, 0.6], None, "no test: n < 2"),
        (welch, [0.5, 0.5], [0.4, 0.4], None, "no test: no spread"),
        (welch, [0.5, 0.5], [0.5, 0.5, 0.5], 1.0, ""),
        (paired, [0.5], [0.4], None, "no test: n < 2"),
        # 0.932 - 0.812 and 0.9 - 0.78 differ in their last bits only.
        (paired, [0.932, 0.9, 0.62], [0.812, 0.78, 0.5], None, "no test: no spread"),
        (paired, [0.3, 0.7, 0.5], [0.3, 0.7, 0.5], 1.0, ""),
    ],
)
def test_what_cannot_be_tested_says_why(test, one, other, p, why):
    found = test(one, other)
    assert (found.p, found.why, found.shown) == (p, why, False)


def test_pairs_tell_what_their_spread_hides_from_welch():
    one, other = [0.80, 0.85, 0.90], [0.79, 0.838, 0.891]
    assert welch(one, other).p > 0.5 and paired(one, other).shown
    assert paired(one, other).p == pytest.approx(scipy.stats.ttest_rel(one, other).pvalue)


@few
@given(st.lists(st.none() | st.floats(0, 1), max_size=8))
def test_holm_never_lowers_a_p_value_and_keeps_their_order(ps):
    found = [test.p for test in adjusted([TTest(0.0, p) for p in ps])]
    assert [p is None for p in found] == [p is None for p in ps], "what has no p value counts for nothing"
    known = [(p, a) for p, a in zip(ps, found, strict=True) if p is not None]
    assert all(p <= a <= min(1, p * len(known)) for p, a in known), "no stricter than Bonferroni"
    assert [a for _, a in sorted(known)] == sorted(a for _, a in known)


def test_holm_by_hand():
    assert [test.p for test in adjusted([TTest(0.0, p) for p in (0.01, 0.04, 0.03)])] == pytest.approx(
        [0.03, 0.06, 0.06]
    )


def beats(one, other):
    return one != other and one[0] <= other[0] and one[1] >= other[1]


@few
@given(POINTS)
def test_a_front_holds_what_nothing_beats(points):
    front = pareto_front(points)
    kept = [point for point, on in zip(points, front, strict=True) if on]
    left = [point for point, on in zip(points, front, strict=True) if not on]
    assert bool(kept) == bool(points)
    assert not any(beats(one, other) for one in kept for other in kept)
    assert all(any(beats(one, other) for one in kept) for other in left)


@few
@given(st.lists(st.floats(0, 10), min_size=4, max_size=30), st.floats(-5, 5), st.floats(-5, 5))
def test_a_trend_adds_no_variance(values, start, slope):
    tilted = [value + start + slope * place for place, value in enumerate(values)]
    # Cancellation of a trend that is up to 150 high.
    assert detrended_variance(tilted) == pytest.approx(detrended_variance(values), rel=1e-6, abs=1e-9)


def test_variance_around_a_line():
    with pytest.raises(ValueError, match="too few"):
        detrended_variance([1, 2, 3])
    noise = np.random.default_rng(0).normal(0, 0.2, 4000)
    # The standard error of a variance from 4000 values is 2.2% of it.
    assert detrended_variance(list(noise)) == pytest.approx(0.04, rel=0.1)


@few
@given(st.lists(st.integers(0, 50), min_size=1, max_size=32))
def test_halting_of_counts(counts):
    if sum(counts) == 0 or len(counts) == 1:
        with pytest.raises(ValueError, match="nothing could halt"):
            halting(counts)
        return
    found, values = halting(counts), np.repeat(np.arange(1, len(counts) + 1), counts)
    assert (found.mean, found.variance) == pytest.approx((values.mean(), values.var()), abs=1e-9)
    assert found.early == pytest.approx(np.mean(values < len(counts)))


@few
@given(st.integers(1, 500), st.data())
def test_wilsons_interval_is_scipys(n, data):
    right = data.draw(st.integers(0, n))
    expected = scipy.stats.binomtest(right, n).proportion_ci(method="wilson")
    np.testing.assert_allclose(wilson(right / n, n), expected, atol=1e-7)  # z has seven digits


def test_auroc(golden_folder):
    for case in json.loads((golden_folder / "llm" / "metrics.json").read_text())["auroc"]:
        found = auroc(case["confidence"], case["correct"])
        assert found == (None if case["auroc"] is None else pytest.approx(case["auroc"], abs=1e-12)), case


@given(st.lists(st.tuples(st.integers(-5, 5), st.booleans()), max_size=12))
def test_auroc_is_the_share_of_pairs_in_order(items):
    right, wrong = ([score for score, correct in items if correct is kind] for kind in (True, False))
    pairs = [(a > b) + (a == b) / 2 for a in right for b in wrong]
    found = auroc([score for score, _ in items], [correct for _, correct in items])
    assert found == (pytest.approx(sum(pairs) / len(pairs)) if pairs else None)
