"""How boards are drawn: colours, lines, digits, bars, the palette of a GIF, files written in one step."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path, write_whole
from trm_jax.tasks.sudoku.check import board_size, box_shape, check_answer

if TYPE_CHECKING:
    from PIL import Image, ImageDraw, ImageFont

Color = tuple[int, int, int]
PAPER: Color = (255, 255, 255)
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
UNSURE_FILL: Color = (250, 176, 92)
SOLVED: Color = (26, 127, 55)


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


def _pillow():
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise InputError("pillow is not installed, pictures of boards need it: pip install pillow") from error
    return Image, ImageDraw, ImageFont


@cache
def sized_font(pixels: int) -> ImageFont.FreeTypeFont:
    return _pillow()[2].load_default(size=pixels)


def canvas(width: int, height: int) -> tuple[Image.Image, ImageDraw.ImageDraw]:
    image_module, draw_module, _ = _pillow()
    image = image_module.new("RGB", (width, height), PAPER)
    return image, draw_module.Draw(image)


def _mix(first: Color, second: Color, share: float) -> Color:
    red, green, blue = (round(a + (b - a) * share) for a, b in zip(first, second, strict=True))
    return red, green, blue


def _box(draw: ImageDraw.ImageDraw, x: int, y: int, width: int, height: int, fill: Color) -> None:
    if width > 0:
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=fill)


def _thick(cell: int) -> int:
    return max(2, cell // 20)


def board_pixels(size: int, cell: int) -> int:
    return size * cell + _thick(cell)


def draw_board(
    draw: ImageDraw.ImageDraw,
    origin: tuple[int, int],
    cell: int,
    question: np.ndarray,
    answer: np.ndarray,
    *,
    changed: np.ndarray | None = None,
    confidence: np.ndarray | None = None,
) -> None:
    """Draw one board with its upper left corner at `origin`, `cell` pixels from line to line."""
    size = board_size(answer)
    check = check_answer(question, answer, size)
    wrong = check.conflicts | check.changed_clues
    thick = _thick(cell)
    left, top = origin[0] + thick // 2, origin[1] + thick // 2
    for index in range(size * size):
        x, y = left + index % size * cell, top + index // size * cell
        is_changed = changed is not None and changed[index]
        fill = CLUE_FILL if question[index] else PAPER
        if wrong[index]:
            fill = CONFLICT_FILL
        elif is_changed:
            fill = CHANGED_FILL
        elif confidence is not None and answer[index] and not question[index]:
            fill = _mix(UNSURE_FILL, PAPER, confidence[index])
        _box(draw, x, y, cell, cell, fill)
        if is_changed:
            near, far = thick + 1, cell - thick - 1
            frame = (x + near, y + near, x + far, y + far)
            draw.rectangle(frame, outline=CHANGED, width=max(1, cell // 24))
        if answer[index]:
            clue = question[index] > 0 and not check.changed_clues[index]
            ink = INK if clue else CONFLICT if wrong[index] else MODEL
            _draw_digit(draw, x + cell / 2, y + cell / 2, cell, str(answer[index]), ink, bold=clue)
        if check.changed_clues[index]:
            corner, small = (x + cell * 0.16, y + cell * 0.2), sized_font(max(8, cell // 4))
            draw.text(corner, str(question[index]), fill=MUTED, font=small, anchor="mm")
    _draw_lines(draw, origin, cell, size)


def _draw_lines(draw: ImageDraw.ImageDraw, origin: tuple[int, int], cell: int, size: int) -> None:
    rows, columns = box_shape(size)
    thick, extent = _thick(cell), board_pixels(size, cell)
    lines = range(size + 1)
    # Thin lines first, so that no hairline crosses a box border.
    for heavy in (False, True):
        width, color, shift = (thick, INK, 0) if heavy else (1, HAIRLINE, thick // 2)
        for line in lines:
            if (line % columns == 0) == heavy:
                _box(draw, origin[0] + line * cell + shift, origin[1], width, extent, color)
            if (line % rows == 0) == heavy:
                _box(draw, origin[0], origin[1] + line * cell + shift, extent, width, color)


def _draw_digit(
    draw: ImageDraw.ImageDraw, x: float, y: float, cell: int, digit: str, ink: Color, *, bold: bool
) -> None:
    font = sized_font(round(cell * 0.58))
    # The font's own middle includes descenders; a digit is centred on its body.
    _, top, _, bottom = font.getbbox("0", anchor="ls")
    baseline = y - (top + bottom) / 2
    stroke = cell / 90 if bold else 0
    draw.text((x, baseline), digit, fill=ink, font=font, anchor="ms", stroke_width=stroke, stroke_fill=ink)


def draw_confidence_legend(draw: ImageDraw.ImageDraw, origin: tuple[int, int], width: int) -> None:
    x, y = origin
    bar = min(160, width // 3)
    left = x + (width - bar) // 2
    for column in range(bar):
        _box(draw, left + column, y + 4, 1, 14, _mix(UNSURE_FILL, PAPER, column / (bar - 1)))
    draw.rectangle((left - 1, y + 3, left + bar, y + 18), outline=HAIRLINE)
    draw.text((left - 10, y + 11), "unsure", fill=MUTED, font=sized_font(16), anchor="rm")
    draw.text((left + bar + 10, y + 11), "sure", fill=MUTED, font=sized_font(16), anchor="lm")


def draw_steps(
    draw: ImageDraw.ImageDraw,
    origin: tuple[int, int],
    width: int,
    steps: int,
    step: int,
    halted_at: int | None,
) -> None:
    """A segment for each step: done ones dark, the one that halts (once reached) and those after it green."""
    gap = 3 if steps <= width // 8 else 0
    edges = [round(index * (width + gap) / steps) for index in range(steps + 1)]
    for index, (start, end) in enumerate(zip(edges[:-1], edges[1:], strict=True), start=1):
        halted = halted_at is not None and index >= halted_at
        fill = TRACK if index > step else SOLVED if halted else INK
        _box(draw, origin[0] + start, origin[1], max(1, end - start - gap), 8, fill)


def draw_halting(draw: ImageDraw.ImageDraw, origin: tuple[int, int], width: int, q: float | None) -> None:
    """`halt`, a bar of the probability with a tick at one half (where the model halts), and its figure."""
    x, y = origin
    left, length = x + 48, width - 48 - 52
    draw.text((x, y), "halt", fill=MUTED, font=sized_font(17), anchor="lm")
    _box(draw, left, y - 5, length, 10, TRACK)
    if q is not None:
        _box(draw, left, y - 5, round(length * q), 10, SOLVED if q > 0.5 else MODEL)
        draw.text((x + width, y), f"{q:.2f}", fill=INK, font=sized_font(17), anchor="rm")
    _box(draw, left + length // 2, y - 8, 2, 16, INK)


def wrapped(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    """`text` broken at its newlines and spaces into lines no wider than `width` pixels, where words allow."""
    lines: list[str] = []
    for paragraph in text.splitlines():
        line = ""
        for word in paragraph.split():
            longer = f"{line} {word}".strip()
            if line and font.getlength(longer) > width:
                lines.append(line)
                longer = word
            line = longer
        lines.append(line)
    return lines


def _one_palette(images: Sequence[Image.Image]) -> list[Image.Image]:
    """RGB images as palette images that share the 256 commonest colours: no flicker, exact flat colours."""
    image_module = _pillow()[0]
    pixels = np.stack([np.asarray(image, dtype=np.int64) for image in images])
    packed = (pixels << np.array([16, 8, 0])).sum(axis=-1)
    colors, inverse, counts = np.unique(packed, return_inverse=True, return_counts=True)
    rgb = np.stack([colors >> 16, colors >> 8 & 255, colors & 255], axis=-1)
    palette = rgb[np.argsort(-counts, kind="stable")[:256]]
    nearest = ((rgb[:, None] - palette) ** 2).sum(axis=-1).argmin(axis=1).astype(np.uint8)
    indexed = []
    for frame in nearest[inverse].reshape(packed.shape):
        image = image_module.fromarray(frame)
        image.putpalette(palette.astype(np.uint8).tobytes())
        indexed.append(image)
    return indexed


def save_png(path: str | AnyPath, image: Image.Image) -> None:
    """Write one image as PNG; `write_picture` tells how."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    write_picture(path, ".png", buffer.getvalue())


def save_gif(path: str | AnyPath, images: Sequence[Image.Image], durations_ms: Sequence[int]) -> None:
    """Write RGB images of one size as an endless GIF; `write_picture` tells how."""
    first, *others = _one_palette(images)
    buffer, durations = io.BytesIO(), list(durations_ms)
    # `optimize` halves the file.
    first.save(buffer, "GIF", save_all=True, append_images=others, duration=durations, loop=0, optimize=True)
    write_picture(path, ".gif", buffer.getvalue())
