"""Is this answer a Sudoku, and an answer to this question?"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from trm_jax.errors import InputError
from trm_jax.tasks.sudoku.boards import BOX_HEIGHT, SIZES, check_size, units


@dataclass(frozen=True)
class BoardCheck:
    """What `check_answer` found; the arrays are bool [size * size], row by row.

    valid: the answer is complete and holds every digit once in each row, column and box.
    agrees: every clue of the question stands unchanged in the answer.
    conflicts: cells whose digit occurs again in their row, column or box.
    changed_clues: cells whose clue the answer left blank or replaced.
    problems: one readable line for each thing that is wrong; empty exactly for a solved board.
    """

    valid: bool
    agrees: bool
    conflicts: np.ndarray
    changed_clues: np.ndarray
    problems: tuple[str, ...]

    @property
    def solved(self) -> bool:
        """The answer is valid and answers this question."""
        return self.valid and self.agrees


def box_shape(size: int) -> tuple[int, int]:
    """(rows, columns) of a box of a size x size board: (2, 2), (2, 3) and (3, 3) for 4, 6 and 9."""
    check_size(size)
    return BOX_HEIGHT[size], size // BOX_HEIGHT[size]


def board_size(board: ArrayLike, name: str = "board") -> int:
    """The size (4, 6 or 9) of the boards in an array [..., size * size]."""
    shape = np.shape(board)
    for size in SIZES:
        if shape and shape[-1] == size * size:
            return size
    raise InputError(f"{name} has shape {list(shape)}: pass rows of 16 (4x4), 36 (6x6) or 81 (9x9) cells")


def as_boards(boards: ArrayLike, size: int, name: str, *, ndim: int = 1) -> np.ndarray:
    """`boards` as int64 [..., size * size] of `ndim` axes; InputError unless integers 0 (blank) to size."""
    check_size(size)
    array = np.asarray(boards)
    wanted = [*["steps"] * (ndim - 1), size * size]
    if array.ndim != ndim or array.shape[-1] != size * size or array.size == 0:
        shape, wanted_shape = list(array.shape), ", ".join(map(str, wanted))
        raise InputError(f"{name} has shape {shape}: a {size}x{size} board needs shape [{wanted_shape}]")
    if array.dtype.kind not in "iu":
        raise InputError(f"{name} has dtype {array.dtype}: pass integers, 0 for blank and 1 to {size}")
    if array.min() < 0 or array.max() > size:
        where = np.argwhere((array < 0) | (array > size))[0]
        row, column = divmod(int(where[-1]), size)
        raise InputError(
            f"{name} holds {array[tuple(where)]} at row {row + 1} column {column + 1}: use 0 for blank and 1 to {size}"
        )
    return array.astype(np.int64)


@cache
def _peers(size: int) -> np.ndarray:
    """Do two different cells share a row, column or box? bool [cells, cells]."""
    of_cell = units(size)
    return (of_cell[:, None] == of_cell).any(axis=-1) & ~np.eye(size * size, dtype=bool)


def conflicting_cells(boards: np.ndarray, size: int) -> np.ndarray:
    """Cells whose digit occurs again in their row, column or box: int [..., cells] -> bool [..., cells]."""
    same = boards[..., :, None] == boards[..., None, :]
    return (same & _peers(size)).any(axis=-1) & (boards > 0)


def check_answer(question: ArrayLike, answer: ArrayLike, size: int) -> BoardCheck:
    """Check an answer against the rules and against its question; both [size * size] of 0 (blank) to size.

    Raises InputError for another shape, dtype or range. A model may predict the padding token: what
    that is on a board (a blank, say) is for the caller to decide.
    """
    question, answer = as_boards(question, size, "question"), as_boards(answer, size, "answer")
    conflicts = conflicting_cells(answer, size)
    changed = (question > 0) & (answer != question)
    blank = answer == 0
    return BoardCheck(
        valid=not (conflicts.any() or blank.any()),
        agrees=not changed.any(),
        conflicts=conflicts,
        changed_clues=changed,
        problems=(*_repeats(answer, size), *_blanks(blank, size), *_changes(question, answer, changed, size)),
    )


def _repeats(answer: np.ndarray, size: int) -> list[str]:
    counts = np.zeros((3 * size, size + 1), np.int64)  # [unit, digit]
    np.add.at(counts, (units(size), answer[:, None]), 1)
    counts[:, 0] = 0  # blanks repeat as they like
    lines = []
    for unit, digit in np.argwhere(counts > 1):
        kind, number = ("row", "column", "box")[unit // size], unit % size + 1
        times = "twice" if counts[unit, digit] == 2 else f"{counts[unit, digit]} times"
        lines.append(f"{kind} {number} holds {digit} {times}")
    return lines


def _blanks(blank: np.ndarray, size: int) -> list[str]:
    if not blank.any():
        return []
    row, column = divmod(int(blank.argmax()), size)
    count = int(blank.sum())
    cells = "1 cell is" if count == 1 else f"{count} cells are"
    return [f"{cells} blank, the first at row {row + 1} column {column + 1}"]


def _changes(question: np.ndarray, answer: np.ndarray, changed: np.ndarray, size: int) -> list[str]:
    lines = []
    for cell in np.flatnonzero(changed):
        row, column = divmod(int(cell), size)
        now = answer[cell] or "blank"
        lines.append(f"the clue {question[cell]} at row {row + 1} column {column + 1} became {now}")
    return lines
