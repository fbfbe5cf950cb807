"""Sudoku as the trainer and the evaluator see it: tokens, sources, splits.

Tokens: PAD 0, blank 1, digit d is d + 1; vocab size + 2; every cell is supervised; the puzzle id is always 0.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from trm_jax.data import hub
from trm_jax.data.arrays import ArraySplit, StoredPool, keep_groups, read_split
from trm_jax.data.dataset import Batch, DatasetInfo, PoolTrain
from trm_jax.data.hashing import permutation, stream_key
from trm_jax.data.seeds import check_seed
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path
from trm_jax.tasks.sudoku.boards import Boards, check_size
from trm_jax.tasks.sudoku.csv_files import names_csv, read_csv
from trm_jax.tasks.sudoku.disjoint import require_disjoint
from trm_jax.tasks.sudoku.files import SPLITS, array_boards, originals
from trm_jax.tasks.sudoku.generator import distinct_puzzles
from trm_jax.tasks.sudoku.prove import check_rules, prove
from trm_jax.tasks.sudoku.symmetry import variants

SOURCES = ("generated", "csv", "hub", "arrays")
_TRAIN_DRAW, _TEST_DRAW = 11, 12  # streams of random numbers

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class SudokuConfig:
    """Where the puzzles come from and how many there are."""

    source: str = "hub"  # generated | csv | hub | arrays
    path: str = ""  # csv: folder with train_file and test_file; arrays: folder in the official format
    train_file: str = "train.csv"
    test_file: str = "test.csv"
    hub_repo: str = "sapientinc/sudoku-extreme"
    size: int = 9
    train_puzzles: int = 1000  # drawn without replacement by `seed`; 0 = all
    test_puzzles: int = 0  # drawn alike for every seed, so that results compare; 0 = all
    augmentations: int = 1000  # variants of a puzzle besides the original
    min_rating: int = 0  # generator: guesses of our solver
    max_rating: int = -1  # generator: -1 = no bound
    extra_clues: int = 0  # generator: clues added back to a minimal puzzle
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed("data.seed", self.seed)


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
class SudokuEval:
    """An evaluation set in memory."""

    info: DatasetInfo
    inputs: np.ndarray  # [N, S] int32
    labels: np.ndarray  # [N, S] int32
    puzzle_ids: np.ndarray  # [N] int32, all 0
    ratings: np.ndarray  # [N] int32
    digest: str  # hash of inputs and labels

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, indices: np.ndarray) -> Batch:
        """The examples at `indices` [b]."""
        return {
            "inputs": self.inputs[indices],
            "labels": self.labels[indices],
            "puzzle_ids": self.puzzle_ids[indices],
        }


def info_of(boards: Boards) -> DatasetInfo:
    """The data set's numbers: one example a puzzle, one group a board."""
    return DatasetInfo(boards.size + 2, boards.size**2, 1, len(boards), 1.0)


def evaluation(boards: Boards) -> SudokuEval:
    """Boards as an evaluation set."""
    inputs, labels = boards.questions.astype(np.int32) + 1, boards.answers.astype(np.int32) + 1
    content = hashlib.sha256(f"sudoku {boards.size} ".encode())
    content.update(boards.questions.tobytes())
    content.update(boards.answers.tobytes())
    return SudokuEval(info_of(boards), inputs, labels, np.zeros(len(boards), np.int32), boards.ratings,
                      content.hexdigest())  # fmt: skip


def training(boards: Boards, augmentations: int, seed: int) -> PoolTrain:
    """Boards as training data, augmented on the fly."""
    if augmentations < 0:
        raise InputError(f"augmentations is {augmentations}: give 0 or more")
    return PoolTrain(info_of(boards), AugmentedPool(boards, augmentations, seed))


def load(cfg: SudokuConfig, *, progress: Progress | None = None) -> tuple[PoolTrain, SudokuEval]:
    """Training and evaluation data, proven and disjoint up to symmetry. Raises `InputError`."""
    if cfg.source == "arrays":
        return _load_arrays(cfg, progress)
    train, test = load_boards(cfg, progress=progress)
    return training(train, cfg.augmentations, cfg.seed), evaluation(test)


