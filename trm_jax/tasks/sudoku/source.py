"""Sudoku as the trainer and the evaluator see it: puzzles of every source as tokens, verified and disjoint."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from dataclasses import dataclass

import numpy as np

from trm_jax.data import hub
from trm_jax.data.addressing import PoolTrain
from trm_jax.data.arrays import ArraySplit, StoredPool, keep_groups, read_split
from trm_jax.data.dataset import Batch, DatasetInfo, EvalSource
from trm_jax.data.hashing import permutation, stream_key
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path
from trm_jax.tasks.sudoku import HUB_REPO, HUB_TEST_PUZZLES, Progress, SudokuConfig
from trm_jax.tasks.sudoku.boards import Boards
from trm_jax.tasks.sudoku.csv_files import names_csv, read_csv
from trm_jax.tasks.sudoku.files import SPLITS, array_boards, board_arrays, originals
from trm_jax.tasks.sudoku.generator import distinct_puzzles
from trm_jax.tasks.sudoku.symmetry import variants
from trm_jax.tasks.sudoku.verify import check_rules, require_disjoint, verify

_TRAIN_DRAW, _TEST_DRAW = 11, 12  # streams of random numbers


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
        inputs, labels = variants(boards.questions, boards.answers, boards.size, groups, numbers, self.seed, shift=1)
        return {"inputs": inputs, "labels": labels, "puzzle_ids": np.zeros(len(inputs), np.int32)}


@dataclass(frozen=True)
class SudokuEval(ArraySplit):
    """Boards as an evaluation set in memory."""

    @functools.cached_property
    def digest(self) -> str:
        """Of the boards, so that it does not depend on where they were read."""
        content = hashlib.sha256(f"sudoku {self.vocab_size - 2} ".encode())
        content.update((self.inputs - 1).tobytes())
        content.update((self.labels - 1).tobytes())
        return content.hexdigest()


def evaluation(boards: Boards) -> EvalSource:
    """Boards as an evaluation set."""
    return SudokuEval(**vars(board_arrays(boards, 0, 0)) | {"ignore_label_id": None})


def training(boards: Boards, augmentations: int, seed: int) -> PoolTrain:
    """Boards as training data, augmented on the fly."""
    info = DatasetInfo(boards.size + 2, boards.size**2, num_puzzle_ids=1, groups=len(boards))
    return PoolTrain(info, AugmentedPool(boards, augmentations, seed))


def load(cfg: SudokuConfig, *, progress: Progress | None = None) -> tuple[PoolTrain, EvalSource]:
    """Training and evaluation data, verified and disjoint up to symmetry. Raises `InputError`."""
    if cfg.source == "arrays":
        return _load_arrays(cfg, progress)
    train, test = load_boards(cfg, progress=progress)
    return training(train, cfg.augmentations, cfg.seed), evaluation(test)


def load_eval(cfg: SudokuConfig, *, progress: Progress | None = None) -> EvalSource:
    """The evaluation split alone, verified but held against no training split; data.path may be one CSV file.

    For scoring puzzles that come without training data. Raises `InputError`.
    """
    if cfg.source == "generated":
        return load(cfg, progress=progress)[1]
    if cfg.source == "arrays":
        return evaluation(_arrays(cfg, progress)[2])
    if cfg.source == "csv" and names_csv(_place(cfg)):
        return evaluation(_read(_place(cfg), cfg, "test", progress))
    return evaluation(_read(_file(cfg, "test"), cfg, "test", progress))


def load_boards(cfg: SudokuConfig, *, progress: Progress | None = None) -> tuple[Boards, Boards]:
    """The boards of both splits, verified and disjoint (of arrays: the originals). Raises `InputError`."""
    if cfg.source == "generated":
        return _generated(cfg, progress)
    if cfg.source == "arrays":
        split, every, test = _arrays(cfg, progress)
        train = originals(split, every)
        return train.take(chosen(len(train), cfg.train_puzzles, cfg.seed, "train", train.origin)), test
    train, test = (_read(_file(cfg, split), cfg, split, progress) for split in SPLITS)
    require_disjoint(train, test)
    return train, test


def _file(cfg: SudokuConfig, split: str) -> AnyPath:
    """The CSV file of a split."""
    name = cfg.train_file if split == "train" else cfg.test_file
    if cfg.source == "hub":
        return hub.download(cfg.hub_repo, name)
    folder = _place(cfg)
    if names_csv(folder):
        raise InputError(f"data.path={folder} names one file: name the folder that holds train.csv and test.csv")
    return folder / name


def _read(path: AnyPath, cfg: SudokuConfig, split: str, progress: Progress | None) -> Boards:
    """The drawn rows of one split's CSV file. The test draw has a fixed seed, so that results compare."""
    count, seed = (cfg.train_puzzles, cfg.seed) if split == "train" else (cfg.test_puzzles, 0)
    boards = read_csv(path, select=lambda rows: chosen(rows, count, seed, split, path), progress=progress)
    _check_board_size(boards, cfg.size)
    return boards


