"""Fits of curves to results of runs, with confidence intervals; a reason in words where there is none."""

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
# Exponents that are tried: outside, a power law cannot be told from a straight line in log x, or from a step.
EXPONENTS = (0.02, 8.0)
# A critical batch this many times beyond those that were run, or an interval as wide, is not determined by the runs.
BEYOND = 10.0


def _least_squares(curve: Callable, x: np.ndarray, y: np.ndarray, start: Sequence[float], bounds) -> tuple | None:
    """(parameters, half their confidence intervals by Wald and Student's t), infinite where the points do not determine
    them; None where the solver does not converge."""
    from scipy.optimize import OptimizeWarning, curve_fit
    from scipy.special import stdtrit

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", OptimizeWarning)
            found, covariance = curve_fit(curve, x, y, start, bounds=bounds)
    except RuntimeError:
        return None
    return found, stdtrit(x.size - found.size, (1 + CONFIDENCE) / 2) * np.sqrt(np.diag(covariance))


class PowerFit(NamedTuple):
    """a - b * (x / scale)^-c; `scale` is the geometric mean of the xs, half_widths: half the confidence intervals of
    a, b and c, [3]."""

    a: float
    b: float
    c: float
    scale: float
    half_widths: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.a - self.b * (np.asarray(x, np.float64) / self.scale) ** -self.c

    @property
    def determined(self) -> bool:
        """Whether the intervals of b and c leave 0 out: only then do the points speak for a limit."""
        return bool((self.half_widths[1:] < (self.b, self.c)).all())

    def reaches(self, gap: float) -> float:
        """The x at which the curve is `gap` (> 0) below its limit a."""
        return float(self.scale * (self.b / gap) ** (1 / self.c))


def fit_power(x: Sequence[float], y: Sequence[float]) -> PowerFit | str:
    """Fit a - b x^-c with b > 0 to the points, or say in words why there is no fit to report."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if np.unique(x).size < 4:
        return f"too few points: {np.unique(x).size} different sizes, and three parameters need at least 4"
    scale = float(np.exp(np.log(x).mean()))
    ratio = x / scale

    # Given c, the best a and b are a line's: a scan over c finds the valley that the solver then descends.
    def line(c):
        slope, a = np.polyfit(ratio**-c, y, 1)
        return float(np.sum((a + slope * ratio**-c - y) ** 2)), a, -slope, c

    _, *start = min(line(c) for c in np.geomspace(*EXPONENTS, 60))
    if start[1] <= 0:
        return "accuracy does not rise with size in these runs"
    if not EXPONENTS[0] < start[2] < 0.99 * EXPONENTS[1]:
        shape = "a straight line in log x: no limit is in sight" if start[2] <= EXPONENTS[0] else "one step"
        return f"the exponent is not determined: the runs look like {shape}"
    bounds = ([-np.inf, 0, 0], [np.inf, np.inf, 2 * EXPONENTS[1]])
    found = _least_squares(lambda r, a, b, c: a - b * r**-c, ratio, y, start, bounds)
    if found is None or not np.isfinite(found[1]).all():
        return "the fit did not converge"
    return PowerFit(*map(float, found[0]), scale, found[1])


class BatchFit(NamedTuple):
    """steps = least_steps * (1 + critical / batch): the trade of steps against examples (McCandlish et al., 2018).

    critical: twice the least steps, twice the least examples. interval: its confidence interval. points: how many runs
    were fitted.
    """

    least_steps: float
    critical: float
    interval: tuple[float, float]
    points: int

    @property
    def determined(self) -> bool:
        return self.interval[1] < BEYOND * self.interval[0]

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self.least_steps * (1 + self.critical / np.asarray(batch, np.float64))


def fit_batch(batch: Sequence[float], steps: Sequence[float]) -> BatchFit | str:
    """Fit the critical batch to the steps that reach one accuracy, or say why there is none.

    Least squares of the logarithms, since steps range over orders of magnitude.
    """
    batch, steps = np.asarray(batch, np.float64), np.asarray(steps, np.float64)
    if np.unique(batch).size < 3:
        return f"too few points: {np.unique(batch).size} batch sizes reach it, and two parameters need at least 3"
    # ln steps = ln least + ln(1 + critical / batch), in the logarithms of both parameters.
    low, high = np.log([batch.min() / BEYOND, batch.max() * BEYOND])
    found = _least_squares(
        lambda size, least, critical: least + np.log1p(np.exp(critical) / size),
        batch,
        np.log(steps),
        (np.log(steps.min()), (low + high) / 2),
        ([-np.inf, low], [np.inf, high]),
    )
    if found is None:
        return "the fit did not converge"
    (least, critical), (_, half) = found
    if critical < low + 0.01:
        return "steps do not fall with the batch: all of these batches are beyond the critical one"
    if critical > high - 0.01:
        return "steps fall as fast as the batch grows or faster: the critical batch is beyond these"
    interval = tuple(float(np.exp(np.clip(critical + side * half, -700, 700))) for side in (-1, 1))
    return BatchFit(float(np.exp(least)), float(np.exp(critical)), interval, batch.size)