def load_eval(cfg: SudokuConfig, *, progress: Progress | None = None) -> SudokuEval:
    """The evaluation split alone, proven but held against no training split; data.path may be one CSV file.

    For scoring puzzles that come without training data. Raises `InputError`.
    """
    if cfg.source == "csv":
        path = _place(cfg)
        return evaluation(_read(path if names_csv(path) else path / cfg.test_file, cfg, "test", progress))
    if cfg.source == "hub":
        return evaluation(_read(hub.download(cfg.hub_repo, cfg.test_file), cfg, "test", progress))
    if cfg.source == "arrays":
        return evaluation(_arrays(cfg, progress)[2])
    return load(cfg, progress=progress)[1]


def load_boards(cfg: SudokuConfig, *, progress: Progress | None = None) -> tuple[Boards, Boards]:
    """The boards of both splits, proven and disjoint (of arrays: the originals). Raises `InputError`."""
    check_size(cfg.size)
    if cfg.source == "generated":
        return _generated(cfg, progress)
    if cfg.source == "arrays":
        split, every, test = _arrays(cfg, progress)
        return draw(originals(split, every), cfg.train_puzzles, cfg.seed, "train"), test
    if cfg.source == "hub":
        paths = hub.download(cfg.hub_repo, cfg.train_file), hub.download(cfg.hub_repo, cfg.test_file)
    elif cfg.source == "csv":
        paths = _folder(cfg) / cfg.train_file, _folder(cfg) / cfg.test_file
    else:
        raise InputError(f"no data.source {cfg.source!r}: choose one of {', '.join(SOURCES)}")
    train, test = (_read(path, cfg, split, progress) for path, split in zip(paths, SPLITS, strict=True))
    require_disjoint(train, test)
    return train, test


def _read(path: AnyPath, cfg: SudokuConfig, split: str, progress: Progress | None) -> Boards:
    """The drawn rows of one split's CSV file. The test draw has a fixed seed, so that results compare."""
    count, seed = (cfg.train_puzzles, cfg.seed) if split == "train" else (cfg.test_puzzles, 0)
    boards = read_csv(path, select=lambda rows: chosen(rows, count, seed, split, path), progress=progress)
    _check_board_size(boards, cfg.size)
    return boards


def _load_arrays(cfg: SudokuConfig, progress: Progress | None) -> tuple[PoolTrain, SudokuEval]:
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
    prove(originals(split, every), progress=progress)
    test = draw(test, cfg.test_puzzles, 0, "test")
    test = dataclasses.replace(test, ratings=prove(test, progress=progress))
    require_disjoint(every, test)
    return split, every, test


def _place(cfg: SudokuConfig) -> AnyPath:
    if not cfg.path:
        form = "a data set in the official format" if cfg.source == "arrays" else "with train.csv and test.csv"
        raise InputError(f"data.source={cfg.source} needs data.path=FOLDER, {form}")
    return as_path(cfg.path).expanduser()  # a shell leaves data.path=~/puzzles as it is


def _folder(cfg: SudokuConfig) -> AnyPath:
    folder = _place(cfg)
    if names_csv(folder):
        raise InputError(f"data.path={folder} names one file: name the folder that holds train.csv and test.csv")
    return folder


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
    if count < 0 or count > available:
        raise InputError(
            f"{origin} holds {available} puzzles, {split}_puzzles asks for {count}: "
            f"ask for at most {available} (0 = all), or take data.source=hub (sapientinc/sudoku-extreme has "
            "422,786 test puzzles and more for training) or data.source=generated (any number)"
        )
    if count in (0, available):
        return np.arange(available)
    stream = _TRAIN_DRAW if split == "train" else _TEST_DRAW
    return np.sort(permutation(stream_key(seed, stream), available)[:count])


def draw(boards: Boards, count: int, seed: int, split: str) -> Boards:
    """`count` boards drawn without replacement (0 = all), in file order."""
    return boards.take(chosen(len(boards), count, seed, split, boards.origin))
