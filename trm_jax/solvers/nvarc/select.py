"""Candidates of a test input, scored under views that are the same for all of them, and ranked by a selector."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trm_jax.solvers.nvarc import text
from trm_jax.solvers.nvarc.search import Completion


@dataclass(frozen=True, eq=False)
class Candidate:
    """A grid, and how likely it is."""

    grid: np.ndarray  # [H, W] uint8
    finds: Sequence[float]  # its negative log-likelihood in each view that found it; none for one from elsewhere
    view_nll: Sequence[float] = ()  # under each of the scoring views


def finds(
    found: Iterable[tuple[text.View, Iterable[Completion]]], others: Iterable[np.ndarray] = ()
) -> list[Candidate]:
    """The distinct grids that views found, in the order of their appearance, then `others` that none has found.

    A grid that several replies of one view spell is one find, and their probabilities add up.
    """
    grids: dict[tuple, np.ndarray] = {}
    nlls: dict[tuple, list[float]] = {}
    for view, completions in found:
        here: dict[tuple, float] = {}
        for tokens, nll in completions:
            if (grid := text.parse(tokens)) is not None:
                grid = view.undo(grid)
                key = grid.shape, grid.tobytes()
                grids[key] = grid
                here[key] = -float(np.logaddexp(-here.get(key, math.inf), -nll))
        for key, nll in here.items():
            nlls.setdefault(key, []).append(nll)
    for grid in others:
        grids.setdefault((grid.shape, grid.tobytes()), grid)
    return [Candidate(grid, nlls.get(key, [])) for key, grid in grids.items()]


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def count_minus_mean_nll(candidate: Candidate, middle: Callable = _mean) -> float:
    """How many views found it, less its mean cost under the scoring views."""
    return len(candidate.finds) - middle(candidate.view_nll)


def probability_product(candidate: Candidate, middle: Callable = _mean, least: float = 3.0) -> float:
    """The sum of what its finds and its scoring views are above exp(-least), in logarithms."""
    views = len(candidate.view_nll) * (least - middle(candidate.view_nll))
    return math.fsum(least - nll for nll in candidate.finds) + views


SELECTORS: Mapping[str, Callable] = {
    "count_minus_mean_nll": count_minus_mean_nll,
    "probability_product_3": probability_product,
}
MIDDLES: Mapping[str, Callable] = {"mean": _mean, "median": statistics.median}


def rank(
    candidates: Sequence[Candidate], selector: str = "count_minus_mean_nll", middle: str = "mean"
) -> list[tuple[float, Candidate]]:
    """(score, candidate), best first; ties: more finds, the lower mean cost, the smaller grid.

    middle: of a candidate's costs under the scoring views. One view that is bad moves a mean far, a median hardly.
    """

    def key(scored: tuple[float, Candidate]) -> tuple:
        # Sums of the same numbers in another order are the same score.
        score, one = scored
        grid = one.grid.size, *one.grid.shape, one.grid.tobytes()
        return -round(score, 9), -len(one.finds), round(_mean(one.view_nll), 9), grid

    return sorted(((SELECTORS[selector](one, MIDDLES[middle]), one) for one in candidates), key=key)