def _load_arrays(cfg: SudokuConfig, progress: Progress | None) -> tuple[PoolTrain, EvalSource]:
    """Arrays hold their variants: an epoch draws one puzzle of each group, nothing is augmented.

    A `cfg.augmentations` that asks for another number is refused: it would change nothing.
    """
    split, every, test = _arrays(cfg, progress)
    stored = int(StoredPool(split).variants.max()) - 1
    if cfg.augmentations != stored:
        raise InputError(
            f"{every.origin} holds {stored} augmentations of a puzzle and data.augmentations asks for "
            f"{cfg.augmentations}: arrays are augmented already, so set data.augmentations={stored}, or take "
            "data.source=hub or csv, which are augmented while training"
        )
    groups = chosen(split.info.groups, cfg.train_puzzles, cfg.seed, "train", every.origin)
    if len(groups) < split.info.groups:
        split = keep_groups(split, groups)
    return PoolTrain(split.info, StoredPool(split)), evaluation(test)


def _arrays(cfg: SudokuConfig, progress: Progress | None) -> tuple[ArraySplit, Boards, Boards]:
    """The stored training split, all its boards, and the test boards; only originals are solved."""
    folder = _place(cfg)
    split, test = read_split(folder, "train"), array_boards(read_split(folder, "test"))
    every = array_boards(split)
    for boards in (every, test):
        _check_board_size(boards, cfg.size)
    check_rules(every)
    verify(originals(split, every), progress=progress)
    test = test.take(chosen(len(test), cfg.test_puzzles, 0, "test", test.origin))
    test = dataclasses.replace(test, ratings=verify(test, progress=progress))
    require_disjoint(every, test)
    return split, every, test


def _place(cfg: SudokuConfig) -> AnyPath:
    if not cfg.path:
        form = "a data set in the official format" if cfg.source == "arrays" else "with train.csv and test.csv"
        raise InputError(f"data.source={cfg.source} needs data.path=FOLDER, {form}")
    return as_path(cfg.path).expanduser()  # a shell leaves data.path=~/puzzles as it is


def _check_board_size(boards: Boards, size: int) -> None:
    if boards.size != size:
        raise InputError(
            f"{boards.origin} holds boards of {boards.size}x{boards.size}, the configuration says {size}: "
            f"set data.size={boards.size}"
        )


def _generated(cfg: SudokuConfig, progress: Progress | None) -> tuple[Boards, Boards]:
    """The test split is generated first, so it does not change with the number of training puzzles."""
    if cfg.train_puzzles < 1 or cfg.test_puzzles < 1:
        raise InputError(
            "data.source=generated needs train_puzzles and test_puzzles of at least 1 (0 = all is endless)"
        )
    test, train = distinct_puzzles(
        (cfg.test_puzzles, cfg.train_puzzles),
        size=cfg.size,
        seed=cfg.seed,
        low=cfg.min_rating,
        high=cfg.max_rating,
        extra_clues=cfg.extra_clues,
        progress=progress,
    )
    return train, test


def chosen(available: int, count: int, seed: int, split: str, origin: object) -> np.ndarray:
    """Rows [count] of a seeded draw without replacement, in file order; `count` 0 = all."""
    if count > available:
        raise InputError(
            f"{origin} holds {available} puzzles, {split}_puzzles asks for {count}: "
            f"ask for at most {available} (0 = all), or take data.source=hub ({HUB_REPO} has "
            f"{HUB_TEST_PUZZLES:,} test puzzles and more for training) or data.source=generated (any number)"
        )
    if count in (0, available):
        return np.arange(available)
    stream = _TRAIN_DRAW if split == "train" else _TEST_DRAW
    return np.sort(permutation(stream_key(seed, stream), available)[:count])
