"""Mazes as tokens and as text.

Tokens: PAD 0, wall 1, free 2, start 3, goal 4, path 5; written `# SGo`, and ? for PAD, which only a model answers.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

import numpy as np

from trm_jax.errors import InputError
from trm_jax.tasks.dihedral import KEEPS_SHAPE, dihedral

PAD, WALL, FREE, START, GOAL, PATH = range(6)
VOCAB_SIZE = 6
CHARACTERS = "?# SGo"
_FRAME, _FRAMED = re.compile("[┌└]─+[┐┘]"), re.compile("\\s*│(.*)│\\s*")
_BAD = 255
_TOKEN_OF_BYTE = np.full(256, _BAD, np.uint8)
_TOKEN_OF_BYTE[list(CHARACTERS.encode())] = range(6)
_TOKEN_OF_BYTE[ord(".")] = FREE  # a blank that no editor and no shell loses
_RESET, _STYLES = "\x1b[0m", {WALL: "\x1b[90m", START: "\x1b[1;32m", GOAL: "\x1b[1;32m", PATH: "\x1b[34m"}


@dataclass(frozen=True)
class Mazes:
    """One split of mazes."""

    inputs: np.ndarray  # [N, H, W] uint8 tokens
    labels: np.ndarray  # [N, H, W] uint8 tokens, with a shortest path
    moves: np.ndarray  # [N] int32: of a shortest path
    origin: str  # the file, for messages
    rows: np.ndarray  # [N] int64: place in the origin
    unit: str = "line"  # what `rows` counts

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, indices: np.ndarray) -> Mazes:
        """The mazes at `indices` [M], in that order."""
        names = ("inputs", "labels", "moves", "rows")
        return dataclasses.replace(self, **{name: getattr(self, name)[indices] for name in names})

    def where(self, row: int) -> str:
        """The place of a maze, for messages."""
        return f"{self.origin} {self.unit} {self.rows[row]}"


def parse(text: str) -> np.ndarray:
    """Tokens [len(text)] uint8. Raises InputError for a character that is none of a maze."""
    tokens = _TOKEN_OF_BYTE[np.frombuffer(text.encode("ascii", "replace"), np.uint8)]
    bad = np.flatnonzero((tokens == _BAD) | (tokens == PAD))
    if len(bad):
        said = f"character {bad[0] + 1} is {text[bad[0]]!r}"
        raise InputError(f"{said}: write # for a wall, a space or . for a free cell, S, G and o")
    return tokens


def written(tokens: np.ndarray) -> str:
    """Tokens [...] as characters, row by row on one line."""
    return "".join(CHARACTERS[token] for token in np.asarray(tokens).ravel())


def read_mazes(text: str, height: int, width: int) -> np.ndarray:
    """Mazes [N, H, W] uint8 of a text: each on one line of H * W characters, or over H lines of up to W.

    Free cells at the end of a short line may be missing, as an editor cuts them. The frame that `text_of` draws, and
    blank lines between mazes, are passed over. Raises InputError naming the line.
    """
    found, begun = [], []
    for number, line in enumerate(text.splitlines(), 1):
        if not begun and not line.strip() or _FRAME.fullmatch(line.strip()):
            continue
        framed = _FRAMED.fullmatch(line)
        cells = framed[1] if framed else line
        alone = len(cells.rstrip()) > width
        if alone and (begun or len(cells) != height * width):
            said = f"{len(cells)} characters, where a maze has {height} lines of {width}, or one of {height * width}"
            raise InputError(f"line {number}: {said}")
        try:
            row = parse(cells if alone else cells[:width].ljust(width))
        except InputError as error:
            raise InputError(f"line {number}: {error}") from None
        begun.append(row)
        if alone or len(begun) == height:
            found.append((number - len(begun) + 1, np.concatenate(begun)))
            begun = []
    if begun:
        raise InputError(f"line {number}: the last maze has {len(begun)} lines of {height}")
    mazes = np.array([maze for _, maze in found], np.uint8).reshape(-1, height, width)
    for (number, _), maze in zip(found, mazes, strict=True):
        if fault := fault_of(maze):
            raise InputError(f"line {number}: {fault}")
    return mazes


def fault_of(maze: np.ndarray) -> str:
    """Why tokens [H, W] are no maze; empty for one. Whether the goal can be reached is another question."""
    for token, name in ((START, "start"), (GOAL, "goal")):
        count = int((maze == token).sum())
        if count != 1:
            return f"the maze has {count or 'no'} {name}{'s' * (count > 1)} {CHARACTERS[token]}; it needs one"
    if (maze == PATH).any() or (maze == PAD).any():
        return "the maze has a path o drawn in it; leave those cells free"
    return ""


def canonical(maze: np.ndarray) -> bytes:
    """The same for mazes [H, W] that are one up to symmetry."""
    numbers = range(8) if maze.shape[0] == maze.shape[1] else KEEPS_SHAPE
    return min(dihedral(maze, number).tobytes() for number in numbers)


def text_of(maze: np.ndarray, answer: np.ndarray, *, color: bool) -> str:
    """An answer [H, W] to a maze for a terminal, in a frame; a wall that it crosses is shown as X."""
    shown = np.where(answer == PAD, FREE, answer)
    lines = []
    for cells, truth in zip(shown, maze, strict=True):
        line = ""
        for cell, true in zip(cells, truth, strict=True):
            # Walls and free cells are the maze's own; of the answer the path counts.
            token = int(true) if cell < START else int(cell)
            letter = "X" if cell >= START and true == WALL else CHARACTERS[token]
            line += f"{_STYLES[token]}{letter}{_RESET}" if color and token in _STYLES else letter
        lines.append(f"│{line}│")
    edge = "─" * maze.shape[1]
    return "\n".join([f"┌{edge}┐", *lines, f"└{edge}┘"])
