"""The eight symmetries of a grid, numbered as the official code does."""

from __future__ import annotations

import numpy as np

# 0 identity; 1, 2, 3 turns by 90, 180, 270 degrees counter-clockwise; 4 left-right flip; 5 up-down flip;
# 6 transposition; 7 left-right flip of turn 1.
INVERSE = (0, 3, 2, 1, 4, 5, 6, 7)
KEEPS_SHAPE = (0, 2, 4, 5)


def dihedral(grids: np.ndarray, number: int) -> np.ndarray:
    """Grids [..., H, W] under symmetry `number`, 0 to 7; a view where that is possible."""
    if number < 4:
        return np.rot90(grids, number, axes=(-2, -1))
    if number == 6:
        return grids.swapaxes(-2, -1)
    return np.flip(np.rot90(grids, axes=(-2, -1)) if number == 7 else grids, -2 if number == 5 else -1)
