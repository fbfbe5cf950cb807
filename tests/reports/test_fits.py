"""Fits recover what made the points, and say honestly when there is nothing to report."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_jax.reports.fits import fit_batch, fit_power

SIZES = np.array([1e6, 2e6, 5e6, 1e7, 2e7, 4e7])
few = settings(max_examples=20)


@few
@given(st.floats(0.3, 1.0), st.floats(0.02, 0.3), st.floats(0.2, 3.0))
def test_a_power_law_is_recovered(a, b, c):
    x = SIZES / SIZES[0]
    fit = fit_power(x, a - b * x**-c)
    assert not isinstance(fit, str), fit
    # Points without noise: what is left is the solver's tolerance, 1e-8 in the sum of squares.
    assert (fit.a, fit.c) == pytest.approx((a, c), rel=2e-3)
    assert fit.b * fit.scale**fit.c == pytest.approx(b, rel=5e-3)
    assert fit(x) == pytest.approx(a - b * x**-c, abs=1e-4)
    assert fit.half_widths[0] < 0.01
    assert fit(fit.reaches(0.01)) == pytest.approx(fit.a - 0.01, abs=1e-9), "it can be read backwards"


def test_intervals_hold_the_truth_as_often_as_they_say():
    rng = np.random.default_rng(0)
    x = np.repeat(SIZES, 3)
    truth = 0.9 - 0.2 * (x / 1e6) ** -0.7
    fits = [fit_power(x, truth + rng.normal(0, 0.005, x.size)) for _ in range(60)]
    # 95% of 60; below 51 has a chance of less than 1 in 100, and Wald's intervals are approximate.
    assert sum(abs(fit.a - 0.9) <= fit.half_widths[0] for fit in fits) >= 51
    assert sum(abs(fit.c - 0.7) <= fit.half_widths[2] for fit in fits) >= 51


@few
@given(st.lists(st.floats(0, 1), min_size=4, max_size=6))
def test_any_figures_give_a_finite_fit_or_a_reason(y):
    fit = fit_power(SIZES[: len(y)], y)
    if isinstance(fit, str):
        assert fit
    else:
        assert np.isfinite([fit.a, fit.b, fit.c, *fit(SIZES), *fit.half_widths, fit.reaches(0.01)]).all() and fit.b >= 0


@pytest.mark.parametrize(
    "x, y, why",
    [
        ([], [], "too few points: 0 different sizes"),
        ([1, 2, 4, 4, 4], [0.1, 0.2, 0.3, 0.3, 0.3], "too few points: 3 different sizes"),
        ([1, 2, 4, 8], [0.4, 0.3, 0.2, 0.15], "accuracy does not rise"),
        ([1, 2, 4, 8], [0.5, 0.5, 0.5, 0.5], "accuracy does not rise"),
        ([1, 2, 4, 8, 16], [0.1, 0.2, 0.3, 0.4, 0.5], "exponent is not determined.* straight line"),
        ([1, 2, 4, 8, 16], [0.1, 0.5, 0.5, 0.5, 0.5], "exponent is not determined.* one step"),
    ],
)
def test_no_fit_is_said_in_words(x, y, why):
    assert re.search(why, fit_power(x, y))


@few
@given(st.floats(100, 1e4), st.floats(64, 4096))
def test_a_critical_batch_is_recovered(least, critical):
    batch = np.array([128, 256, 512, 1024, 2048, 4096])
    fit = fit_batch(batch, least * (1 + critical / batch))
    assert (fit.least_steps, fit.critical) == pytest.approx((least, critical), rel=1e-6)
    assert fit(batch) == pytest.approx(least * (1 + critical / batch))


BATCHES = np.repeat([128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0], 3)


@pytest.mark.parametrize("critical", [200, 8000])
def test_intervals_of_the_critical_batch_hold_the_truth_as_often_as_they_say(critical):
    rng = np.random.default_rng(0)
    truth = 500 * (1 + critical / BATCHES)
    fits = [fit_batch(BATCHES, truth * (1 + 0.08 * rng.normal(size=BATCHES.size))) for _ in range(200)]
    hits = [fit.interval[0] <= critical <= fit.interval[1] for fit in fits]
    # 95% of 200: fewer than 181 or more than 198 have a chance of about 1 in 100 each.
    assert 181 <= sum(hits) <= 198
    assert all(fit.points == 18 and fit.determined for fit in fits)
    found = [fit.critical for fit in fits]
    assert np.median(found) == pytest.approx(critical, rel=0.05)


@pytest.mark.parametrize("critical, noise", [(1e6, 0.05), (1, 0.05), (700, 1.5)])
def test_points_that_do_not_determine_the_critical_batch(critical, noise):
    """Seen over many draws: some have no fit at all, since they lie as if nothing or everything were linear."""
    rng = np.random.default_rng(0)
    truth = 500 * (1 + critical / BATCHES)
    draws = [fit_batch(BATCHES, truth * np.exp(noise * rng.normal(size=BATCHES.size))) for _ in range(60)]
    fits = [fit for fit in draws if not isinstance(fit, str)]
    assert all(fit.interval[0] <= fit.critical <= fit.interval[1] for fit in fits)
    assert sum(fit.determined for fit in fits) <= 0.2 * len(draws)


@pytest.mark.parametrize(
    "batch, steps, why",
    [
        ([64, 128], [100, 50], "too few points: 2 batch sizes"),
        ([64, 128, 256], [1000, 500, 250], "critical batch is beyond"),
        ([64, 128, 256], [1000, 400, 150], "critical batch is beyond"),
        ([64, 128, 256], [100, 110, 120], "all of these batches are beyond"),
    ],
)
def test_no_critical_batch_is_said_in_words(batch, steps, why):
    assert why in fit_batch(batch, steps)
