"""ARC tasks from files as people bring them: a folder of a JSON file a task, or challenges and solutions in one each.

Everything raises InputError that names file, task, pair, row and column, counted from 0.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path
from trm_jax.tasks.arc.grids import ArcTask, Pair

Tasks = dict[str, ArcTask]
ID = re.compile("[A-Za-z0-9_.-]{1,64}")  # of a task


def read_tasks(path: str | AnyPath) -> Tasks:
    """The tasks at a path, by id in the order of their names: a task's file, a folder (and those in it), or challenges.

    Beside `..._challenges.json` its `..._solutions.json` is read, where it is there. In a folder, hidden files,
    `__MACOSX` and JSON objects that are no task are passed over.
    """
    path = as_path(path).expanduser()
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        raise InputError(f"{path} does not exist; name a folder of ARC tasks, a task's file or ..._challenges.json")
    return _tasks_of(path, read_json(path))


def _tasks_of(path: AnyPath, content: Any) -> Tasks:
    if isinstance(content, dict) and "train" in content:
        task = task_from(path, path.name.split(".")[0], content, None)
        return {task.id: task}
    return _challenges(path, content)


def _folder(path: AnyPath) -> Tasks:
    found: Tasks = {}
    files = (file for file in path.rglob("*") if file.name.endswith((".json", ".json.gz")))
    for file in sorted(files, key=str):
        inside = str(file)[len(str(path)) :].strip("/").split("/")
        if any(part.startswith(".") or part == "__MACOSX" for part in inside) or "_solutions.json" in file.name:
            continue
        content = read_json(file)
        if isinstance(content, dict) and "train" not in content and not _names_tasks(content):
            continue  # a change log, say
        for name, task in _tasks_of(file, content).items():
            if name in found:
                raise InputError(f"task {name} stands in {found[name].origin} and in {task.origin}; remove one of them")
            found[name] = task
    if not found:
        raise InputError(f"{path} holds no ARC task; name a folder of JSON files with train and test")
    return dict(sorted(found.items()))


def _names_tasks(content: Mapping) -> bool:
    return bool(content) and all(isinstance(task, dict) and "train" in task for task in content.values())


def read_json(path: AnyPath) -> Any:
    """What a JSON file holds, gzip or not. Raises InputError, for a name that stands twice in an object too."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    if not path.is_file():
        raise InputError(f"{path} does not exist; copy the data set once more, all files of it")
    raw = path.read_bytes()
    try:
        text = (gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw).decode("utf-8-sig")
        pairs: list[str] = []

        def unique(items):
            names = [name for name, _ in items]
            pairs.extend(name for name in set(names) if names.count(name) > 1)
            return dict(items)

        content = json.loads(text, object_pairs_hook=unique)
    except (UnicodeDecodeError, json.JSONDecodeError, EOFError, gzip.BadGzipFile) as error:
        raise InputError(f"{path} is not JSON in UTF-8 ({error}); copy it once more") from None
    if pairs:
        raise InputError(f"{path}: {sorted(pairs)[0]!r} stands there twice; remove one of them")
    return content


def _challenges(path: AnyPath, content: Any) -> Tasks:
    if isinstance(content, list):
        raise InputError(f"{path} is a list of {len(content)} pairs, no task (RE-ARC?): a task has train and test")
    if not isinstance(content, dict) or not _names_tasks(content):
        raise InputError(f"{path} is no ARC task; it needs train and test, or ids with them")
    if not path.name.endswith(("_challenges.json", "_challenges.json.gz")):
        return {name: task_from(path, name, task, None) for name, task in sorted(content.items())}
    beside = path.parent / path.name.replace("_challenges", "_solutions")
    solutions = read_json(beside) if beside.exists() else None
    if solutions is not None:
        if not isinstance(solutions, dict):
            raise InputError(f"{beside} is no object of ids and answers; copy it once more")
        for one, other, here in ((content, solutions, beside), (solutions, content, path)):
            if missing := sorted(one.keys() - other.keys()):
                raise InputError(f"{here} has no task {missing[0]}; take both files from one set")
    return {
        name: task_from(path, name, task, None if solutions is None else (beside, solutions[name]))
        for name, task in sorted(content.items())
    }


