"""Pictures of any task: fonts, flat boxes, and files written in one step. The same input gives the same bytes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import cache

import numpy as np
from PIL import Image, ImageFont
from PIL.ImageDraw import ImageDraw as Draw

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path, write_whole

Color = tuple[int, int, int]
PAPER: Color = (255, 255, 255)


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
