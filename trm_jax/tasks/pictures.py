"""Pictures of any task: fonts, flat boxes, and files written in one step. The same input gives the same bytes."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageFont
from PIL.ImageDraw import ImageDraw as Draw

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path, write_whole

Color = tuple[int, int, int]
Point = tuple[int, int]
PAPER: Color = (255, 255, 255)
INK: Color = (31, 35, 40)
MUTED: Color = (110, 119, 129)
TRACK: Color = (228, 232, 236)
MODEL: Color = (9, 105, 218)  # what the model wrote
BAD: Color = (190, 24, 36)
GOOD: Color = (26, 127, 55)

FRAME_MS, LAST_FRAME_MS = 500, 2000


def require_suffix(path: AnyPath, suffix: str) -> None:
    """Raise InputError if the name of a picture does not end in `suffix`."""
    if path.suffix.lower() != suffix:
        raise InputError(f"cannot write a {suffix[1:].upper()} to {path}: let the name end in {suffix}")


def write_picture(path: str | AnyPath, suffix: str, data: bytes) -> None:
    """Put `data` at `path` in one step, making its folder.

    Raises InputError if the name does not end in `suffix` or the file cannot be written.
    """
    path = as_path(path)
    require_suffix(path, suffix)
    try:
        write_whole(path, data)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}: choose another place") from error


@cache
def sized_font(pixels: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font."""
    return ImageFont.load_default(size=pixels)


def box(draw: Draw, x: int, y: int, width: int, height: int, fill: Color) -> None:
    """A filled rectangle with its upper left corner at (x, y)."""
    if width > 0:
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=fill)


def save_png(path: str | AnyPath, image: Image.Image) -> None:
    """Write one image as PNG; `write_picture` tells how."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    write_picture(path, ".png", buffer.getvalue())


def save_gif(path: str | AnyPath, images: Sequence[Image.Image], durations_ms: list[int]) -> None:
    """Write RGB images of one size as an endless GIF; `write_picture` tells how.

    They share the 256 commonest colours: no flicker, exact flat colours.
    """
    pixels = np.stack([np.asarray(image, dtype=np.int64) for image in images])
    packed = (pixels << np.array([16, 8, 0])).sum(axis=-1)
    colors, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    rgb = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=-1)
    palette = rgb[np.argsort(-counts, kind="stable")[:256]]
    nearest = ((rgb[:, None] - palette) ** 2).sum(axis=-1).argmin(axis=1).astype(np.uint8)
    frames = [Image.fromarray(frame) for frame in nearest[inverse].reshape(packed.shape)]
    for frame in frames:
        frame.putpalette(palette.astype(np.uint8).tobytes())
    buffer, how = io.BytesIO(), {"save_all": True, "loop": 0, "optimize": True}  # `optimize` halves the file
    frames[0].save(buffer, "GIF", append_images=frames[1:], duration=durations_ms, **how)
    write_picture(path, ".gif", buffer.getvalue())


def save_captioned(
    path: str | AnyPath, size: Point, figure: Callable[[Draw, Point], None], caption: str = "", margin: int = 28
) -> None:
    """Write a PNG of a figure of `size` pixels, which draws itself at a point, with a caption below it."""
    (width, height), font = size, sized_font(20)
    lines = textwrap.wrap(caption, max(1, int(width / font.getlength("n"))))
    below = 28 * len(lines) + 12 if lines else 0
    image = Image.new("RGB", (width + 2 * margin, height + 2 * margin + below), PAPER)
    draw = Draw(image)
    figure(draw, (margin, margin))
    for number, line in enumerate(lines):
        at = (image.width // 2, height + 2 * margin + 6 + 28 * number)
        draw.text(at, line, fill=INK, font=font, anchor="mm")
    save_png(path, image)


def save_thinking(
    path: str | AnyPath,
    size: Point,
    frame: Callable[[Draw, Point, int], tuple[str, Color]],
    q: np.ndarray,
    *,
    halted_at: int | None = None,
) -> None:
    """Write an endless GIF of what a model answers after each supervision step: steps + 1 frames, the puzzle first.

    frame(draw, at, step): draws what stands after `step` (0: the puzzle), `size` pixels large, and says in a word and a
    colour how good it is. q [steps]: sigmoid(q_halt) after each step. halted_at: the step, from 1, at which the model
    chose to halt.
    """
    images, (width, height), margin, header = [], size, 24, 36
    for step in range(len(q) + 1):
        image = Image.new("RGB", (width + 2 * margin, margin + header + height + 74), PAPER)
        draw = Draw(image)
        status, color = frame(draw, (margin, margin + header), step)
        title = f"step {step} of {len(q)}" if step else "question"
        draw.text((margin, margin + 10), title, fill=INK, font=sized_font(20), anchor="lm")
        draw.text((margin + width, margin + 10), status, fill=color, font=sized_font(18), anchor="rm")
        y = margin + header + height + 16
        _draw_steps(draw, (margin, y), width, len(q), step, halted_at)
        _draw_halting(draw, (margin, y + 30), width, float(q[step - 1]) if step else None)
        images.append(image)
    save_gif(path, images, [FRAME_MS] * len(q) + [LAST_FRAME_MS])


def _draw_steps(draw: Draw, origin: Point, width: int, steps: int, step: int, halted_at: int | None) -> None:
    """A segment for each step: done ones dark, the one that halts (once reached) and those after it green."""
    gap = 3 if steps <= width // 8 else 0
    edges = [round(index * (width + gap) / steps) for index in range(steps + 1)]
    for index, (start, end) in enumerate(zip(edges[:-1], edges[1:], strict=True), start=1):
        halted = halted_at is not None and index >= halted_at
        fill = TRACK if index > step else GOOD if halted else INK
        box(draw, origin[0] + start, origin[1], max(1, end - start - gap), 8, fill)


def _draw_halting(draw: Draw, origin: Point, width: int, q: float | None) -> None:
    """`halt`, a bar of the probability with a tick at one half (where the model halts), and its figure."""
    x, y = origin
    left, length = x + 48, width - 48 - 52
    draw.text((x, y), "halt", fill=MUTED, font=sized_font(17), anchor="lm")
    box(draw, left, y - 5, length, 10, TRACK)
    if q is not None:
        box(draw, left, y - 5, round(length * q), 10, GOOD if q > 0.5 else MODEL)
        draw.text((x + width, y), f"{q:.2f}", fill=INK, font=sized_font(17), anchor="rm")
    box(draw, left + length // 2, y - 8, 2, 16, INK)
