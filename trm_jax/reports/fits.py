"""Fits of curves to results of runs, with confidence intervals; an honest reason where there is none."""

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


class PowerFit(NamedTuple):
    """a - b * (x / scale)^-c with confidence intervals; `scale` is the geometric mean of the xs.

    covariance: of (a, b, c), [3, 3]. quantile: of Student's t, by which standard errors are multiplied.
    """

    a: float
    b: float
    c: float
    scale: float
    covariance: np.ndarray
    quantile: float

    def __call__(self, x: np.ndarray) -> np.ndarray:
        return self.a - self.b * (np.asarray(x, np.float64) / self.scale) ** -self.c

    def half_width(self, name: str) -> float:
        """Half the confidence interval of "a", "b" or "c"."""
        index = "abc".index(name)
        return float(self.quantile * np.sqrt(self.covariance[index, index]))

    @property
    def determined(self) -> bool:
        """Whether the intervals of b and c leave 0 out: only then do the points speak for a limit."""
        return self.half_width("b") < self.b and self.half_width("c") < self.c

    def band(self, x: np.ndarray) -> np.ndarray:
        """Half the confidence interval of the curve at x [N], by the delta method."""
        ratio = np.asarray(x, np.float64) / self.scale
        power = ratio**-self.c
        slopes = np.stack([np.ones_like(ratio), -power, self.b * np.log(ratio) * power], -1)
        return self.quantile * np.sqrt(np.einsum("ni,ij,nj->n", slopes, self.covariance, slopes))

    def reaches(self, gap: float) -> float:
        """The x at which the curve is `gap` below its limit a."""
        return float(self.scale * (self.b / gap) ** (1 / self.c))

    def inverse(self, y: float) -> float | None:
        """The x at which the curve is y; None where it never is."""
        return self.reaches(self.a - y) if y < self.a else None


def fit_power(x: Sequence[float], y: Sequence[float]) -> PowerFit | str:
    """Fit a - b x^-c with b > 0 to the points, or say in words why there is no fit to report."""
    from scipy.optimize import OptimizeWarning, curve_fit
    from scipy.special import stdtrit

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
            (a, b, c), covariance = curve_fit(
                lambda r, a, b, c: a - b * r**-c, ratio, y, p0=start, bounds=bounds, max_nfev=1000
            )
    except (RuntimeError, OptimizeWarning) as error:
        return f"the fit did not converge ({str(error).splitlines()[0].rstrip('.')})"
    quantile = stdtrit(x.size - 3, (1 + CONFIDENCE) / 2)
    return PowerFit(float(a), float(b), float(c), scale, covariance, float(quantile))


class BatchFit(NamedTuple):
    """steps = least_steps + examples / batch: the trade of steps against examples (McCandlish et al., 2018).

    covariance: of (least_steps, examples), [2, 2]. quantile: of Student's t with the degrees of freedom `freedom`, by
    which standard errors are multiplied. points: how many runs were fitted.
    """

    least_steps: float
    examples: float
    covariance: np.ndarray
    quantile: float
    points: int

    @property
    def freedom(self) -> int:
        return self.points - 2

    @property
    def critical(self) -> float:
        """The batch at which both terms are equal: twice the least steps, twice the least examples."""
        return self.examples / self.least_steps

    @property
    def interval(self) -> tuple[float, float]:
        """The confidence interval of the critical batch, 0 and infinity where the points set no bound.

        Fieller's: the batches B for which examples - B * least_steps differs from 0 by no more than its Wald interval.
        """
        (steps, both), (_, examples) = self.quantile**2 * self.covariance
        a, b, c = self.least_steps**2 - steps, self.least_steps * self.examples - both, self.examples**2 - examples
        root = np.sqrt(max(b * b - a * c, 0.0))
        low = max(c / (b + root), 0.0) if b + root > 0 else 0.0
        return float(low), float((b + root) / a) if a > 0 else float("inf")

    @property
    def determined(self) -> bool:
        low, high = self.interval
        return low > 0 and high < float("inf")

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self.least_steps + self.examples / np.asarray(batch, np.float64)


def fit_batch(batch: Sequence[float], steps: Sequence[float]) -> BatchFit | str:
    """Fit the critical batch to the steps that reach one accuracy, or say why there is none.

    Relative errors are weighed equally, since steps range over orders of magnitude.
    """
    from scipy.special import stdtrit

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
    quantile = float(stdtrit(freedom, (1 + CONFIDENCE) / 2))
    return BatchFit(float(least), float(examples), covariance, quantile, batch.size)
