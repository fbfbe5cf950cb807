"""MARC's 23 augmenters: what is done to every grid of a puzzle, inputs and outputs alike."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np

from trm_jax.tasks.dihedral import dihedral

Change = Callable[[np.ndarray], np.ndarray]
SHIFTS = 4  # a translation goes by fewer rows, and fewer columns


def _turn(symmetry: int) -> Change:
    return lambda grid: dihedral(grid, symmetry)


def _reflect(axis: int, reverse: bool) -> Change:
    def change(grid):
        halves = grid, np.flip(grid, axis)
        return np.concatenate(halves[::-1] if reverse else halves, axis)

    return change


def _enlarge(height: int, width: int) -> Change:
    return lambda grid: grid.repeat(height, 0).repeat(width, 1)


def _tile(down: int, across: int) -> Change:
    return lambda grid: np.tile(grid, (down, across))


def translation(down: int, right: int) -> Change:
    """Every cell so far down and right; what leaves the grid comes in on the other side."""
    return lambda grid: np.roll(grid, (down, right), (0, 1))


_TURNS = {
    "Rotate(90)": _turn(1),  # counter-clockwise
    "Rotate(270)": _turn(3),
    "Rotate(180)": _turn(2),
    "Flip(0)": _turn(5),  # upside down
    "Flip(1)": _turn(4),
    "Transpose": _turn(6),
}


def _larger(turn: Change) -> Change:
    return lambda grid: _enlarge(2, 2)(turn(grid))


# All but the translation, which is drawn.
FIXED: Mapping[str, Change] = {
    **_TURNS,
    **{
        f"Reflect({axis},reverse={str(reverse).lower()})": _reflect(axis, reverse)
        for reverse in (True, False)
        for axis in (0, 1)
    },
    "IncreaseResolution(2)": _enlarge(2, 2),
    "IncreaseHeight(2)": _enlarge(2, 1),
    "IncreaseWidth(2)": _enlarge(1, 2),
    **{f"{name}+IncreaseResolution(2)": _larger(turn) for name, turn in _TURNS.items()},
    "Repeat(0,2)": _tile(2, 1),
    "Repeat(1,2)": _tile(1, 2),
    "Repeat(2,2)": _tile(2, 2),
}


def changes(rng: np.random.Generator) -> Iterator[Change]:
    """All 23; the translation is drawn, one shift for all grids, which is not nothing."""
    yield from FIXED.values()
    yield translation(*divmod(int(rng.integers(1, SHIFTS**2)), SHIFTS))


def recolouring(used: set[int], rng: np.random.Generator) -> np.ndarray:
    """The new one of each colour [10] uint8, a permutation: 0 stays, used ones go to unused ones as far as those reach.

    Which of them go where is drawn; the rest change places among themselves.
    """
    colours = np.arange(1, 10)
    is_used = np.isin(colours, list(used))
    leaving, unused = rng.permutation(colours[is_used]), rng.permutation(colours[~is_used])
    pairs = min(len(leaving), len(unused))
    new = np.arange(10, dtype=np.uint8)
    new[leaving[:pairs]], new[unused[:pairs]] = unused[:pairs], leaving[:pairs]
    rest = leaving[pairs:]
    new[rest] = rng.permutation(rest)
    return new
