"""Mazes as PNG and GIF: the path blue, cells of it that are wrong red. The same input gives the same bytes."""

from __future__ import annotations

import numpy as np
from PIL.ImageDraw import ImageDraw as Draw

from trm_jax.storage.paths import AnyPath
from trm_jax.tasks.maze.grids import GOAL, START, WALL
from trm_jax.tasks.maze.paths import problems
from trm_jax.tasks.pictures import BAD, GOOD, INK, MODEL, PAPER, Color, Point, box, save_captioned, save_thinking

ENDS: Color = (222, 158, 14)
NEW: Color = (120, 170, 235)  # on the path since this step


def _cell(maze: np.ndarray) -> int:
    return max(4, min(40, 480 // max(maze.shape)))


def _size(maze: np.ndarray) -> Point:
    return (maze.shape[1] * _cell(maze) + 2, maze.shape[0] * _cell(maze) + 2)


def _draw_maze(draw: Draw, at: Point, maze: np.ndarray, answer: np.ndarray, before: np.ndarray) -> None:
    """An answer [H, W] to a maze inside a frame; before: the answer of the step before."""
    cell, (width, height) = _cell(maze), _size(maze)
    box(draw, *at, width, height, INK)
    for (row, column), token in np.ndenumerate(maze):
        on_path = answer[row, column] >= START
        fill = INK if token == WALL else PAPER
        if on_path:
            fill = BAD if token == WALL else MODEL if before[row, column] >= START else NEW
        if token in (START, GOAL):
            fill = ENDS
        box(draw, at[0] + 1 + column * cell, at[1] + 1 + row * cell, cell, cell, fill)
        if token in (START, GOAL) and cell >= 10:
            middle = (at[0] + 1 + column * cell + cell / 2, at[1] + 1 + row * cell + cell / 2)
            draw.text(middle, "S" if token == START else "G", fill=INK, font_size=round(cell * 0.8), anchor="mm")


def maze_png(path: str | AnyPath, maze: np.ndarray, answer: np.ndarray, *, caption: str = "") -> None:
    """Write an answer [H, W] to a maze as PNG."""
    save_captioned(path, _size(maze), lambda draw, at: _draw_maze(draw, at, maze, answer, answer), caption)


def maze_gif(
    path: str | AnyPath, maze: np.ndarray, frames: np.ndarray, q: np.ndarray, *, halted_at: int | None = None
) -> None:
    """Write an endless GIF of the answers after each supervision step, [steps, H, W] (see `save_thinking`)."""

    def frame(draw: Draw, at: Point, step: int) -> tuple[str, Color]:
        answer = frames[step - 1] if step else maze
        _draw_maze(draw, at, maze, answer, frames[step - 2] if step > 1 else answer)
        cells = int((answer >= START).sum())
        if not step or problems(maze, answer):
            return f"{cells} cells of a path", BAD if step else INK
        return f"solved in {cells} cells", GOOD

    save_thinking(path, _size(maze), frame, q, halted_at=halted_at)
