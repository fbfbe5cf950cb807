"""ARC tasks and their grids: as arrays, as 900 tokens, and by their hashes.

A grid is [H, W] uint8, colours 0 to 9, at most 30 x 30. Tokens of a sequence: PAD 0, EOS 1, colour c is c + 2. The
grid sits at an offset in a square of 30 x 30 cells, or of a smaller side. EOS stands in the row below it, over its
columns, and in the column right of it, over its rows, where those fit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numba import njit

SIDE = 30  # of the largest grid
PAD, EOS, BLACK = 0, 1, 2
VOCAB_SIZE = 12
COLORS = 10


@dataclass(frozen=True)
class Pair:
    """An input and what it becomes; None: the answer is not known."""

    input: np.ndarray  # [H, W] uint8
    output: np.ndarray | None  # [H', W'] uint8


@dataclass(frozen=True)
class ArcTask:
    """One task: demonstrations, and test pairs to be answered."""

    id: str
    train: tuple[Pair, ...]
    test: tuple[Pair, ...]
    origin: str = ""  # the file, for messages

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Demonstrations, then test pairs."""
        return self.train + self.test


def grid_hash(grid: np.ndarray) -> str:
    """SHA-256 of a grid's rows, columns (a byte each) and cells, in hex."""
    return hashlib.sha256(bytes(grid.shape) + np.ascontiguousarray(grid, np.uint8).tobytes()).hexdigest()


def puzzle_hash(pairs: Iterable[tuple[np.ndarray, np.ndarray]]) -> str:
    """Of all (input, output) of a puzzle, whatever their order, in hex."""
    return hashlib.sha256("|".join(sorted(f"{grid_hash(a)}|{grid_hash(b)}" for a, b in pairs)).encode()).hexdigest()


@njit(cache=True, nogil=True, inline="always")
def turns(symmetry):
    """Whether a symmetry makes rows of columns."""
    return symmetry == 1 or symmetry == 3 or symmetry >= 6


@njit(cache=True, nogil=True, inline="always")
def source_of(i, j, height, width, symmetry):
    """The cell (row, column) of a height x width grid that comes to (i, j) by the symmetry (see `tasks.dihedral`)."""
    if symmetry == 0:
        return i, j
    if symmetry == 1:
        return j, width - 1 - i
    if symmetry == 2:
        return height - 1 - i, width - 1 - j
    if symmetry == 3:
        return height - 1 - j, i
    if symmetry == 4:
        return i, width - 1 - j
    if symmetry == 5:
        return height - 1 - i, j
    if symmetry == 6:
        return j, i
    return height - 1 - j, width - 1 - i


@njit(cache=True, nogil=True)
def put(cells, height, width, symmetry, colors, row, column, side, tokens):
    """Write a grid, the first height x width of cells, as tokens [side * side] at an offset.

    Its colours change by colors [10], then it turns by the symmetry.
    """
    rows, columns = (width, height) if turns(symmetry) else (height, width)
    tokens[:] = 0
    for i in range(rows):
        for j in range(columns):
            a, b = source_of(i, j, height, width, symmetry)
            tokens[(row + i) * side + column + j] = colors[cells[a, b]] + 2
    if row + rows < side:
        for j in range(columns):
            tokens[(row + rows) * side + column + j] = 1
    if column + columns < side:
        for i in range(rows):
            tokens[(row + i) * side + column + columns] = 1


@njit(cache=True, nogil=True)
def _crop_size(tokens, side):
    width, best, height_found, width_found = side, 0, 0, 0
    for row in range(side):
        leading = 0
        while leading < width and 2 <= tokens[row * side + leading] < 12:
            leading += 1
        width = leading
        if (row + 1) * width > best:
            best, height_found, width_found = (row + 1) * width, row + 1, width
    return height_found, width_found


def crop(tokens: np.ndarray) -> np.ndarray:
    """The grid [H, W] of an answer [side * side]: the first largest rectangle of colours in its upper left corner.

    0 x 0 where the first token is no colour.
    """
    side = math.isqrt(len(tokens))
    height, width = _crop_size(tokens, side)
    return (tokens.reshape(side, side)[:height, :width] - BLACK).astype(np.uint8)


def encode(grid: np.ndarray, row: int = 0, column: int = 0, side: int = SIDE) -> np.ndarray:
    """A grid [H, W] as tokens [side * side] int32 at an offset. Raises ValueError where it does not fit there."""
    if row < 0 or column < 0 or row + grid.shape[0] > side or column + grid.shape[1] > side:
        raise ValueError(f"a grid of {grid.shape} at ({row}, {column}) does not fit into {side} x {side} cells")
    tokens = np.empty(side * side, np.int32)
    put(np.ascontiguousarray(grid, np.uint8), *grid.shape, 0, np.arange(COLORS), row, column, side, tokens)
    return tokens
