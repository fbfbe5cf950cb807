"""Sudoku boards as text, PNG and GIF. The same input gives the same bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath
from trm_jax.tasks.sudoku.check import as_boards, board_size, box_shape, check_answer
from trm_jax.tasks.sudoku.drawing import (
    CONFLICT,
    INK,
    MUTED,
    SOLVED,
    Color,
    board_pixels,
    canvas,
    draw_board,
    draw_confidence_legend,
    draw_halting,
    draw_steps,
    save_gif,
    save_png,
    sized_font,
    wrapped,
)

if TYPE_CHECKING:
    from PIL import Image

BOLD, RED, RESET = "\x1b[1m", "\x1b[31m", "\x1b[0m"
HOLD_FRAMES, HOLD_MIN_MS = 4, 2000  # how long the last frame of a GIF stands


def board_text(question: ArrayLike, answer: ArrayLike, *, color: bool) -> str:
    """An answer [size * size] as a board with box borders for a terminal, without a final newline.

    Blanks are dots. With `color` clues are bold and wrong cells (they repeat in their row, column or box, or
    differ from their clue) are red; without it a wrong cell has a `!` behind its digit and the text holds no
    escape codes. Whether to colour (a terminal, no NO_COLOR) is for the caller to find out.
    """
    size, question, answer = _question_and(question, answer, "answer")
    rows, columns = box_shape(size)
    check = check_answer(question, answer, size)
    wrong = check.conflicts | check.changed_clues

    def cell(index: int) -> str:
        digit = str(answer[index] or ".")
        if not color:
            return f" {digit}{'!' if wrong[index] else ' '}"
        style = (BOLD if question[index] else "") + (RED if wrong[index] else "")
        return f" {style}{digit}{RESET} " if style else f" {digit} "

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


def board_png(
    path: str | AnyPath,
    question: ArrayLike,
    answer: ArrayLike,
    *,
    confidence: ArrayLike | None = None,
    caption: str = "",
) -> None:
    """Write one board as PNG: clues dark on grey, the model's digits blue, conflicts on red.

    question, answer: [size * size] of 0 (blank) to size. confidence: [size * size] in 0..1, shades the cells
    that the model filled, the less sure the darker, on a fixed scale. A clue that the answer changed stands
    small in the corner of its cell. InputError names a wrong shape or range.
    """
    size, question, answer = _question_and(question, answer, "answer")
    if confidence is not None:
        confidence = _probabilities(confidence, size * size, "confidence")
    cell, margin, font = 64, 28, sized_font(20)
    width = board_pixels(size, cell) + 2 * margin
    lines = wrapped(caption, font, width - 2 * margin)
    legend_height = 40 if confidence is not None else 0
    caption_height = 28 * len(lines) + 12 if lines else 0
    image, draw = canvas(width, width + legend_height + caption_height)
    draw_board(draw, (margin, margin), cell, question, answer, confidence=confidence)
    y = width - 4
    if confidence is not None:
        draw_confidence_legend(draw, (margin, y), width - 2 * margin)
        y += legend_height
    for line in lines:
        draw.text((width // 2, y + 10), line, fill=INK, font=font, anchor="mm")
        y += 28
    save_png(path, image)


def thinking_gif(
    path: str | AnyPath,
    question: ArrayLike,
    frames: ArrayLike,
    *,
    halted_at: int | None = None,
    q: ArrayLike | None = None,
    ms_per_frame: int = 500,
) -> None:
    """Write an endless GIF of the model's answer after each supervision step.

    frames: [steps, size * size] of 0 (blank) to size. q: [steps], sigmoid(q_halt) after each step. halted_at:
    the step, from 1, at which the model chose to halt. The file has steps + 1 frames: the question, then the
    steps; digits that changed since the step before are framed (the first step has none before it). A frame
    lasts `ms_per_frame` milliseconds, a multiple of 10, the last one four times that, at least two seconds.
    InputError names a wrong shape or range.
    """
    size, question, frames, q = _thinking(question, frames, halted_at, q)
    if ms_per_frame < 20 or ms_per_frame % 10:
        raise InputError(f"ms_per_frame is {ms_per_frame}: choose a multiple of 10, 20 or more")
    steps = len(frames)
    images = [_thinking_image(size, question, frames, step, halted_at, q) for step in range(steps + 1)]
    durations = [ms_per_frame] * steps + [max(HOLD_FRAMES * ms_per_frame, HOLD_MIN_MS)]
    save_gif(path, images, durations)


def thinking_strip_png(
    path: str | AnyPath,
    question: ArrayLike,
    frames: ArrayLike,
    *,
    halted_at: int | None = None,
    q: ArrayLike | None = None,
    columns: int = 4,
) -> None:
    """Write the steps of `thinking_gif` side by side as PNG, the question first, `columns` boards a row."""
    size, question, frames, q = _thinking(question, frames, halted_at, q)
    if columns < 1:
        raise InputError(f"columns is {columns}: choose 1 or more boards a row")
    cell, gap, header, font = min(48, 234 // size), 20, 28, sized_font(15)
    board = board_pixels(size, cell)
    columns = min(columns, len(frames) + 1)
    rows = -(-(len(frames) + 1) // columns)
    image, draw = canvas(columns * (board + gap) + gap, rows * (board + header + gap) + gap)
    for step in range(len(frames) + 1):
        x = gap + step % columns * (board + gap)
        y = gap + step // columns * (board + header + gap)
        answer = frames[step - 1] if step else question
        title, color = (f"step {step}", INK) if step else ("question", MUTED)
        if step and step == halted_at:
            title, color = f"step {step}, halts", SOLVED
        draw.text((x, y + 10), title, fill=color, font=font, anchor="lm")
        if step and q is not None:
            draw.text((x + board, y + 10), f"q {q[step - 1]:.2f}", fill=MUTED, font=font, anchor="rm")
        draw_board(draw, (x, y + header), cell, question, answer, changed=_changed(frames, step))
    save_png(path, image)


def _thinking_image(
    size: int,
    question: np.ndarray,
    frames: np.ndarray,
    step: int,
    halted_at: int | None,
    q: np.ndarray | None,
) -> Image.Image:
    """One frame of the GIF: header, board, a segment for each step and, with `q`, the halting bar."""
    cell, margin, header = min(72, 432 // size), 24, 36
    board = board_pixels(size, cell)
    image, draw = canvas(board + 2 * margin, margin + header + board + 44 + (0 if q is None else 30))
    answer, changed = (frames[step - 1] if step else question), _changed(frames, step)
    title = f"step {step} of {len(frames)}" if step else "question"
    draw.text((margin, margin + 10), title, fill=INK, font=sized_font(20), anchor="lm")
    status, color = _status(question, answer, size)
    draw.text((margin + board, margin + 10), status, fill=color, font=sized_font(18), anchor="rm")
    draw_board(draw, (margin, margin + header), cell, question, answer, changed=changed)
    y = margin + header + board + 16
    draw_steps(draw, (margin, y), board, len(frames), step, halted_at)
    if q is not None:
        draw_halting(draw, (margin, y + 30), board, q[step - 1] if step else None)
    return image


def _status(question: np.ndarray, answer: np.ndarray, size: int) -> tuple[str, Color]:
    check = check_answer(question, answer, size)
    wrong = int((check.conflicts | check.changed_clues).sum())
    if check.solved:
        return "solved", SOLVED
    if wrong:
        return f"{wrong} in conflict", CONFLICT
    blank = int((answer == 0).sum())
    return f"{blank} blank", MUTED


def _question_and(question: ArrayLike, other: ArrayLike, name: str, ndim: int = 1):
    size = board_size(question, "question")
    return size, as_boards(question, size, "question"), as_boards(other, size, name, ndim=ndim)


def _thinking(question: ArrayLike, frames: ArrayLike, halted_at: int | None, q: ArrayLike | None):
    size, question, frames = _question_and(question, frames, "frames", ndim=2)
    if halted_at is not None and not 1 <= halted_at <= len(frames):
        raise InputError(f"halted_at is {halted_at}: pass a step from 1 to {len(frames)}, or None")
    return size, question, frames, None if q is None else _probabilities(q, len(frames), "q")


def _probabilities(values: ArrayLike, length: int, name: str) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    if array.shape != (length,):
        raise InputError(f"{name} has shape {list(array.shape)}: pass shape [{length}]")
    if not ((array >= 0) & (array <= 1)).all():
        raise InputError(f"{name} holds a number outside 0..1: pass probabilities, not logits")
    return array


def _changed(frames: np.ndarray, step: int) -> np.ndarray | None:
    """Cells of `step` (from 1) that differ from the step before; None where there is no step before."""
    return frames[step - 1] != frames[step - 2] if step > 1 else None
