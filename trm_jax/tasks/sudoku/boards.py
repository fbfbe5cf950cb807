"""Sudoku boards of four sizes: their geometry and the rules.

A board is a flat [size*size] uint8 array, row by row, 0 = blank, 1..size = digit. Boxes are 2x2 cells (size
4), 2 rows x 3 columns (size 6), 3x3 (size 9) and 4x4 (size 16).
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np

BOX_HEIGHT = {4: 2, 6: 2, 9: 3, 16: 4}
SIZE_OF = {size * size: size for size in BOX_HEIGHT}  # number of cells -> size
SYMBOLS = ".123456789ABCDEFG"  # of a blank and of each digit


@dataclass(frozen=True)
class Boards:
    """One split of Sudoku puzzles."""

    size: int  # of `BOX_HEIGHT`
    questions: np.ndarray  # [N, size*size] uint8, 0 = blank, 1..size
    answers: np.ndarray  # [N, size*size] uint8
    ratings: np.ndarray  # [N] int32: guesses of our solver, or the file's column
    sources: np.ndarray  # [N] str: where each puzzle is from, as the file's column says
    origin: str  # the file, for messages
    rows: np.ndarray  # [N] int64: place in the origin
    unit: str = "line"  # what `rows` counts

    def __len__(self) -> int:
        return len(self.questions)

    @property
    def clues(self) -> np.ndarray:
        """[N] the number of clues of each question."""
        return (self.questions > 0).sum(axis=1)

    def take(self, indices: np.ndarray) -> Boards:
        """The boards at `indices` [M], in that order."""
        names = ("questions", "answers", "ratings", "sources", "rows")
        return dataclasses.replace(self, **{name: getattr(self, name)[indices] for name in names})

    def where(self, row: int) -> str:
        """The place of a board, for messages."""
        return f"{self.origin} {self.unit} {self.rows[row]}"


@functools.cache
def units(size: int) -> np.ndarray:
    """[size*size, 3] int32: row, column and box of every cell, numbered 0..3*size-1 over the kinds."""
    cells = np.arange(size * size)
    row, col = cells // size, cells % size
    height = BOX_HEIGHT[size]
    box = row // height * height + col // (size // height)
    table = np.stack([row, size + col, 2 * size + box], axis=1).astype(np.int32)
    table.setflags(write=False)
    return table


@functools.cache
def cells_of_units(size: int) -> np.ndarray:
    """[3*size, size]: the cells of every row, column and box."""
    return np.stack([np.flatnonzero((units(size) == unit).any(axis=1)) for unit in range(3 * size)])


def complete(boards: np.ndarray, size: int) -> np.ndarray:
    """[N] bool: is every cell of boards [N, size*size] filled and every rule kept?"""
    result = np.ones(len(boards), bool)
    for cells in cells_of_units(size):
        bits = np.left_shift(np.uint32(1), boards[:, cells])
        result &= np.bitwise_or.reduce(bits, axis=1) == 2 ** (size + 1) - 2
    return result


@functools.cache
def _peers(size: int) -> np.ndarray:
    """Do two different cells share a row, column or box? bool [cells, cells]."""
    of_cell = units(size)
    return (of_cell[:, None] == of_cell).any(axis=-1) & ~np.eye(size * size, dtype=bool)


def conflicts(board: np.ndarray, size: int) -> np.ndarray:
    """[size*size] bool: the cells of a board whose digit stands again in their row, column or box."""
    return ((board[:, None] == board) & _peers(size)).any(axis=-1) & (board > 0)


def wrong_cells(question: np.ndarray, answer: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cells [size*size] that break a rule or a clue, and those whose clue the answer changed."""
    changed = (question > 0) & (answer != question)
    return conflicts(answer, size) | changed, changed


def problems(question: np.ndarray, answer: np.ndarray, size: int) -> tuple[str, ...]:
    """A line for each thing that is wrong with an answer to a question, both [size*size]; empty for a right one."""
    counts = np.zeros((3 * size, size + 1), np.int64)  # [unit, digit]
    np.add.at(counts, (units(size), answer[:, None]), 1)
    lines = []
    for unit, digit in np.argwhere(counts > 1):
        if digit:
            times = "twice" if counts[unit, digit] == 2 else f"{counts[unit, digit]} times"
            lines.append(f"{('row', 'column', 'box')[unit // size]} {unit % size + 1} holds {SYMBOLS[digit]} {times}")
    blank = np.flatnonzero(answer == 0)
    if len(blank):
        cells = "1 cell is" if len(blank) == 1 else f"{len(blank)} cells are"
        lines.append(f"{cells} blank, the first at {_place(blank[0], size)}")
    for cell in np.flatnonzero((question > 0) & (answer != question)):
        became = SYMBOLS[answer[cell]] if answer[cell] else "blank"
        lines.append(f"the clue {SYMBOLS[question[cell]]} at {_place(cell, size)} became {became}")
    return tuple(lines)


def _place(cell: int, size: int) -> str:
    return f"row {cell // size + 1} column {cell % size + 1}"
