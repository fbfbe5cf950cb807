"""Numbers as text."""

import pytest

from trm_jax.reports.statistics import Spread
from trm_jax.reports.units import (
    BYTES,
    FLOPS,
    FRACTION,
    PLAIN,
    SECONDS,
    compact,
    digits,
    listed,
    p_text,
    plain,
    scale_for,
    setting_name,
)


@pytest.mark.parametrize(
    "value, text",
    [
        (0, "0"), (3.0, "3"), (0.87123, "0.8712"), (12.3456, "12.35"), (1234.5, "1,234"), (5028866, "5,028,866"),
        (1e-5, "1e-05"), (3e-4, "0.0003"), (2.1e18, "2.1e+18"), (-0.02, "-0.02"), (-0.0, "0"),
    ],
)  # fmt: skip
def test_digits(value, text):
    assert digits(value) == text


def test_other_forms():
    assert [compact(v) for v in (5028866, 20000, 6144, 0.001, 3e9)] == ["5.03M", "20k", "6,144", "0.001", "3G"]
    assert [plain(v) for v in (True, "", "lion", 512, 0.95)] == ["True", "(empty)", "lion", "512", "0.95"]
    assert [listed(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
    assert (p_text(0.0001), p_text(0.0123)) == ("p < 0.001", "p = 0.012")


@pytest.mark.parametrize(
    "unit, values, label",
    [
        (SECONDS, [5000.0, 59.0], "s"),
        (SECONDS, [5000.0, 61.0], "min"),
        (SECONDS, [5000.0, 3600.0], "h"),
        (SECONDS, [], "s"),
        (BYTES, [2**30], "GiB"),
        (FLOPS, [2.1e18], "EFLOP"),
        (FLOPS, [0.0, 5e12], "TFLOP"),
    ],
)
def test_a_scale_fits_the_smallest_value(unit, values, label):
    assert scale_for(unit, values).label == label


def test_spreads():
    assert FRACTION[0].text(Spread(0.87123, 0.0042, 3)) == "0.8712 ± 0.0042 (n = 3)"
    assert FRACTION[0].text(Spread(0.87123, None, 1)) == "0.8712 (n = 1)"
    assert FRACTION[0].text(None) == "not recorded" and SECONDS[1].text(Spread(90.0, 30.0, 2)) == "1.5 ± 0.5 (n = 2)"


@pytest.mark.parametrize(
    "mean, deviation, text",
    [
        (206.72, 37.879, "206.7 ± 37.88 (n = 3)"),
        (1750.0, 433.01, "1,750 ± 433 (n = 3)"),
        (0.005764, 0.006481, "0.005764 ± 0.006481 (n = 3)"),
        (3.0, 0.0, "3 ± 0 (n = 3)"),
        (3.0, 0.0123, "3 ± 0.0123 (n = 3)"),  # a spread that the mean's digits would hide
    ],
)
def test_a_spread_is_as_fine_as_its_mean(mean, deviation, text):
    assert PLAIN[0].text(Spread(mean, deviation, 3)) == text


@pytest.mark.parametrize(
    "scale, difference, text",
    [
        (FRACTION[0], 0.01234, "+0.0123"),
        (FRACTION[0], -0.01234, "-0.0123"),
        (FRACTION[0], -0.00001, "0.0000"),
        (FRACTION[0], 0.00001, "0.0000"),
        (PLAIN[0], -0.0, "0"),
        (PLAIN[0], 1234.0, "+1,234"),
    ],
)
def test_a_difference_has_a_sign_unless_it_is_nothing(scale, difference, text):
    assert scale.signed(difference) == text


def test_settings_as_people_call_them():
    assert [setting_name(key) for key in ("optim.name", "model.L_cycles")] == ["optimiser", "L_cycles"]