def task_from(path: Any, name: str, content: Any, solutions: tuple[AnyPath, Any] | None = None) -> ArcTask:
    """A task; solutions: (their file, the answers of this task), where they stand apart."""
    where = f"{path}: task {name}" if str(path).rpartition("/")[2].split(".")[0] != name else str(path)
    if not ID.fullmatch(name):
        raise InputError(f"{where}: the id is {name!r}; name tasks with up to 64 letters, digits, . _ -")
    sides = {}
    for side in ("train", "test"):
        pairs = content.get(side)
        if not isinstance(pairs, list) or not all(isinstance(pair, dict) and "input" in pair for pair in pairs):
            raise InputError(f"{where}: {side} is no list of pairs with an input; an ARC task has train and test")
        if not pairs:
            mend = "a task shows at least one" if side == "train" else "a task asks at least one"
            raise InputError(f"{where}: {side} is empty; {mend}")
        sides[side] = [
            [read_grid(f"{where}, {side} {number}, {key}", pair.get(key)) for key in ("input", "output")]
            for number, pair in enumerate(pairs)
        ]
    for number, (_, output) in enumerate(sides["train"]):
        if output is None:
            raise InputError(f"{where}, train {number}: no output; a demonstration needs one")
    if solutions is not None:
        file, answers = solutions
        if not isinstance(answers, list) or len(answers) != len(sides["test"]):
            have = len(answers) if isinstance(answers, list) else "no list of"
            raise InputError(f"{file}: task {name} has {have} answers and {len(sides['test'])} test inputs; mend it")
        for number, answer in enumerate(answers):
            sides["test"][number][1] = read_grid(f"{file}: task {name}, answer {number}", answer)
    return ArcTask(name, *(tuple(Pair(*pair) for pair in sides[side]) for side in ("train", "test")), str(path))


def read_grid(where: str, rows: Any, empty: bool = False) -> np.ndarray | None:
    """[H, W] uint8; None for a missing one. empty: whether [] is a grid of no cells. Raises InputError."""
    if rows is None:
        return None
    if empty and rows == []:
        return np.zeros((0, 0), np.uint8)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, list) and row for row in rows):
        raise InputError(f"{where}: no list of rows of colours")
    if len(rows) > 30 or max(map(len, rows)) > 30:
        raise InputError(f"{where}: {len(rows)} rows of up to {max(map(len, rows))} cells; a grid has at most 30 x 30")
    if len({len(row) for row in rows}) > 1 or {type(color) for row in rows for color in row} != {int}:
        raise _fault(where, rows)
    grid = np.array(rows)
    if grid.min() < 0 or grid.max() > 9:
        raise _fault(where, rows)
    return grid.astype(np.uint8)


def _fault(where: str, rows: list) -> InputError:
    """The first thing that is wrong with rows that are no grid."""
    for number, row in enumerate(rows):
        if len(row) != len(rows[0]):
            return InputError(f"{where}, row {number}: {len(row)} cells where row 0 has {len(rows[0])}; mend the row")
        for column, color in enumerate(row):
            if type(color) is not int or not 0 <= color <= 9:
                said = f"{where}, row {number}, column {column}: {color!r}"
                return InputError(f"{said}; a colour is a whole number from 0 to 9")
    raise AssertionError("nothing is wrong")


def digest(tasks: Tasks) -> str:
    """SHA-256 of the ids, demonstrations and test inputs, without the answers: what a score belongs to."""
    plain = {
        name: {
            "train": [{"input": pair.input.tolist(), "output": pair.output.tolist()} for pair in task.train],
            "test": [{"input": pair.input.tolist()} for pair in task.test],
        }
        for name, task in sorted(tasks.items())
    }
    return hashlib.sha256(json.dumps(plain, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
