"""Pairs as the trainer and the evaluator see them: augmented, shuffled and packed into rows, epoch by epoch.

An epoch takes one augmentation of every pair, or all of them (data.epoch). They are shuffled, cut to whole steps, and
packed into rows in windows of a few steps, the longest first; the rows are shuffled and spread over the steps. By task
(data.rows_of), an epoch is a step, and each pair stands in the same row of its task in all of them. What stands in a
row at a step is a pure function of (seed, step, slot).
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numba import njit

from trm_jax.data.dataset import IGNORED, Batch, DatasetInfo
from trm_jax.data.hashing import permutation, stream_key
from trm_jax.errors import InputError
from trm_jax.tasks.arc import ArcConfig
from trm_jax.tasks.arc.files import Tasks, digest
from trm_jax.tasks.arc.grids import ArcTask, turns
from trm_jax.tasks.arc.source import fits, read_set
from trm_jax.tasks.arc.verify import notes
from trm_jax.tasks.dihedral import INVERSE
from trm_jax.tasks.pairs import PairsConfig
from trm_jax.tasks.pairs.augment import augmentations, entries
from trm_jax.tasks.pairs.tokens import PLACES, VOCAB_SIZE, length_of, write_pair

_ORDER, _ROWS = 33, 35  # streams of random numbers
_WINDOWS = 8, 256  # steps whose pairs are packed together; the more, the fuller, where the first is not enough
# As the author numbers them: quarter turns clockwise. It is its own inverse.
DIHEDRAL_IDS = np.array(INVERSE, np.int64)
_TURNS = np.array([turns(k) for k in range(8)], np.int64)


@dataclass(frozen=True)
class Pairs:
    """Pairs of grids, of which task they are, and the augmentations of each. P pairs, N augmentations of all."""

    cells: np.ndarray  # [P, 2, 30, 30] uint8: input and output
    sizes: np.ndarray  # [P, 2, 2] int64: rows and columns
    tasks: np.ndarray  # [P] int64
    symmetries: np.ndarray  # [N] int8
    colors: np.ndarray  # [N, 10] int8
    first: np.ndarray  # [P + 1] int64: the first augmentation of each pair

    @functools.cached_property
    def lengths(self) -> np.ndarray:
        """[P, 2]: tokens of each pair, as it is and turned by a quarter."""
        return np.stack([_lengths(self.sizes, np.full(len(self.sizes), k)) for k in (0, 1)], axis=1)

    def of(self, augmentations: np.ndarray) -> np.ndarray:
        """The pairs [n] of so many augmentations."""
        return np.searchsorted(self.first, augmentations, side="right") - 1


@njit(cache=True, nogil=True)
def _lengths(sizes, symmetries):
    found = np.empty(len(sizes), np.int64)
    for p in range(len(sizes)):
        found[p] = length_of(sizes[p], symmetries[p])
    return found


@njit(cache=True, nogil=True)
def packed(lengths, order, room):
    """Row of each of the pairs `order` [n], the longest first into the first row with room; and how many rows."""
    found, free = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    rows = 0
    for place in np.argsort(-lengths[order], kind="mergesort"):
        length = lengths[order[place]]
        for row in range(rows):
            if free[row] >= length:
                break
        else:
            row = rows
            free[row] = room
            rows += 1
        free[row] -= length
        found[place] = row
    return found, rows


@njit(cache=True, nogil=True)
def _fill(
    cells,
    sizes,
    tasks,
    symmetries,
    colors,
    ids,
    all_tokens,
    out,
    b,
    inputs,
    labels,
    segments,
    puzzles,
    dihedrals,
    places,
):
    """Write pairs `out` behind one another into row b of the arrays; the number of targets."""
    at, targets = 0, 0
    for number in range(len(out)):
        p = out[number]
        separator, end = write_pair(cells[p], sizes[p], symmetries[number], colors[number], inputs[b], places[b], at)
        for t in range(at, end):
            segments[b, t] = number
            puzzles[b, t] = tasks[p]
            dihedrals[b, t] = ids[symmetries[number]]
            if t + 1 < end and (all_tokens or t >= separator):
                labels[b, t] = inputs[b, t + 1]
                targets += 1
        at = end
    return targets


class Packing:
    """The rows of one epoch, by step: of each row the augmentations [n] that stand in it, by their number of all."""

    def __init__(self, pairs: Pairs, cfg: PairsConfig, seed: int, epoch: int, by_task: list | None = None):
        """by_task: of `_rows_by_task`, where tasks have rows of their own."""
        if cfg.epoch == "all":
            shown = np.arange(len(pairs.symmetries))
        else:
            shown = pairs.first[:-1] + entries(np.int64(seed), epoch, np.diff(pairs.first))
        count, steps = len(shown), cfg.epoch_steps
        lengths = pairs.lengths[pairs.of(shown), _TURNS[pairs.symmetries[shown]]]
        self.tasks = 1  # how many parts of a step's rows have a loss of their own
        if by_task:
            self.tasks, self.steps = len(by_task), [[shown[row] for rows in by_task for row in rows]]
            self.tokens = int(lengths.sum())
            return
        order = permutation(stream_key(seed, _ORDER, epoch), count)[: steps * cfg.pairs_per_step]
        capacity = steps * cfg.rows_per_step
        for window in _WINDOWS:
            rows = _rows(lengths, order, cfg.row_tokens, window * cfg.pairs_per_step)
            if len(rows) <= capacity:
                break
        else:
            said = f"the {len(order):,} pairs of an epoch fill {len(rows):,} rows of data.row_tokens={cfg.row_tokens}"
            raise InputError(f"{said}, more than {steps} steps of data.rows_per_step={cfg.rows_per_step}; raise one")
        # As they were packed, the steps of a window would go from long pairs to short ones.
        rows = [shown[rows[row]] for row in permutation(stream_key(seed, _ROWS, epoch), len(rows))]
        bounds = np.arange(steps + 1) * len(rows) // steps
        self.steps = [rows[first:end] for first, end in zip(bounds, bounds[1:], strict=False)]
        self.tokens = int(lengths[order].sum())


def _rows(lengths: np.ndarray, order: np.ndarray, room: int, window: int) -> list[np.ndarray]:
    """Which of `order` stand in each row, packed in windows; lengths: tokens of all."""
    found = []
    for first in range(0, len(order), window):
        here = order[first : first + window]
        of, count = packed(lengths, here, room)
        by_row = np.argsort(of, kind="stable")
        found += np.split(here[by_row], np.cumsum(np.bincount(of, minlength=count))[:-1])
    return found


def _rows_by_task(pairs: Pairs, cfg: PairsConfig) -> list[list[np.ndarray]]:
    """The pairs of each row of each task, as many rows for each; with room for every pair, however it is turned.

    Raises InputError for rows that do not divide among the tasks, or are too few for one of them.
    """
    longest = pairs.lengths.max(1)
    found = []
    for task in range(int(pairs.tasks.max()) + 1):
        here = np.flatnonzero(pairs.tasks == task)
        found.append(_rows(longest, here, cfg.row_tokens, max(1, len(here))))
    most, (each, left) = max(map(len, found)), divmod(cfg.rows_per_step, len(found))
    if left or most > each:
        rows = f"{len(found)} tasks take {most} row{'s' * (most > 1)} each of data.row_tokens={cfg.row_tokens} at most"
        wanted = f"set data.rows_per_step and train.batch_size to {most * len(found)}"
        raise InputError(f"{rows}, and data.rows_per_step={cfg.rows_per_step}: {wanted}")
    nothing = np.zeros(0, np.int64)
    return [rows + [nothing] * (each - len(rows)) for rows in found]


def blank(rows: int, size: int) -> dict[str, np.ndarray]:
    """Rows of padding, which is a segment of its own."""
    names = ("inputs", "puzzle_ids", "dihedrals")
    made = {name: np.zeros((rows, size), np.int32) for name in names}
    return {
        **made,
        "labels": np.full((rows, size), IGNORED, np.int32),
        "segments": np.full((rows, size), -1, np.int32),
        "weights": np.zeros((rows, size), np.float32),
        "places": np.zeros((rows, size, PLACES), np.int32),
    }


@dataclass(frozen=True, eq=False)
class PairsTrain:
    """Training data: rows of packed pairs."""

    info: DatasetInfo
    pairs: Pairs
    cfg: PairsConfig

    @functools.cached_property
    def _by_task(self) -> list[list[np.ndarray]] | None:
        return _rows_by_task(self.pairs, self.cfg) if self.cfg.rows_of == "task" else None

    @functools.lru_cache(maxsize=2)  # noqa: B019 - lives as long as the data
    def packing(self, seed: int, epoch: int) -> Packing:
        """The rows of an epoch."""
        return Packing(self.pairs, self.cfg, seed, epoch, self._by_task)

    def batch(
        self, step: int, slots: np.ndarray, *, seed: int, batch_size: int, epochs_per_interval: int | None = None
    ) -> Batch:
        """The rows `slots` [b] of the global batch at `step`. The weights make the loss a mean over its targets, or the
        sum of those over each task's where it has rows of its own."""
        if batch_size != self.cfg.rows_per_step:
            said = f"train.batch_size is {batch_size} and data.rows_per_step {self.cfg.rows_per_step}"
            raise InputError(f"{said}: rows are packed for whole steps; set both alike")
        epoch, at = divmod(step, self.cfg.epoch_steps)
        packing = self.packing(seed, epoch)
        whole, targets = blank(batch_size, self.cfg.row_tokens), np.zeros(batch_size, np.int64)
        for row, out in enumerate(packing.steps[at]):
            how = self.pairs.symmetries[out].astype(np.int64), self.pairs.colors[out]
            targets[row] = write(self.pairs, whole, row, self.pairs.of(out), *how, self.cfg.loss_on == "all")
        shares = batch_size / np.maximum(targets.reshape(packing.tasks, -1).sum(1), 1)
        of_row = np.repeat(shares, batch_size // packing.tasks)[:, None]
        np.copyto(whole["weights"], of_row, where=whole["labels"] != IGNORED, casting="same_kind")
        return {name: array[slots] for name, array in whole.items()}


def write(pairs: Pairs, batch: dict, row: int, out: np.ndarray, symmetries, colors, everything: bool = False) -> int:
    """Write pairs `out` [n] under symmetries [n] and colours [n, 10] into a row of a batch; the number of targets.

    everything: all tokens are targets, not only those of outputs.
    """
    arrays = [batch[name] for name in ("inputs", "labels", "segments", "puzzle_ids", "dihedrals", "places")]
    what = pairs.cells, pairs.sizes, pairs.tasks, symmetries, colors, DIHEDRAL_IDS, everything, out
    return _fill(*what, row, *arrays)


@dataclass(frozen=True)
class PairsEval:
    """The test pairs of the tested tasks as they are, a row each; outputs that are known are their labels."""

    info: DatasetInfo
    pairs: Pairs
    known: np.ndarray  # [P] bool: whether the output is known
    tasks: Tasks  # the tested ones
    others: Tasks  # those all of whose pairs train
    numbers: Mapping[str, int]  # the id of every task
    cfg: PairsConfig

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the content."""
        return hashlib.sha256(f"pairs {digest(self.tasks)}".encode()).hexdigest()

    def __len__(self) -> int:
        return len(self.pairs.tasks)

    def notes(self) -> tuple[str, ...]:
        """What is wrong with a score on this set, in a line: test pairs that stand in what is trained on."""
        return notes(self.tasks, self.others, self.cfg.test_set)

    def questions(self):
        """The test inputs in all their forms, as prompts (`answers.Questions`)."""
        from trm_jax.tasks.pairs.answers import Questions

        return Questions(self.tasks, self.numbers, self.cfg.augmentations, self.cfg.seed)

    def rows(self, indices: np.ndarray) -> Batch:
        """The examples at `indices` [b]."""
        batch = blank(len(indices), self.info.seq_len)
        same = np.zeros(1, np.int64), np.arange(10, dtype=np.int8)[None]
        for row, index in enumerate(indices):
            write(self.pairs, batch, row, np.array([index]), *same)
            if not self.known[index]:  # what stands there is no output
                batch["labels"][row] = IGNORED
        np.copyto(batch["weights"], 1.0, where=batch["labels"] != IGNORED)
        return batch


def load(cfg: PairsConfig) -> tuple[PairsTrain, PairsEval]:
    """Training and evaluation data; read and augmented once. Raises InputError."""
    return _loaded(cfg)


def read_all(cfg: PairsConfig) -> tuple[Tasks, Tasks]:
    """(all tasks in the order of their ids, the tested ones). Raises InputError."""
    names = [name.strip() for name in cfg.train_sets.split(",") if name.strip()]
    if cfg.test_set not in names or len(set(names)) < len(names):
        raise InputError(f"data.train_sets={cfg.train_sets}: name each set once, data.test_set={cfg.test_set} too")
    excluded = {name.strip() for name in cfg.exclude.split(",")}
    tasks: Tasks = {}
    tested: Tasks = {}
    for name in names:
        found = read_set(ArcConfig(path=cfg.path), name)
        for task_id, task in found.items():
            if task_id not in tasks and task_id not in excluded and fits(task, cfg.most_tokens):
                tasks[task_id] = task
                if name == cfg.test_set:
                    tested[task_id] = task
    if cfg.rows_of == "task":  # tasks of about one length fill as many rows each
        ordered = sorted(tested, key=lambda name: _tokens(tested[name]))
        end = cfg.first_task + cfg.most_tasks if cfg.most_tasks else len(ordered)
        if tested and cfg.first_task >= len(ordered):
            said = f"data.first_task={cfg.first_task}: {cfg.test_set} holds {len(ordered)} such tasks"
            raise InputError(f"{said}, the first of which is 0; lower it")
        tasks = tested = {name: tested[name] for name in ordered[cfg.first_task : end]}
    if not tested:
        raise InputError(f"{cfg.test_set} holds no task of at most data.most_tokens={cfg.most_tokens}; raise it")
    return tasks, tested


def _tokens(task: ArcTask) -> int:
    """Of a task's demonstrations, lying or standing, whichever are more."""
    shapes = [np.array([pair.input.shape, pair.output.shape]) for pair in task.train]
    return sum(max(length_of(shape, turn) for turn in (0, 1)) for shape in shapes)


def made(items: list[tuple[int, np.ndarray, np.ndarray]], drawn: list[tuple[np.ndarray, np.ndarray]]) -> Pairs:
    """Pairs of (task, input, output) with the augmentations drawn for each."""
    cells, sizes = np.zeros((len(items), 2, 30, 30), np.uint8), np.ones((len(items), 2, 2), np.int64)
    for row, (_, *grids) in enumerate(items):
        for side, grid in enumerate(grids):
            cells[row, side, : grid.shape[0], : grid.shape[1]] = grid
            sizes[row, side] = grid.shape
    first = np.concatenate([[0], np.cumsum([len(symmetries) for symmetries, _ in drawn])]).astype(np.int64)
    tasks = np.array([task for task, *_ in items], np.int64)
    return Pairs(cells, sizes, tasks, *(np.concatenate(parts) for parts in zip(*drawn, strict=True)), first)


@functools.lru_cache(maxsize=2)
def _loaded(cfg: PairsConfig) -> tuple[PairsTrain, PairsEval]:
    return of_tasks(cfg, *read_all(cfg))


def of_tasks(cfg: PairsConfig, tasks: Tasks, tested: Tasks) -> tuple[PairsTrain, PairsEval]:
    """Training and evaluation data of `tasks`, of which `tested` keep their test pairs. Raises InputError."""
    items, drawn = [], []
    for number, (name, task) in enumerate(tasks.items()):
        pairs = task.train if name in tested else task.pairs
        if any(pair.output is None for pair in pairs):
            raise InputError(f"{task.origin}: task {name} has a pair without output, which cannot train")
        items += [(number, pair.input, pair.output) for pair in pairs]
        drawn += augmentations(task, [pair.input for pair in pairs], cfg.augmentations, cfg.seed, number)
    info = DatasetInfo(VOCAB_SIZE, cfg.row_tokens, len(tasks), cfg.epoch_steps * cfg.rows_per_step)
    train = PairsTrain(info, made(items, drawn), cfg)
    numbers = {name: number for number, name in enumerate(tasks)}
    others = {name: task for name, task in tasks.items() if name not in tested}
    empty = np.zeros((1, 1), np.uint8)
    questions = [
        (numbers[name], pair.input, empty if pair.output is None else pair.output)
        for name, task in tested.items()
        for pair in task.test
    ]
    same = [(np.zeros(1, np.int8), np.arange(10, dtype=np.int8)[None])] * len(questions)
    longest = max(int(p.lengths.max()) for p in (train.pairs, made(questions, same)))
    if longest > cfg.row_tokens:
        raise InputError(f"a pair has {longest:,} tokens and data.row_tokens={cfg.row_tokens}; raise it")
    shown = len(items) if cfg.epoch == "one" else len(train.pairs.symmetries)
    if cfg.rows_of == "all" and shown < cfg.epoch_steps * cfg.pairs_per_step:
        said = f"{shown:,} pairs are fewer than data.epoch_steps={cfg.epoch_steps} of {cfg.pairs_per_step}"
        raise InputError(f"{said}; lower data.epoch_steps to {shown // cfg.pairs_per_step}")
    train.packing(0, 0)  # says at once when the rows are too few
    known = np.array([pair.output is not None for task in tested.values() for pair in task.test])
    return train, PairsEval(info, made(questions, same), known, tested, others, numbers, cfg)
