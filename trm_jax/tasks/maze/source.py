"""Mazes as the trainer and the evaluator see them: of every source as tokens, verified and disjoint."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np

from trm_jax.data.addressing import PoolTrain, draw_rows
from trm_jax.data.arrays import ArraySplit, StoredPool, read_split
from trm_jax.data.dataset import Batch, DatasetInfo, EvalSource
from trm_jax.errors import InputError
from trm_jax.tasks import Progress
from trm_jax.tasks.dihedral import dihedral
from trm_jax.tasks.files import SPLITS, csv_of, folder_of
from trm_jax.tasks.maze import HUB_REPO, HUB_TEST_MAZES, MazeConfig
from trm_jax.tasks.maze.files import array_mazes, maze_arrays, read_csv, require_disjoint
from trm_jax.tasks.maze.generator import generate
from trm_jax.tasks.maze.grids import VOCAB_SIZE, Mazes
from trm_jax.tasks.maze.paths import label


@dataclass(frozen=True)
class AugmentedPool:
    """A pool of mazes under the eight symmetries, computed on the fly; variant 0 is the original."""

    mazes: Mazes
    augment: str  # as data.augment

    @property
    def variants(self) -> np.ndarray:
        """[G] int64."""
        return np.full(len(self.mazes), 1 if self.augment == "none" else 8, np.int64)

    def examples(self, groups: np.ndarray, variants: np.ndarray) -> Batch:
        """The examples (groups[b], variants[b]) as tokens."""
        inputs, labels = self.mazes.inputs[groups], self.mazes.labels[groups]
        for number in np.unique(variants[variants > 0]):
            here = variants == number
            inputs[here], labels[here] = (dihedral(x[here], number) for x in (inputs, labels))
        if self.augment == "relabel":
            labels = np.where((variants > 0)[:, None, None], label(inputs)[0], labels)
        flat = (x.reshape(len(groups), -1).astype(np.int32) for x in (inputs, labels))
        return {**dict(zip(("inputs", "labels"), flat, strict=True)), "puzzle_ids": np.zeros(len(groups), np.int32)}


def load(cfg: MazeConfig, *, progress: Progress | None = None) -> tuple[PoolTrain, EvalSource]:
    """Training and evaluation data, verified and disjoint up to symmetry. Raises `InputError`."""
    if cfg.source != "arrays":
        train, test = load_mazes(cfg, progress=progress)
        info = DatasetInfo(VOCAB_SIZE, cfg.height * cfg.width, num_puzzle_ids=1, groups=len(train))
        return PoolTrain(info, AugmentedPool(train, cfg.augment)), maze_arrays(test)
    split, held_out = (_read_arrays(cfg, name) for name in SPLITS)
    pool = StoredPool(split, _chosen(cfg, split.info.groups, "train", split.origin))
    stored, asked = int(pool.variants.max()), 8 if cfg.augment == "dihedral" else 1
    if stored != asked:
        mend = f"arrays are augmented already, so set data.augment={'dihedral' if stored > 1 else 'none'}"
        raise InputError(f"{split.origin} holds {stored} variants of a maze, data.augment={cfg.augment}: {mend}")
    test = array_mazes(held_out, (cfg.height, cfg.width)).take(_chosen(cfg, len(held_out), "test", held_out.origin))
    require_disjoint(array_mazes(split, (cfg.height, cfg.width)), test)
    return PoolTrain(dataclasses.replace(split.info, groups=len(pool.variants)), pool), maze_arrays(test)


def load_eval(cfg: MazeConfig, *, progress: Progress | None = None) -> EvalSource:
    """The evaluation split alone; data.path may be one CSV file. Raises `InputError`."""
    if cfg.source in ("generated", "perfect"):
        return load(cfg, progress=progress)[1]
    if cfg.source == "arrays":
        split = _read_arrays(cfg, "test")
        mazes = array_mazes(split, (cfg.height, cfg.width))
        return maze_arrays(mazes.take(_chosen(cfg, len(mazes), "test", mazes.origin)))
    return maze_arrays(_read(cfg, "test", alone=True))


def load_mazes(cfg: MazeConfig, *, progress: Progress | None = None) -> tuple[Mazes, Mazes]:
    """The mazes of both splits, generated or of CSV files, verified and disjoint. Raises `InputError`."""
    if cfg.source in ("hub", "csv"):
        train, test = (_read(cfg, split) for split in SPLITS)
    else:
        if not (cfg.train_puzzles and cfg.test_puzzles):
            raise InputError(f"data.source={cfg.source} needs train_puzzles and test_puzzles of at least 1")
        known: set[bytes] = set()
        how = {"kind": "hard" if cfg.source == "generated" else "perfect", "height": cfg.height, "width": cfg.width}
        how |= {"min_moves": cfg.min_moves, "max_moves": cfg.max_moves, "seed": cfg.seed, "known": known}
        # The test split comes first, so that it does not change with the number of training mazes.
        test = generate(cfg.test_puzzles, **how, progress=progress)
        train = generate(cfg.train_puzzles, **how, first=int(test.rows[-1]) + 1, progress=progress)
    require_disjoint(train, test)
    return train, test


def _chosen(cfg: MazeConfig, available: int, split: str, origin: object) -> np.ndarray:
    count, seed = (cfg.train_puzzles, cfg.seed) if split == "train" else (cfg.test_puzzles, 0)
    more = f"take data.source=hub ({HUB_REPO} has {HUB_TEST_MAZES:,} of each) or data.source=generated (any number)"
    return draw_rows(available, count, seed, split, origin, more)


def _read(cfg: MazeConfig, split: str, alone: bool = False) -> Mazes:
    """The drawn rows of a split's CSV file; `alone`: data.path may name it."""
    path = csv_of(cfg, split, alone)
    mazes = read_csv(path, (cfg.height, cfg.width))
    return mazes.take(_chosen(cfg, len(mazes), split, path))


def _read_arrays(cfg: MazeConfig, name: str) -> ArraySplit:
    split = read_split(folder_of(cfg.source, cfg.path), name)
    cells, tokens = split.inputs.shape[1], split.vocab_size
    if (cells, tokens) != (cfg.height * cfg.width, VOCAB_SIZE):
        said = f"{split.origin}: {cells} cells with {tokens} tokens are no mazes of {cfg.height}x{cfg.width}"
        raise InputError(f"{said}: set data.height and data.width, or name the folder of a maze set")
    return split
