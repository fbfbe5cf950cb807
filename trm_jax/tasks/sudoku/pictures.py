"""Sudoku boards as PNG and GIF. The same input gives the same bytes.

A board is [size*size] whole numbers, 0 = blank. Clues are dark on grey, the model's digits blue, wrong cells (they
repeat in their row, column or box, or differ from their clue) on red.
"""

from __future__ import annotations

import textwrap

import numpy as np
from PIL import Image
from PIL.ImageDraw import ImageDraw as Draw

from trm_jax.storage.paths import AnyPath
from trm_jax.tasks.pictures import PAPER, Color, box, save_gif, save_png, sized_font
from trm_jax.tasks.sudoku.boards import BOX_HEIGHT, SIZE_OF, wrong_cells

INK: Color = (31, 35, 40)
MUTED: Color = (110, 119, 129)
HAIRLINE: Color = (200, 206, 213)
TRACK: Color = (228, 232, 236)
CLUE_FILL: Color = (236, 239, 242)
MODEL: Color = (9, 105, 218)
CONFLICT: Color = (190, 24, 36)
CONFLICT_FILL: Color = (255, 222, 219)
CHANGED: Color = (222, 158, 14)
CHANGED_FILL: Color = (255, 243, 196)
SOLVED: Color = (26, 127, 55)

FRAME_MS, LAST_FRAME_MS = 500, 2000
THICK = 3  # pixels of a line between boxes
Point = tuple[int, int]


def board_png(path: str | AnyPath, question: np.ndarray, answer: np.ndarray, *, caption: str = "") -> None:
    """Write one board as PNG. A clue that the answer changed stands small in the corner of its cell."""
    cell, margin, font = 64, 28, sized_font(20)
    width = SIZE_OF[len(question)] * cell + THICK + 2 * margin
    lines = textwrap.wrap(caption, int((width - 2 * margin) / font.getlength("n")))
    image = Image.new("RGB", (width, width + (28 * len(lines) + 12 if lines else 0)), PAPER)
    draw = Draw(image)
    _draw_board(draw, (margin, margin), cell, question, answer, changed=answer != answer)
    for number, line in enumerate(lines):
        draw.text((width // 2, width + 6 + 28 * number), line, fill=INK, font=font, anchor="mm")
    save_png(path, image)


def thinking_gif(
    path: str | AnyPath, question: np.ndarray, frames: np.ndarray, q: np.ndarray, *, halted_at: int | None = None
) -> None:
    """Write an endless GIF of the model's answer after each supervision step.

    frames: [steps, size*size]. q: [steps], sigmoid(q_halt) after each step. halted_at: the step, from 1, at which
    the model chose to halt. The file has steps + 1 frames: the question, then the steps; digits that changed since
    the step before are framed (the first step has none before it).
    """
    images = [_thinking_image(question, frames, step, halted_at, q) for step in range(len(frames) + 1)]
    save_gif(path, images, [FRAME_MS] * len(frames) + [LAST_FRAME_MS])


def _thinking_image(
    question: np.ndarray, frames: np.ndarray, step: int, halted_at: int | None, q: np.ndarray
) -> Image.Image:
    """One frame of the GIF: header, board, a segment for each step and the halting bar."""
    size = SIZE_OF[len(question)]
    cell, margin, header = min(72, 432 // size), 24, 36
    board = size * cell + THICK
    image = Image.new("RGB", (board + 2 * margin, margin + header + board + 74), PAPER)
    draw = Draw(image)
    answer = frames[step - 1] if step else question
    changed = answer != (frames[step - 2] if step > 1 else answer)
    title = f"step {step} of {len(frames)}" if step else "question"
    draw.text((margin, margin + 10), title, fill=INK, font=sized_font(20), anchor="lm")
    wrong, blank = int(wrong_cells(question, answer, size)[0].sum()), int((answer == 0).sum())
    status, color = (f"{wrong} in conflict", CONFLICT) if wrong else (f"{blank} blank", MUTED)
    if not wrong and not blank:
        status, color = "solved", SOLVED
    draw.text((margin + board, margin + 10), status, fill=color, font=sized_font(18), anchor="rm")
    _draw_board(draw, (margin, margin + header), cell, question, answer, changed)
    y = margin + header + board + 16
    _draw_steps(draw, (margin, y), board, len(frames), step, halted_at)
    _draw_halting(draw, (margin, y + 30), board, float(q[step - 1]) if step else None)
    return image


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
            ink = INK if clue else CONFLICT if wrong[index] else MODEL
            stroke = {"stroke_width": cell / 90, "stroke_fill": ink} if clue else {}
            # The font's own middle includes descenders; a digit is centred on its body.
            _, up, _, down = font.getbbox("0", anchor="ls")
            middle = (x + cell / 2, y + cell / 2 - (up + down) / 2)
            draw.text(middle, str(answer[index]), fill=ink, font=font, anchor="ms", **stroke)
        if changed_clues[index]:
            corner, small = (x + cell * 0.16, y + cell * 0.2), sized_font(max(8, cell // 4))
            draw.text(corner, str(question[index]), fill=MUTED, font=small, anchor="mm")
    rows, columns, extent = BOX_HEIGHT[size], size // BOX_HEIGHT[size], size * cell + THICK
    # Thin lines first, so that no hairline crosses a box border.
    for heavy in (False, True):
        width, color, shift = (THICK, INK, 0) if heavy else (1, HAIRLINE, 1)
        for line in range(size + 1):
            if (line % columns == 0) == heavy:
                box(draw, origin[0] + line * cell + shift, origin[1], width, extent, color)
            if (line % rows == 0) == heavy:
                box(draw, origin[0], origin[1] + line * cell + shift, extent, width, color)


def _draw_steps(draw: Draw, origin: Point, width: int, steps: int, step: int, halted_at: int | None) -> None:
    """A segment for each step: done ones dark, the one that halts (once reached) and those after it green."""
    gap = 3 if steps <= width // 8 else 0
    edges = [round(index * (width + gap) / steps) for index in range(steps + 1)]
    for index, (start, end) in enumerate(zip(edges[:-1], edges[1:], strict=True), start=1):
        halted = halted_at is not None and index >= halted_at
        fill = TRACK if index > step else SOLVED if halted else INK
        box(draw, origin[0] + start, origin[1], max(1, end - start - gap), 8, fill)


def _draw_halting(draw: Draw, origin: Point, width: int, q: float | None) -> None:
    """`halt`, a bar of the probability with a tick at one half (where the model halts), and its figure."""
    x, y = origin
    left, length = x + 48, width - 48 - 52
    draw.text((x, y), "halt", fill=MUTED, font=sized_font(17), anchor="lm")
    box(draw, left, y - 5, length, 10, TRACK)
    if q is not None:
        box(draw, left, y - 5, round(length * q), 10, SOLVED if q > 0.5 else MODEL)
        draw.text((x + width, y), f"{q:.2f}", fill=INK, font=sized_font(17), anchor="rm")
    box(draw, left + length // 2, y - 8, 2, 16, INK)
