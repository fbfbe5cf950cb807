"""Submissions as Kaggle takes them: two attempts for every test pair of every task."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path, write_whole
from trm_jax.tasks.arc.files import Tasks, read_grid, read_json
from trm_jax.tasks.arc.vote import Key

NOTHING = [[0, 0], [0, 0]]  # where nothing was found
ATTEMPTS = ("attempt_1", "attempt_2")


def submission(ranked: Mapping[Key, list[np.ndarray]], tasks: Tasks) -> dict[str, list[dict]]:
    """Two attempts for every test pair: the first two grids, a lone one twice, `NOTHING` where there is none."""
    made = {}
    for name, task in tasks.items():
        made[name] = []
        for number in range(len(task.test)):
            grids = [grid.tolist() for grid in ranked.get((name, number), [])[:2]] or [NOTHING]
            made[name].append(dict(zip(ATTEMPTS, (grids * 2)[:2], strict=True)))
    return made


def write_submission(path: str | AnyPath, made: Mapping[str, list[dict]]) -> None:
    """Write submission.json in one step."""
    write_whole(as_path(path), json.dumps(made).encode())


def read_submission(path: str | AnyPath) -> dict[Key, list[np.ndarray]]:
    """The attempts of each test pair, best first, a repeated one once. Raises InputError naming task and pair."""
    content = read_json(as_path(path))
    if not isinstance(content, dict):
        raise InputError(f"{path} is no submission; it needs task ids with lists of attempts")
    found: dict[Key, list[np.ndarray]] = {}
    for name, pairs in content.items():
        for number, attempts in enumerate(_pairs(path, name, pairs)):
            grids: list[np.ndarray] = []
            for attempt in ATTEMPTS:
                grid = read_grid(f"{path}: task {name}, test {number}, {attempt}", attempts.get(attempt), empty=True)
                if grid is not None and not any(np.array_equal(grid, other) for other in grids):
                    grids.append(grid)
            found[name, number] = grids
    return found


def _pairs(path: Any, name: str, pairs: Any) -> list[dict]:
    if not isinstance(pairs, list) or not all(isinstance(one, dict) for one in pairs):
        raise InputError(f"{path}: task {name} has no list of attempts; write one object a test pair")
    return pairs
