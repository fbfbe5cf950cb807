"""Grids as NumPy prints them, both ways: `[[0 1]\\n [2 3]]`."""

from __future__ import annotations

import re

import numpy as np

from trm_jax.errors import InputError
from trm_jax.language.tokenizer import Tokenizer
from trm_jax.tasks.arc.grids import SIDE

_TEXT = re.compile(r"\[(\[[0-9](?: [0-9])*\](?:\n \[[0-9](?: [0-9])*\])*)\]")


def write(grid: np.ndarray) -> str:
    """The text of a grid [H, W] of whole numbers."""
    return "[" + "\n ".join("[" + " ".join(map(str, row)) + "]" for row in grid.tolist()) + "]"


def read(text: str) -> np.ndarray | None:
    """The grid [H, W] uint8 of a text with nothing but space around it.

    None for anything else: rows of different lengths, numbers that are no digits, more than 30 rows or columns.
    """
    found = _TEXT.fullmatch(text.strip())
    if not found:
        return None
    rows = [[int(cell) for cell in row.strip(" []").split(" ")] for row in found[1].split("\n")]
    fits = len(rows) <= SIDE and len(rows[0]) <= SIDE and {len(row) for row in rows} == {len(rows[0])}
    return np.array(rows, np.uint8) if fits else None


def require_digits(words: Tokenizer) -> None:
    """Raise InputError for a tokenizer that cannot write every digit so that it reads it again."""
    lost = [digit for digit in "0123456789" if words.decode(words.encode(digit, special=False)).strip() != digit]
    if lost:
        raise InputError(f"the tokenizer has no token for {', '.join(lost)}; take another model: grids are digits")
