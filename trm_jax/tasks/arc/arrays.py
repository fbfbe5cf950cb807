"""ARC from the official arrays: its tasks, augmentations and ids, which the names of the puzzles tell.

A puzzle is called TASK, or TASK|||t3|||0472... for an augmentation: the symmetry, then the new colour of each old one.
So the arrays of the tasks themselves are all that is read of the examples, and an id means what it means to a model
that the official code has trained. Where a training example lies in its square is drawn anew.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from trm_jax.data.arrays import ArraySplit, read_split
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath
from trm_jax.tasks.arc.files import Tasks, read_json, task_from
from trm_jax.tasks.arc.grids import BLACK, ArcTask, Pair
from trm_jax.tasks.arc.source import Augmented, with_augmentations
from trm_jax.tasks.dihedral import dihedral

_NAME = re.compile(r"(?P<task>.+?)(\|\|\|t(?P<symmetry>[0-7])\|\|\|(?P<colors>0\d{9}))?")


def read_arrays(folder: AnyPath) -> tuple[Augmented, np.ndarray, np.ndarray, int]:
    """(data, lengths [G], tested [T], ids) of a folder of train, test, identifiers.json and test_puzzles.json.

    lengths: how many of a task's pairs train; tested: the numbers of the tasks of the test split, in its order. Raises
    InputError for files at odds with each other.
    """
    train, test = read_split(folder, "train"), read_split(folder, "test")
    names, puzzles = read_json(folder / "identifiers.json"), read_json(folder / "test_puzzles.json")
    for split in (train, test):
        if split.vocab_size != 12 or split.inputs.shape[1] != 900:
            said = f"{split.origin}: {split.inputs.shape[1]} cells with {split.vocab_size} tokens are no ARC tasks"
            raise InputError(f"{said}; name the folder of an ARC set")
        if not isinstance(names, list) or len(names) != split.num_puzzle_identifiers:
            said = f"{folder / 'identifiers.json'} has not the {split.num_puzzle_identifiers:,} names that"
            raise InputError(f"{said} {split.origin} wants; copy both from one build")
    if not isinstance(puzzles, dict):
        raise InputError(f"{folder / 'test_puzzles.json'} is no object of tasks; copy it once more")

    tasks: Tasks = {}
    drawn, lengths, ids = [], [], []
    for group in range(len(train.group_indices) - 1):
        numbers = _puzzles(train, group)
        group_ids = train.puzzle_identifiers[numbers]
        name, original, symmetries, colors = _names(folder, names, group_ids)
        pairs = _pairs(train, numbers[original])
        if name in tasks:
            raise InputError(f"{train.origin}: task {name} stands there twice; build the arrays once more")
        tasks[name] = _task(folder, name, pairs, puzzles.get(name))
        for number in {original, len(numbers) - 1}:
            _require_same(train, numbers[number], names[group_ids[number]], pairs, symmetries[number], colors[number])
        drawn.append((symmetries, colors))
        lengths.append(len(pairs))
        ids.append(group_ids)
    data = with_augmentations(tasks, drawn, np.concatenate(ids))
    return data, np.array(lengths, np.int64), _tested(test, data, names), len(names)


def _puzzles(split: ArraySplit, group: int) -> np.ndarray:
    """The numbers of a group's puzzles."""
    return np.arange(split.group_indices[group], split.group_indices[group + 1])


def _names(folder: AnyPath, names: Sequence[str], ids: np.ndarray) -> tuple[str, int, np.ndarray, np.ndarray]:
    """(task, which of its puzzles is the task itself, symmetries [n] int8, colours [n, 10] int8) of a group's ids."""
    found = [_NAME.fullmatch(str(names[one])) for one in ids]
    for one, match in zip(ids, found, strict=True):
        if match is None or len(set(match["colors"] or "0123456789")) < 10 or match["task"] != found[0]["task"]:
            said = f"{folder / 'identifiers.json'}, id {one}: {names[one]!r} names no augmentation of"
            raise InputError(f"{said} {found[0]['task'] if found[0] else 'a task'}; it reads TASK|||t3|||0472...")
    task = found[0]["task"]
    originals = [number for number, match in enumerate(found) if match["symmetry"] is None]
    if len(originals) != 1:
        raise InputError(f"{folder}: {len(originals)} puzzles are {task} itself, which is wanted once; build it anew")
    symmetries = np.array([int(match["symmetry"] or 0) for match in found], np.int8)
    colors = np.array([list(map(int, match["colors"] or "0123456789")) for match in found], np.int8)
    return task, originals[0], symmetries, colors


