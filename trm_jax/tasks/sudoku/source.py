"""Sudoku as the trainer and the evaluator see it: puzzles of every source as tokens, verified and disjoint."""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass

import numpy as np

from trm_jax.data.addressing import PoolTrain, draw_rows
from trm_jax.data.arrays import ArraySplit, StoredPool, read_split
from trm_jax.data.dataset import Batch, DatasetInfo, EvalSource
from trm_jax.errors import InputError
from trm_jax.tasks import Progress
from trm_jax.tasks.files import FILE_OF, SPLITS, csv_of, folder_of
from trm_jax.tasks.sudoku import HUB_REPO, HUB_TEST_PUZZLES, SudokuConfig
from trm_jax.tasks.sudoku.boards import Boards
from trm_jax.tasks.sudoku.csv_files import read_csv
from trm_jax.tasks.sudoku.files import array_boards, board_arrays, originals
from trm_jax.tasks.sudoku.generator import distinct_puzzles
from trm_jax.tasks.sudoku.symmetry import variants
from trm_jax.tasks.sudoku.verify import check_rules, require_disjoint, verify


@dataclass(frozen=True)
class AugmentedPool:
    """A `Pool` computed on the fly: variant 0 is the original, k a pure function of (seed, group, k)."""

    boards: Boards
    augmentations: int
    seed: int

    @functools.cached_property
    def variants(self) -> np.ndarray:
        """[G] int64: augmentations + 1 for every group."""
        return np.full(len(self.boards), self.augmentations + 1, np.int64)

    def examples(self, groups: np.ndarray, numbers: np.ndarray) -> Batch:
        """The examples (groups[b], numbers[b]) as tokens."""
        boards = self.boards
        inputs, labels = variants(boards.questions, boards.answers, groups, numbers, self.seed, shift=1)
        return {"inputs": inputs, "labels": labels, "puzzle_ids": np.zeros(len(inputs), np.int32)}


def training(boards: Boards, augmentations: int, seed: int) -> PoolTrain:
    """Boards as training data, augmented on the fly."""
    info = DatasetInfo(boards.size + 2, boards.size**2, num_puzzle_ids=1, groups=len(boards))
    return PoolTrain(info, AugmentedPool(boards, augmentations, seed))


def load(cfg: SudokuConfig, *, progress: Progress | None = None) -> tuple[PoolTrain, EvalSource]:
    """Training and evaluation data, verified and disjoint up to symmetry. Raises `InputError`.

    Arrays hold their variants: an epoch draws one puzzle of each group, nothing is augmented. A
    `cfg.augmentations` that asks for another number is refused: it would change nothing.
    """
    if cfg.source != "arrays":
        train, test = load_boards(cfg, progress=progress)
        return training(train, cfg.augmentations, cfg.seed), board_arrays(test)
    split, every, test = _arrays(cfg, progress)
    stored = int(StoredPool(split).variants.max()) - 1
    if cfg.augmentations != stored:
        raise InputError(
            f"{every.origin} holds {stored} augmentations of a puzzle and data.augmentations asks for "
            f"{cfg.augmentations}: arrays are augmented already, so set data.augmentations={stored}, or take "
            "data.source=hub or csv, which are augmented while training"
        )
    groups = chosen(split.info.groups, cfg.train_puzzles, cfg.seed, "train", every.origin)
    info = dataclasses.replace(split.info, groups=len(groups))
    return PoolTrain(info, StoredPool(split, groups)), board_arrays(test)


def load_eval(cfg: SudokuConfig, *, progress: Progress | None = None) -> EvalSource:
    """The evaluation split alone, verified but held against no training split; data.path may be one CSV file.

    For scoring puzzles that come without training data. Raises `InputError`.
    """
    if cfg.source == "generated":
        return load(cfg, progress=progress)[1]
    if cfg.source == "arrays":
        return board_arrays(_arrays(cfg, progress)[2])
    return board_arrays(_read(cfg, "test", progress, alone=True))


def load_boards(cfg: SudokuConfig, *, progress: Progress | None = None) -> tuple[Boards, Boards]:
    """The boards of both splits, generated or of CSV files, verified and disjoint. Raises `InputError`."""
    if cfg.source == "generated":
        if not (cfg.train_puzzles and cfg.test_puzzles):
            raise InputError("data.source=generated needs train_puzzles and test_puzzles of at least 1")
        # The test split comes first, so that it does not change with the number of training puzzles.
        counts, bounds = (cfg.test_puzzles, cfg.train_puzzles), {"low": cfg.min_rating, "high": cfg.max_rating}
        how = {"size": cfg.size, "seed": cfg.seed, "extra_clues": cfg.extra_clues, **bounds}
        test, train = distinct_puzzles(counts, **how, progress=progress)
        return train, test
    train, test = (_read(cfg, split, progress) for split in SPLITS)
    require_disjoint(train, test)
    return train, test


def _read(cfg: SudokuConfig, split: str, progress: Progress | None, alone: bool = False) -> Boards:
    """The drawn rows of a split's CSV file; `alone`: data.path may name it. All seeds draw the same test puzzles."""
    path = csv_of(cfg, split, alone)
    count, seed = (cfg.train_puzzles, cfg.seed) if split == "train" else (cfg.test_puzzles, 0)
    boards = read_csv(path, select=lambda rows: chosen(rows, count, seed, split, path), progress=progress)
    _check_board_size(boards, cfg.size)
    return boards


def _arrays(cfg: SudokuConfig, progress: Progress | None) -> tuple[ArraySplit, Boards, Boards]:
    """The stored training split, all its boards, and the test boards; only originals are solved."""
    place = folder_of(cfg.source, cfg.path)
    if not (place / FILE_OF["arrays"].format("train")).exists():
        mend = f"name a folder in the official format, or make one: trm data sudoku build --output-dir {place}"
        raise InputError(f"{place / FILE_OF['arrays'].format('train')} does not exist; {mend}")
    split, held_out = (read_split(place, name) for name in SPLITS)
    every, test = array_boards(split), array_boards(held_out)
    for boards in (every, test):
        _check_board_size(boards, cfg.size)
    check_rules(every)
    verify(originals(split, every), progress=progress)
    test = test.take(chosen(len(test), cfg.test_puzzles, 0, "test", test.origin))
    test = dataclasses.replace(test, ratings=verify(test, progress=progress))
    require_disjoint(every, test)
    return split, every, test


def _check_board_size(boards: Boards, size: int) -> None:
    if boards.size != size:
        raise InputError(
            f"{boards.origin} holds boards of {boards.size}x{boards.size}, the configuration says {size}: "
            f"set data.size={boards.size}"
        )


def chosen(available: int, count: int, seed: int, split: str, origin: object) -> np.ndarray:
    """Rows [count] of a seeded draw without replacement, in file order; `count` 0 = all."""
    more = f"take data.source=hub ({HUB_REPO} has {HUB_TEST_PUZZLES:,} test puzzles and more for training)"
    return draw_rows(available, count, seed, split, origin, f"{more} or data.source=generated (any number)")
