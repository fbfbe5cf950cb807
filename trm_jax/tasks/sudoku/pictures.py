"""Sudoku boards as PNG and GIF. The same input gives the same bytes.

A board is [size*size] whole numbers, 0 = blank. Clues are dark on grey, the model's digits blue, wrong cells (they
repeat in their row, column or box, or differ from their clue) on red.
"""

from __future__ import annotations

import numpy as np
from PIL.ImageDraw import ImageDraw as Draw

from trm_jax.storage.paths import AnyPath
from trm_jax.tasks.pictures import (
    BAD,
    GOOD,
    INK,
    MODEL,
    MUTED,
    PAPER,
    Color,
    Point,
    box,
    save_captioned,
    save_thinking,
    sized_font,
)
from trm_jax.tasks.sudoku.boards import BOX_HEIGHT, SIZE_OF, SYMBOLS, wrong_cells

HAIRLINE: Color = (200, 206, 213)
CLUE_FILL: Color = (236, 239, 242)
CONFLICT_FILL: Color = (255, 222, 219)
CHANGED: Color = (222, 158, 14)
CHANGED_FILL: Color = (255, 243, 196)

THICK = 3  # pixels of a line between boxes


def board_png(path: str | AnyPath, question: np.ndarray, answer: np.ndarray, *, caption: str = "") -> None:
    """Write one board as PNG. A clue that the answer changed stands small in the corner of its cell."""
    side = SIZE_OF[len(question)] * 64 + THICK
    save_captioned(path, (side, side), lambda draw, at: _draw_board(draw, at, 64, question, answer, answer != answer),
                   caption)  # fmt: skip


def thinking_gif(
    path: str | AnyPath, question: np.ndarray, frames: np.ndarray, q: np.ndarray, *, halted_at: int | None = None
) -> None:
    """Write an endless GIF of the model's answer after each supervision step, [steps, size*size] (see `save_thinking`).

    Digits that changed since the step before are framed (the first step has none before it).
    """
    size = SIZE_OF[len(question)]
    cell = min(72, 432 // size)

    def frame(draw: Draw, at: Point, step: int) -> tuple[str, Color]:
        answer = frames[step - 1] if step else question
        _draw_board(draw, at, cell, question, answer, answer != (frames[step - 2] if step > 1 else answer))
        wrong, blank = int(wrong_cells(question, answer, size)[0].sum()), int((answer == 0).sum())
        if wrong:
            return f"{wrong} in conflict", BAD
        return (f"{blank} blank", MUTED) if blank else ("solved", GOOD)

    side = size * cell + THICK
    save_thinking(path, (side, side), frame, q, halted_at=halted_at)


def _draw_board(
    draw: Draw, origin: Point, cell: int, question: np.ndarray, answer: np.ndarray, changed: np.ndarray
) -> None:
    """Draw one board with its upper left corner at `origin`, `cell` pixels from line to line; frame `changed` cells."""
    size = SIZE_OF[len(question)]
    wrong, changed_clues = wrong_cells(question, answer, size)
    font, (left, top) = sized_font(round(cell * 0.58)), origin
    for index in range(size * size):
        x, y = left + 1 + index % size * cell, top + 1 + index // size * cell
        fill = CLUE_FILL if question[index] else PAPER
        fill = CONFLICT_FILL if wrong[index] else CHANGED_FILL if changed[index] else fill
        box(draw, x, y, cell, cell, fill)
        if changed[index]:
            near, far = THICK + 1, cell - THICK - 1
            draw.rectangle((x + near, y + near, x + far, y + far), outline=CHANGED, width=max(1, cell // 24))
        if answer[index]:
            clue = question[index] > 0 and not changed_clues[index]
            ink = INK if clue else BAD if wrong[index] else MODEL
            stroke = {"stroke_width": cell / 90, "stroke_fill": ink} if clue else {}
            # The font's own middle includes descenders; a digit is centred on its body.
            _, up, _, down = font.getbbox("0", anchor="ls")
            middle = (x + cell / 2, y + cell / 2 - (up + down) / 2)
            draw.text(middle, SYMBOLS[answer[index]], fill=ink, font=font, anchor="ms", **stroke)
        if changed_clues[index]:
            corner, small = (x + cell * 0.16, y + cell * 0.2), sized_font(max(8, cell // 4))
            draw.text(corner, SYMBOLS[question[index]], fill=MUTED, font=small, anchor="mm")
    rows, columns, extent = BOX_HEIGHT[size], size // BOX_HEIGHT[size], size * cell + THICK
    # Thin lines first, so that no hairline crosses a box border.
    for heavy in (False, True):
        width, color, shift = (THICK, INK, 0) if heavy else (1, HAIRLINE, 1)
        for line in range(size + 1):
            if (line % columns == 0) == heavy:
                box(draw, origin[0] + line * cell + shift, origin[1], width, extent, color)
            if (line % rows == 0) == heavy:
                box(draw, origin[0], origin[1] + line * cell + shift, extent, width, color)
