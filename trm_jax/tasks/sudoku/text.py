"""Boards as text: printed, and read as people write them (a line, several lines, grid lines, a CSV file).

A cell is one character: 1..9, then A..G or a..g. A blank is one of `. 0 _ * x`, or a space where rows are as wide as
the board. Spaces and bars between cells, lines of a drawn grid and blank lines are passed over.
"""

from __future__ import annotations

import io
import re

import numpy as np

from trm_jax.data.text_files import is_table, table
from trm_jax.errors import InputError
from trm_jax.tasks.sudoku.boards import BOX_HEIGHT, SIZE_OF, SYMBOLS, wrong_cells
from trm_jax.tasks.sudoku.csv_files import BAD, CELLS, DIGIT_OF_BYTE, digits_of, rows_of

_BARS = "|¦│┃║┆┇┊┋"
_BAR = re.compile(f"[{_BARS}]")
_RULE = re.compile(f"[-=+─-╿ ¦|]*(?![{_BARS}])[-=+─-╿][-=+─-╿ ¦|]*")
_BOLD, _RED, _RESET = "\x1b[1m", "\x1b[31m", "\x1b[0m"

Row = tuple[int, str]  # line number, what it says without line end


def read_boards(text: str, size: int = 9) -> list[tuple[int, np.ndarray]]:
    """(line, board [size*size] uint8) of every board in `text`. Raises `InputError` naming the line.

    size: of the boards that are asked for. Others are read as well, but 16 cells on a line are a row if it is 16, and
    else a board of 4x4.
    """
    if is_table(text):
        rows = rows_of(table(io.StringIO(text), "", need=("question",)))
        return [(line, _board(line, question)) for line, (_, question, *_) in rows]
    found: list[tuple[int, np.ndarray]] = []
    begun: list[Row] = []  # rows of a board whose other rows are still to come
    for number, line in enumerate(map(_first_long_field, _dotted(text.strip("\n").splitlines(), size)), 1):
        if _RULE.fullmatch(line):
            continue
        cells = _cells(number, line)
        if len(cells) in SIZE_OF and len(cells) != size and not begun:
            found.append((number, _board(number, cells)))
        elif len(cells) in BOX_HEIGHT and (not begun or len(cells) == len(begun[0][1])):
            begun.append((number, cells))
            if len(begun) == len(cells):
                found.append((begun[0][0], _board(begun[0][0], "".join(row for _, row in begun))))
                begun = []
        elif cells:
            raise _no_board(number, cells)
    if begun:
        width = len(begun[0][1])
        raise InputError(f"line {begun[0][0]}: a board of {width}x{width} begins here and has {len(begun)} rows")
    return found


def format_line(board: np.ndarray) -> str:
    """A board [size*size] on a line: digits, '.' for a blank."""
    return "".join(SYMBOLS[digit] for digit in board)


def board_text(question: np.ndarray, answer: np.ndarray, *, color: bool) -> str:
    """An answer as a board with box borders for a terminal, without a final newline.

    Blanks are dots. With `color` clues are bold and wrong cells are red; without it a wrong cell has a `!` behind
    its digit and the text holds no escape codes.
    """
    size = SIZE_OF[len(question)]
    rows, columns = BOX_HEIGHT[size], size // BOX_HEIGHT[size]
    wrong, _ = wrong_cells(question, answer, size)

    def cell(index: int) -> str:
        digit = SYMBOLS[answer[index]]
        if not color:
            return f" {digit}{'!' if wrong[index] else ' '}"
        style = (_BOLD if question[index] else "") + (_RED if wrong[index] else "")
        return f" {style}{digit}{_RESET} " if style else f" {digit} "

    def border(left: str, middle: str, right: str) -> str:
        return left + middle.join(["─" * 3 * columns] * (size // columns)) + right

    lines = [border("┌", "┬", "┐")]
    for row in range(size):
        if row and row % rows == 0:
            lines.append(border("├", "┼", "┤"))
        cells = [cell(row * size + column) for column in range(size)]
        boxes = ["".join(cells[start : start + columns]) for start in range(0, size, columns)]
        lines.append("│" + "│".join(boxes) + "│")
    return "\n".join([*lines, border("└", "┴", "┘")])


def _dotted(lines: list[str], size: int) -> list[str]:
    """The rows of one board whose blanks are spaces, with dots for them; any other lines as they are."""
    rows = len(lines)
    asked = rows in BOX_HEIGHT and (rows <= 9 or rows == size)  # 16 lines of 16 letters may be two drawings
    spaced = asked and max(map(len, lines)) == rows and " " in "".join(lines)
    return [line.ljust(rows).replace(" ", ".") for line in lines] if spaced else lines


def _is_cell(letter: str) -> bool:
    return letter.isascii() and DIGIT_OF_BYTE[ord(letter)] != BAD


def _first_long_field(line: str) -> str:
    """The question of a CSV row without a header, else the line without commas between its cells."""
    fields = [field.strip(" '\"") for field in re.split("[,;\t]", line)]
    if len(fields) == 1:
        return line
    long = (field for field in fields if len(field) >= 15 and all(map(_is_cell, field)))
    return next(long, " ".join(field or "." for field in fields))


def _cells(number: int, line: str) -> str:
    """The cells of a line, whatever stands between them."""
    cells = "".join(_BAR.sub("", line).split())
    strange = next((letter for letter in cells if not _is_cell(letter)), None)
    if strange:
        raise InputError(
            f"line {number}: {strange!r} is no cell of a board: write 1..9 (16x16: and A..G), "
            "and . 0 _ * or x for a blank"
        )
    return cells


def _no_board(number: int, cells: str) -> InputError:
    lost = "0" in cells and cells.isdigit() and len(cells) > 9
    hint = f"{' (a spreadsheet drops zeros at the start of a number)' * lost}: write blanks as dots"
    return InputError(f"line {number}: a board has {CELLS} cells, this one has {len(cells)}{hint}")


def _board(number: int, cells: str) -> np.ndarray:
    cells = _cells(number, cells)
    if len(cells) not in SIZE_OF:
        raise _no_board(number, cells)
    board, size = DIGIT_OF_BYTE[np.frombuffer(cells.encode(), np.uint8)], SIZE_OF[len(cells)]
    if board.max() > size:
        said = f"{SYMBOLS[board[board.argmax()]]} stands on a board of {size}x{size}"
        raise InputError(f"line {number}: {said}, where digits are {digits_of(size)}")
    return board
