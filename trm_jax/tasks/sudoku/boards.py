"""Sudoku boards of three sizes: their text form, their geometry and the rules.

A board is a flat [size*size] uint8 array, row by row, 0 = blank, 1..size = digit. Boxes are 2x2 cells (size
4), 2 rows x 3 columns (size 6) and 3x3 (size 9).
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field

import numpy as np

from trm_jax.errors import InputError

BOX_HEIGHT = {4: 2, 6: 2, 9: 3}
SIZES = tuple(BOX_HEIGHT)
BAD = 255  # what `DIGIT_OF_BYTE` holds for a character that is neither a blank nor a digit

DIGIT_OF_BYTE = np.full(256, BAD, np.uint8)
DIGIT_OF_BYTE[ord(".")] = 0
DIGIT_OF_BYTE[ord("0") : ord("9") + 1] = np.arange(10)


@dataclass(frozen=True)
class Boards:
    """One split of Sudoku puzzles."""

    size: int  # 4, 6 or 9
    questions: np.ndarray  # [N, size*size] uint8, 0 = blank, 1..size
    answers: np.ndarray  # [N, size*size] uint8
    ratings: np.ndarray  # [N] int32: guesses of our solver, or the file's column
    sources: tuple[str, ...]  # [N] where each puzzle is from, as the file's column says
    origin: str = "generated"  # the file, for messages
    rows: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))  # [N] place in the origin
    unit: str = "line"  # what `rows` counts

    def __len__(self) -> int:
        return len(self.questions)

    def take(self, indices: np.ndarray) -> Boards:
        """The boards at `indices` [M], in that order."""
        return dataclasses.replace(
            self,
            questions=self.questions[indices],
            answers=self.answers[indices],
            ratings=self.ratings[indices],
            sources=tuple(self.sources[i] for i in indices),
            rows=self.rows[indices],
        )

    def where(self, row: int) -> str:
        """The place of a board, for messages."""
        return f"{self.origin} {self.unit} {self.rows[row]}"


def check_size(size: int) -> None:
    """Raise `InputError` unless boards of this size exist."""
    if size not in BOX_HEIGHT:
        raise InputError(f"no Sudoku boards of size {size}: choose 4, 6 or 9")


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


def conflicts(boards: np.ndarray, size: int) -> np.ndarray:
    """[N] bool: does a digit stand twice in a row, column or box of boards [N, size*size]?"""
    result = np.zeros(len(boards), bool)
    members = [np.flatnonzero((units(size) == unit).any(axis=1)) for unit in range(3 * size)]
    for cells in members:
        part = np.sort(boards[:, cells], axis=1)
        result |= ((part[:, 1:] == part[:, :-1]) & (part[:, 1:] > 0)).any(axis=1)
    return result


def complete(boards: np.ndarray, size: int) -> np.ndarray:
    """[N] bool: is every cell of boards [N, size*size] filled and every rule kept?"""
    return (boards > 0).all(axis=1) & ~conflicts(boards, size)


def parse_board(text: str, where: str) -> np.ndarray:
    """The board written as `size*size` characters ('.' or '0' = blank), [size*size] uint8.

    `where` names the place in the message of the `InputError` that a wrong length or letter raises.
    """
    text = text.strip()
    size = {n * n: n for n in SIZES}.get(len(text))
    if size is None:
        raise InputError(f"{where}: a board has 16, 36 or 81 characters, this one has {len(text)}")
    for place, letter in enumerate(text):
        if letter != "." and not (letter.isascii() and letter.isdigit() and int(letter) <= size):
            raise InputError(f"{where}: character {place + 1} is {letter!r}: write 1..{size}, '.' or '0'")
    return DIGIT_OF_BYTE[np.frombuffer(text.encode(), np.uint8)]


def format_line(board: np.ndarray) -> str:
    """The text form of a board [size*size]: digits, '.' for a blank."""
    return "".join("." if digit == 0 else str(int(digit)) for digit in board)


def format_grid(board: np.ndarray) -> str:
    """A board [size*size] drawn over several lines, with rules between the boxes."""
    size = int(len(board) ** 0.5)
    height = BOX_HEIGHT[size]
    width = size // height
    rule = "+".join(["-" * (2 * width + 1)] * height)[1:-1]
    lines = []
    for row in range(size):
        if row and row % height == 0:
            lines.append(rule)
        cells = format_line(board[row * size : (row + 1) * size])
        lines.append(" | ".join(" ".join(cells[at : at + width]) for at in range(0, size, width)))
    return "\n".join(lines)
