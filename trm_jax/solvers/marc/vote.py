"""MARC's hierarchical vote, with an order for every tie: a function of the multiset of (view, grid)."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

import numpy as np

from trm_jax.solvers.marc.puzzles import IDENTITY

Rows = tuple[tuple[int, ...], ...]  # a grid that can be counted and compared


def _order(grid: Rows) -> tuple:
    return len(grid), len(grid[0]), grid


def _most_frequent(things: Iterable):
    """The one that stands there most often; of several, the smallest."""
    counts = Counter(things)
    return min(counts, key=lambda one: (-counts[one], one))


def _majority(grids: Sequence[Rows]) -> Rows:
    """Row by row the most frequent one, in the most frequent shape."""
    height, width = _most_frequent((len(grid), len(grid[0])) for grid in grids)
    wide = [grid for grid in grids if len(grid[0]) == width]
    return tuple(_most_frequent(grid[row] for grid in wide if len(grid) > row) for row in range(height))


def _transposed(grid: Rows) -> Rows:
    return tuple(zip(*grid, strict=True))


def _ranked(grids: Iterable[Rows], identity: Counter) -> list[Rows]:
    counts = Counter(grids)
    return sorted(counts, key=lambda grid: (-counts[grid], -identity[grid], *_order(grid)))


def _top3(grids: list[Rows], identity: Counter) -> list[Rows]:
    top = _ranked(grids, identity)[:3]
    while len(top) < 3:
        rows = _majority(grids)
        top.append(rows if rows not in top else _transposed(_majority([_transposed(grid) for grid in grids])))
    return top


def vote(outputs: Iterable[tuple[str, np.ndarray]]) -> list[np.ndarray]:
    """Grids [H, W] uint8, best first: the two winners, which may be one grid twice, then all others.

    outputs: (the view that a prompt was turned to, the grid with that undone), the view `IDENTITY` for none. All of
    them, and those of each view, put three grids forward; these are voted on once more. Nothing for no outputs.
    """
    by_view: dict[str, list[Rows]] = defaultdict(list)
    for view, grid in outputs:
        by_view[view].append(tuple(map(tuple, grid.tolist())))
    everything = [grid for grids in by_view.values() for grid in grids]
    if not everything:
        return []
    identity = Counter(by_view.get(IDENTITY, ()))
    lists = [everything, *by_view.values()]
    candidates = [grid for grids in lists for grid in _top3(grids, identity)]
    winners = _top3(candidates, identity)[:2]
    others = [*_ranked(candidates, identity), *_ranked(everything, identity)]
    ranking = [*winners, *(grid for grid in dict.fromkeys(others) if grid not in winners)]
    return [np.array(grid, np.uint8) for grid in ranking]
