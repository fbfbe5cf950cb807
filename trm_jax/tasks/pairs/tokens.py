"""A pair of grids as one sequence: start, input rows, separator, output rows, end; a token ends each row.

Tokens: colours 0 to 9, start 10, next line 11, separator 12, end 13. Each has a place: column, row, part (start 0,
input 1, separator 2, output 3, end 4), and its number in the sequence.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trm_jax.tasks.arc.grids import source_of, turns

START, NEXT_LINE, SEPARATOR, END = 10, 11, 12, 13
VOCAB_SIZE = 14
PLACES = 4  # column, row, part, number


@njit(cache=True, nogil=True)
def length_of(sizes, symmetry):
    """Tokens of a pair of grids; sizes [2, 2]: rows and columns of input and output."""
    turned = 1 if turns(symmetry) else 0
    return 3 + sizes[0, turned] * (sizes[0, 1 - turned] + 1) + sizes[1, turned] * (sizes[1, 1 - turned] + 1)


@njit(cache=True, nogil=True)
def _write_grid(cells, height, width, symmetry, colors, part, tokens, places, at, first):
    rows, columns = (width, height) if turns(symmetry) else (height, width)
    for i in range(rows):
        for j in range(columns + 1):
            if j < columns:
                a, b = source_of(i, j, height, width, symmetry)
                tokens[at] = colors[cells[a, b]]
            else:
                tokens[at] = 11
            places[at] = (j, i, part, at - first)
            at += 1
    return at


@njit(cache=True, nogil=True)
def write_pair(cells, sizes, symmetry, colors, tokens, places, first, prompt=False):
    """Write a pair from place `first` on; (where the separator is, the next free place). prompt: end behind it.

    cells [2, 30, 30], sizes [2, 2]; tokens [S], places [S, 4].
    """
    tokens[first], places[first] = 10, (0, 0, 0, 0)
    at = _write_grid(cells[0], sizes[0, 0], sizes[0, 1], symmetry, colors, 1, tokens, places, first + 1, first)
    separator = at
    tokens[at], places[at] = 12, (0, 0, 2, at - first)
    at += 1
    if prompt:
        return separator, at
    at = _write_grid(cells[1], sizes[1, 0], sizes[1, 1], symmetry, colors, 3, tokens, places, at, first)
    tokens[at], places[at] = 13, (0, 0, 4, at - first)
    return separator, at + 1


def encode(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [S] int32, places [S, 4] int32) of a pair of grids [H, W]."""
    cells, sizes = np.zeros((2, 30, 30), np.uint8), np.array([one.shape, other.shape])
    for side, grid in enumerate((one, other)):
        cells[side, : grid.shape[0], : grid.shape[1]] = grid
    size = length_of(sizes, 0)
    tokens, places = np.empty(size, np.int32), np.empty((size, PLACES), np.int32)
    write_pair(cells, sizes, 0, np.arange(10), tokens, places, 0)
    return tokens, places


def parse(tokens: np.ndarray) -> np.ndarray | None:
    """The grid [H, W] uint8 that tokens behind a separator say, up to the first start, separator or end.

    Empty rows are passed over, a last row without its end counts. None where the rows are no grid of at most 30 x 30.
    """
    ends = np.flatnonzero((tokens == START) | (tokens >= SEPARATOR))
    rows: list[list[int]] = [[]]
    for token in tokens[: ends[0] if len(ends) else None].tolist():
        if token == NEXT_LINE:
            rows.append([])
        else:
            rows[-1].append(token)
    rows = [row for row in rows if row]
    if not rows or len({len(row) for row in rows}) > 1 or max(len(rows), len(rows[0])) > 30:
        return None
    return np.array(rows, np.uint8)
