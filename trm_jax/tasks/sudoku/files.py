"""Folders of Sudoku puzzles on disk, CSV or official arrays, read and written alike."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trm_jax.data.arrays import ArraySplit, read_split
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath
from trm_jax.tasks import Progress
from trm_jax.tasks.files import splits_at, write_both
from trm_jax.tasks.sudoku.boards import SIZE_OF, Boards
from trm_jax.tasks.sudoku.csv_files import read_csv, write_csv
from trm_jax.tasks.sudoku.symmetry import variants
from trm_jax.tasks.sudoku.text import board_text, format_line
from trm_jax.tasks.sudoku.verify import require_disjoint as require_disjoint
from trm_jax.tasks.sudoku.verify import verify

VERIFIED = "each with one solution, its answer"


@dataclass(frozen=True)
class BoardArrays(ArraySplit):
    """Official arrays of Sudoku boards."""

    ratings: np.ndarray | None = None  # [N], as `Boards`

    @functools.cached_property
    def digest(self) -> str:
        """As version 0.1.0 computed it: by this, scores of old runs and new ones are compared."""
        cells = np.stack([self.inputs, self.labels]) - 1
        return hashlib.sha256(f"sudoku {self.vocab_size - 2} ".encode() + cells.astype(np.uint8).tobytes()).hexdigest()


def board_arrays(boards: Boards, augmentations: int = 0, seed: int = 0) -> ArraySplit:
    """Boards as official arrays: a group a board, a puzzle a variant (the original first)."""
    groups = np.repeat(np.arange(len(boards)), augmentations + 1)
    inputs, labels = boards.questions[groups] + np.uint8(1), boards.answers[groups] + np.uint8(1)
    if augmentations:
        numbers = np.tile(np.arange(augmentations + 1), len(boards))
        for start in range(0, len(groups), 65_536):  # the int32 tokens of all variants at once would take gigabytes
            at = slice(start, start + 65_536)
            inputs[at], labels[at] = variants(boards.questions, boards.answers, groups[at], numbers[at], seed, shift=1)
    return BoardArrays(
        inputs,
        labels,
        puzzle_identifiers=np.zeros(len(groups), np.int32),
        puzzle_indices=np.arange(len(groups) + 1, dtype=np.int32),
        group_indices=np.arange(0, len(groups) + 1, augmentations + 1, dtype=np.int32),
        vocab_size=boards.size + 2,
        origin=boards.origin,
        ratings=boards.ratings[groups],
    )


def array_boards(split: ArraySplit) -> Boards:
    """All examples of an array split as boards, ratings 0 (not stored); the rules are not checked here."""
    count, cells = split.inputs.shape
    size = SIZE_OF.get(cells)
    if size is None or split.vocab_size != size + 2:
        said = f"{split.origin}: {cells} cells with {split.vocab_size} tokens are no Sudoku"
        raise InputError(f"{said}: name the folder of a Sudoku set")
    for name, least in (("inputs", 1), ("labels", 2)):
        bad = np.flatnonzero((getattr(split, name) < least).any(axis=1))
        if len(bad):
            place = f"{split.origin}/all__{name}.npy row {bad[0]}"
            raise InputError(f"{place}: a token that no Sudoku has; copy the data set once more")
    questions, answers = ((tokens - 1).astype(np.uint8) for tokens in (split.inputs, split.labels))
    ratings, sources = np.zeros(count, np.int32), np.full(count, "arrays")
    return Boards(size, questions, answers, ratings, sources, split.origin, np.arange(count), unit="row")


def originals(split: ArraySplit, boards: Boards) -> Boards:
    """The first puzzle of every group."""
    return boards.take(split.puzzle_indices[split.group_indices[:-1]])


def read_splits(path: str | AnyPath, *, progress: Progress | None = None) -> dict[str, Boards]:
    """The splits at a path, every row verified: a CSV file, a folder of train.csv and test.csv, or arrays.

    Of arrays every variant is verified, and the originals (first of each group) are returned.
    """

    def of_arrays(folder: AnyPath, name: str) -> Boards:
        split = read_split(folder, name)
        boards = array_boards(split)
        rated = dataclasses.replace(boards, ratings=verify(boards, progress=progress))
        return originals(split, rated)

    return splits_at(path, "sudoku", lambda file: read_csv(file, progress=progress), of_arrays)


def write_splits(
    folder: str | AnyPath, form: str, train: Boards, test: Boards, *, augmentations: int = 0, seed: int = 0
) -> None:
    """Write both splits as `csv` or `arrays` (`augmentations`: stored variants of each training puzzle)."""

    def arrays(boards: Boards, name: str) -> ArraySplit:
        return board_arrays(boards, augmentations if name == "train" else 0, seed)

    write_both(folder, form, train, test, write_csv, arrays)


def described(boards: Boards) -> str:
    """How many there are, and of what kind."""
    return f"{len(boards):,} puzzles of {boards.size}x{boards.size}, {boards.clues.mean():.1f} clues"


def settings(boards: Boards) -> list[str]:
    """Settings of `data` that a run of these boards needs."""
    return [f"size={boards.size}"]


def histograms(boards: Boards) -> list[tuple[str, np.ndarray, Callable[[int], str]]]:
    """(what, values, name of a value) to be counted."""
    ratings = boards.ratings
    about = f"rating: mean {ratings.mean():.1f}, median {np.median(ratings):.0f}, max {ratings.max()}"
    return [("clues", boards.clues, str), (about, np.frexp(ratings)[1], _octave)]


def _octave(exponent: int) -> str:
    """The whole numbers of so many bits."""
    return f"{2**exponent // 2}-{2**exponent - 1}" if exponent > 1 else str(exponent)


def shown(boards: Boards, row: int) -> tuple[str, str, list[list[str]]]:
    """(what is known of it, the puzzle on a line, [lines of the puzzle, lines of its answer])."""
    question, answer = boards.questions[row], boards.answers[row]
    sides = [board_text(question, board, color=False).splitlines() for board in (question, answer)]
    return f"{boards.sources[row]}, rating {boards.ratings[row]}", format_line(question), sides
