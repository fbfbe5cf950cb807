"""Folders of mazes on disk, CSV or official arrays, read and written alike; every row is checked."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable

import numpy as np

from trm_jax.data.arrays import ArraySplit, read_split
from trm_jax.data.text_files import COLUMNS, open_text, readable, table
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path, local_copy, replacement
from trm_jax.tasks import Progress
from trm_jax.tasks.files import splits_at, write_both
from trm_jax.tasks.maze.grids import FREE, PATH, VOCAB_SIZE, Mazes, canonical, fault_of, parse, text_of, written
from trm_jax.tasks.maze.paths import label, problems

VERIFIED = "each with a shortest path as its answer"


def _square(cells: int, where: object) -> tuple[int, int]:
    """(H, W) of a square maze of so many cells."""
    side = math.isqrt(cells)
    if side * side != cells:
        raise InputError(f"{where}: {cells} cells are no square maze; give --height and --width, or mend the row")
    return side, side


def read_csv(path: AnyPath, shape: tuple[int, int] | None = None) -> Mazes:
    """Read a CSV file of mazes, every row checked; shape: (H, W), by default square as the first row tells.

    Raises `InputError` naming file and line (as an editor counts).
    """
    found, lines = [], []
    with readable(path, "maze"), local_copy(path) as copy, copy.open("rb") as raw, open_text(raw) as text:
        for line, (_, *texts, _) in table(text, str(path)):
            height, width = shape = shape or _square(len(texts[0]), f"{path} line {line}")
            pair = []
            for column, cells in zip(("question", "answer"), texts, strict=True):
                if len(cells) != height * width:
                    said = f"{column} has {len(cells)} characters, a maze of {height}x{width} has {height * width}"
                    raise InputError(f"{path} line {line}: {said}; give its height and width, or mend the row")
                try:
                    pair.append(parse(cells))
                except InputError as error:
                    raise InputError(f"{path} line {line}: {column}: {error}") from None
            found.append(np.stack(pair).reshape(2, height, width))
            lines.append(line)
    if not found:
        raise InputError(f"{path} holds no maze: it needs at least one row below the header")
    inputs, labels = np.stack(found).swapaxes(0, 1)
    return verified(Mazes(inputs, labels, label(inputs)[1], str(path), np.array(lines)))


def write_csv(path: str | AnyPath, mazes: Mazes) -> None:
    """Write mazes as `source,question,answer,rating`, the rating being the moves, in one step."""
    with replacement(as_path(path)) as new, new.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        for maze, answer, moves in zip(mazes.inputs, mazes.labels, mazes.moves, strict=True):
            writer.writerow((mazes.origin, written(maze), written(answer), moves))


def verified(mazes: Mazes) -> Mazes:
    """The same mazes. Raises `InputError` naming the first whose label is none."""
    for row in range(len(mazes)):
        maze, answer = mazes.inputs[row], mazes.labels[row]
        fault = fault_of(maze)
        if not fault and mazes.moves[row] < 0:
            fault = "no path leads from S to G"
        elsewhere = np.argwhere(np.where(answer == PATH, FREE, answer) != maze)
        if not fault and len(elsewhere):
            place = f"row {elsewhere[0][0] + 1} column {elsewhere[0][1] + 1}"
            fault = f"the answer is not of this maze: they differ at {place}"
        if not fault and (wrong := problems(maze, answer)):
            fault = f"the answer is no shortest path: {wrong[0]}"
        if fault:
            raise InputError(f"{mazes.where(row)}: {fault}; correct or delete it")
    return mazes


def maze_arrays(mazes: Mazes) -> ArraySplit:
    """Mazes as official arrays: a group, a puzzle and an example each."""
    count = len(mazes)
    ends = np.arange(count + 1, dtype=np.int32)
    flat = (x.reshape(count, -1) for x in (mazes.inputs, mazes.labels))
    return ArraySplit(*flat, np.zeros(count, np.int32), ends, ends, vocab_size=VOCAB_SIZE, origin=mazes.origin)


def array_mazes(split: ArraySplit, shape: tuple[int, int] | None = None) -> Mazes:
    """Every example of an array split as a verified maze; shape: (H, W), by default square."""
    shape = shape or _square(split.inputs.shape[1], split.origin)
    if math.prod(shape) != split.inputs.shape[1]:
        raise InputError(f"{split.origin}: {split.inputs.shape[1]} cells are no mazes of {shape[0]}x{shape[1]}")
    inputs, labels = (np.asarray(x, np.uint8).reshape(-1, *shape) for x in (split.inputs, split.labels))
    return verified(Mazes(inputs, labels, label(inputs)[1], split.origin, np.arange(len(inputs)), unit="example"))


def read_splits(
    path: str | AnyPath, *, shape: tuple[int, int] | None = None, progress: Progress | None = None
) -> dict[str, Mazes]:
    """The splits of mazes at a path: a CSV file, a folder of train.csv and test.csv, or arrays.

    shape: (H, W), by default square. progress is not called: mazes are verified in a moment.
    """

    def of_arrays(folder: AnyPath, name: str) -> Mazes:
        split = read_split(folder, name)
        return array_mazes(split, shape).take(split.puzzle_indices[split.group_indices[:-1]])

    return splits_at(path, "maze", lambda file: read_csv(file, shape), of_arrays)


def write_splits(folder: str | AnyPath, form: str, train: Mazes, test: Mazes) -> None:
    """Write both splits as `csv` or `arrays`."""
    write_both(folder, form, train, test, write_csv, lambda mazes, _: maze_arrays(mazes))


def require_disjoint(train: Mazes, test: Mazes) -> None:
    """Raise `InputError` naming both rows if a maze stands in both splits up to symmetry."""
    forms = [[canonical(maze) for maze in mazes.inputs] for mazes in (train, test)]
    in_train = dict(zip(forms[0], range(len(train)), strict=True))
    for row, form in enumerate(forms[1]):
        if form in in_train:
            both = f"{train.where(in_train[form])} and {test.where(row)}"
            raise InputError(f"{both} are the same maze up to symmetry; remove one, or the score means nothing")


def described(mazes: Mazes) -> str:
    """How many there are, and of what kind."""
    walls, size = (mazes.inputs == 1).mean(), "{}x{}".format(*mazes.inputs.shape[1:])
    return f"{len(mazes):,} mazes of {size}, {mazes.moves.mean():.1f} moves, {walls:.0%} walls"


def settings(mazes: Mazes) -> list[str]:
    """Settings of `data` that a run of these mazes needs."""
    return [f"height={mazes.inputs.shape[1]}", f"width={mazes.inputs.shape[2]}"]


def histograms(mazes: Mazes) -> list[tuple[str, np.ndarray, Callable[[int], str]]]:
    """(what, values, name of a value) to be counted."""
    tens = {"moves": mazes.moves // 10, "walls": (mazes.inputs == 1).sum((1, 2)) // 10}
    return [(what, values, lambda ten: f"{10 * ten}-{10 * ten + 9}") for what, values in tens.items()]


def shown(mazes: Mazes, row: int) -> tuple[str, str, list[list[str]]]:
    """(what is known of it, the maze on a line, [lines of the maze, lines of its answer])."""
    maze, answer = mazes.inputs[row], mazes.labels[row]
    sides = [text_of(maze, x, color=False).splitlines() for x in (maze, answer)]
    return f"{mazes.moves[row]} moves", written(maze), sides
