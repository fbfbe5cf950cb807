"""ARC grids as PNG and GIF: the input left, the answer right. The same input gives the same bytes."""

from __future__ import annotations

import numpy as np
from PIL.ImageDraw import ImageDraw as Draw

from trm_jax.storage.paths import AnyPath
from trm_jax.tasks.arc.grids import crop
from trm_jax.tasks.pictures import INK, MUTED, Color, Point, box, save_captioned, save_thinking, sized_font

# As ARC's own viewer shows 0 to 9.
COLORS: tuple[Color, ...] = (
    (0, 0, 0), (0, 116, 217), (255, 65, 54), (46, 204, 64), (255, 220, 0),
    (170, 170, 170), (240, 18, 190), (255, 133, 27), (127, 219, 255), (135, 12, 37),
)  # fmt: skip
LINE: Color = (85, 85, 85)
_GAP = 40  # pixels between the two grids, where the arrow is


def _cell(inputs: np.ndarray) -> int:
    """Pixels of a cell, from the square [side * side] that grids sit in."""
    return max(6, min(40, 360 // round(len(inputs) ** 0.5)))


def _size(inputs: np.ndarray) -> Point:
    side = round(len(inputs) ** 0.5) * _cell(inputs)
    return 2 * side + _GAP, side


def _draw_grid(draw: Draw, at: Point, cell: int, grid: np.ndarray) -> None:
    for (row, column), color in np.ndenumerate(grid):
        x, y = at[0] + column * cell, at[1] + row * cell
        box(draw, x, y, cell, cell, LINE)
        box(draw, x, y, cell - 1, cell - 1, COLORS[color])


def _draw(draw: Draw, at: Point, inputs: np.ndarray, answer: np.ndarray | None) -> None:
    """Both [side * side] tokens; answer None: not there yet."""
    cell, (width, height) = _cell(inputs), _size(inputs)
    _draw_grid(draw, at, cell, crop(inputs))
    draw.text((at[0] + width // 2, at[1] + height // 2), "→", fill=INK, font=sized_font(24), anchor="mm")
    if answer is not None:
        right, grid = (at[0] + (width + _GAP) // 2, at[1]), crop(answer)
        _draw_grid(draw, right, cell, grid)
        if not grid.size:
            draw.text(right, "no grid", fill=MUTED, font=sized_font(16))


def arc_png(path: str | AnyPath, inputs: np.ndarray, answer: np.ndarray, *, caption: str = "") -> None:
    """Write an input and an answer, both [side * side] tokens, as PNG."""
    save_captioned(path, _size(inputs), lambda draw, at: _draw(draw, at, inputs, answer), caption)


def arc_gif(
    path: str | AnyPath, inputs: np.ndarray, frames: np.ndarray, q: np.ndarray, *, halted_at: int | None = None
) -> None:
    """Write an endless GIF of the answers after each supervision step, [steps, side * side] (see `save_thinking`)."""

    def frame(draw: Draw, at: Point, step: int) -> tuple[str, Color]:
        _draw(draw, at, inputs, frames[step - 1] if step else None)
        shape = crop(frames[step - 1]).shape if step else crop(inputs).shape
        return "{} x {}".format(*shape), MUTED

    save_thinking(path, _size(inputs), frame, q, halted_at=halted_at)