def _pairs(split: ArraySplit, puzzle: int) -> list[Pair]:
    """The pairs of a puzzle."""
    first, end = split.puzzle_indices[puzzle : puzzle + 2]

    def grid(row: int, side: str) -> np.ndarray:
        return _grid(f"{split.origin}, example {row}, {side}", getattr(split, side)[row])

    return [Pair(grid(row, "inputs"), grid(row, "labels")) for row in range(first, end)]


def _grid(where: str, tokens: np.ndarray) -> np.ndarray:
    """The grid of a sequence, wherever it lies in its square."""
    square = np.asarray(tokens).reshape(2 * (math.isqrt(len(tokens)),))
    rows, columns = (np.flatnonzero((square >= BLACK).any(axis)) for axis in (1, 0))
    if not len(rows):
        raise InputError(f"{where}: no grid; build the arrays once more")
    found = square[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if (found < BLACK).any():
        raise InputError(f"{where}: no whole rectangle of colours; build the arrays once more")
    return (found - BLACK).astype(np.uint8)


def _task(folder: AnyPath, name: str, pairs: list[Pair], content: dict | None) -> ArcTask:
    """A task from the pairs that train, and what test_puzzles.json says of it."""
    if content is None:
        return ArcTask(name, tuple(pairs), (), str(folder))
    task = task_from(folder / "test_puzzles.json", name, content)
    if not _alike(task.train, pairs):
        said = f"{folder}: the demonstrations of task {name} are others in test_puzzles.json than in train"
        raise InputError(f"{said}; copy both from one build")
    return task


def _alike(one: Sequence[Pair], other: Sequence[Pair]) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(a.input, b.input) and np.array_equal(a.output, b.output) for a, b in zip(one, other, strict=True)
    )


def _require_same(split: ArraySplit, puzzle: int, name: str, pairs: list[Pair], symmetry: int, colors) -> None:
    """Raise InputError unless a puzzle's examples are the pairs under the augmentation that its name tells."""

    def turned(grid):
        return dihedral(colors[grid].astype(np.uint8), int(symmetry))

    if not _alike([Pair(turned(pair.input), turned(pair.output)) for pair in pairs], _pairs(split, puzzle)):
        raise InputError(f"{split.origin}: puzzle {puzzle} is not what its name says, {name}; build the arrays anew")


def _tested(test: ArraySplit, data: Augmented, names: Sequence[str]) -> np.ndarray:
    """The tasks of the test split, whose groups must hold the same puzzles as those of the training split."""
    tasks, numbers = list(data.tasks.values()), {name: number for number, name in enumerate(data.tasks)}
    tested = []
    for group in range(len(test.group_indices) - 1):
        puzzles = _puzzles(test, group)
        ids = test.puzzle_identifiers[puzzles]
        number = numbers.get(str(names[ids[0]]).split("|||")[0], -1)
        here = data.ids[data.puzzles[number] : data.puzzles[number + 1]] if number >= 0 else []
        count = len(tasks[number].test) if number >= 0 else 0
        examples = np.diff(test.puzzle_indices[puzzles[0] : puzzles[-1] + 2])
        if not np.array_equal(ids, here) or not count or (examples != count).any():
            said = f"{test.origin}: group {group} ({names[ids[0]]}) has other puzzles or test pairs than train"
            raise InputError(f"{said} and test_puzzles.json; copy all from one build")
        tested.append(number)
    return np.array(tested, np.int64)
