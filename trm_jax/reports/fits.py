"""Fits of curves to results of runs, with confidence intervals; a reason in words where there is none."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CONFIDENCE = 0.95
# Exponents that are tried: outside, a power law cannot be told from a straight line in log x, or from a step.
EXPONENTS = (0.02, 8.0)
# Times that a fit is weighed anew by its own curve; a few settle it.
REWEIGHED = 5


def grid(low: float, high: float) -> np.ndarray:
    """Where a curve is drawn on a logarithmic axis."""
    return np.geomspace(low, high, 200)


def _quantile(freedom: int) -> float:
    """Of Student's t, by which standard errors are multiplied."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + CONFIDENCE) / 2))


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
    from scipy.optimize import OptimizeWarning, curve_fit

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
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", OptimizeWarning)
            found, covariance = curve_fit(lambda r, a, b, c: a - b * r**-c, ratio, y, start, bounds=bounds)
    except (RuntimeError, OptimizeWarning):
        return "the fit did not converge"
    return PowerFit(*map(float, found), scale, _quantile(x.size - 3) * np.sqrt(np.diag(covariance)))


class BatchFit(NamedTuple):
    """steps = least_steps + examples / batch: the trade of steps against examples (McCandlish et al., 2018).

    critical: the batch at which both terms are equal: twice the least steps, twice the least examples. interval: its
    confidence interval, 0 and infinity where the points set no bound. points: how many runs were fitted.
    """

    least_steps: float
    examples: float
    interval: tuple[float, float]
    points: int

    @property
    def critical(self) -> float:
        return self.examples / self.least_steps

    @property
    def determined(self) -> bool:
        return self.interval[0] > 0 and self.interval[1] < float("inf")

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self.least_steps + self.examples / np.asarray(batch, np.float64)


def fit_batch(batch: Sequence[float], steps: Sequence[float]) -> BatchFit | str:
    """Fit the critical batch to the steps that reach one accuracy, or say why there is none.

    Relative errors are weighed equally, since steps range over orders of magnitude.
    """
    batch, steps = np.asarray(batch, np.float64), np.asarray(steps, np.float64)
    if np.unique(batch).size < 3:
        return f"too few points: {np.unique(batch).size} batch sizes reach it, and two parameters need at least 3"
    terms = np.stack([np.ones_like(batch), 1 / batch], -1)
    expected = steps
    # Weighed by the fit itself and not by the runs: a run that was quick by chance would weigh more.
    for _ in range(REWEIGHED):
        weighed = terms / expected[:, None]
        (least, examples), *_ = np.linalg.lstsq(weighed, steps / expected, rcond=None)
        if examples <= 0:
            return "steps do not fall with the batch: all of these batches are beyond the critical one"
        if least <= 0:
            return "steps fall as fast as the batch grows or faster: the critical batch is beyond these"
        expected = terms @ (least, examples)
    residuals = steps / expected - 1
    freedom = batch.size - 2
    covariance = residuals @ residuals / freedom * np.linalg.inv(weighed.T @ weighed)
    interval = _fieller(least, examples, _quantile(freedom) ** 2 * covariance)
    return BatchFit(float(least), float(examples), interval, batch.size)


def _fieller(below: float, above: float, spread: np.ndarray) -> tuple[float, float]:
    """Fieller's interval of above / below: the ratios R for which above - R * below is 0 within its Wald interval.

    spread: the covariance of (below, above) times the squared quantile, [2, 2].
    """
    a, b, c = below**2 - spread[0, 0], below * above - spread[0, 1], above**2 - spread[1, 1]
    root = np.sqrt(max(b * b - a * c, 0.0))
    low = max(c / (b + root), 0.0) if b + root > 0 else 0.0
    return float(low), float((b + root) / a) if a > 0 else float("inf")
