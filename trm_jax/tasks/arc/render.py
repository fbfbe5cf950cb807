"""ARC grids for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from trm_jax.tasks.arc.grids import crop

# Of the terminal's 256 colours, as ARC's own viewer shows 0 to 9.
PALETTE = (16, 33, 196, 40, 226, 245, 201, 208, 117, 88)


def lines_of(grid: np.ndarray, *, color: bool) -> list[str]:
    """A grid [H, W], a line a row: digits, or two coloured spaces a cell."""
    if not color:
        return ["".join(map(str, row)) for row in grid] or ["(empty)"]
    return ["".join(f"\x1b[48;5;{PALETTE[cell]}m  " for cell in row) + "\x1b[0m" for row in grid] or ["(empty)"]


def beside(inputs: np.ndarray, answer: np.ndarray, *, color: bool) -> str:
    """Input and answer, both [900] tokens, side by side."""
    return side_by_side([crop(inputs), crop(answer)], color=color)


def side_by_side(grids: Sequence[np.ndarray], *, color: bool) -> str:
    """Grids [H, W] in one row."""
    blanks = [" " * max(grid.shape[1] * (2 if color else 1), 7 * (not grid.size)) for grid in grids]
    rows = zip_longest(*(lines_of(grid, color=color) for grid in grids))
    return "\n".join(
        "   ".join(line or blank for line, blank in zip(row, blanks, strict=True)).rstrip() for row in rows
    )
