"""Verification: every puzzle has one solution, its answer, and no test puzzle is a training puzzle in disguise."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trm_jax.errors import InputError
from trm_jax.tasks import Progress
from trm_jax.tasks.sudoku.boards import Boards, complete, conflicts
from trm_jax.tasks.sudoku.canonical import class_keys, invariants
from trm_jax.tasks.sudoku.solver import solve

_CHUNK = 2048


def check_rules(boards: Boards, solutions: np.ndarray | None = None) -> None:
    """Raise `InputError` naming the first row whose clues contradict each other or whose answer is wrong.

    solutions [N]: the number of solutions (up to 2) of each question; None where they were not counted.
    """
    right = complete(boards.answers, boards.size)
    right &= ((boards.questions == 0) | (boards.questions == boards.answers)).all(axis=1)
    if solutions is not None:
        right &= solutions == 1
    if right.all():
        return
    row = int(np.flatnonzero(~right)[0])
    found = 1 if solutions is None else solutions[row]
    if conflicts(boards.questions[row], boards.size).any():
        fault = "the clues contradict each other (a digit twice in a unit)"
    elif found != 1:
        fault = f"the question has {'two or more solutions: it needs more clues' if found else 'no solution'}"
    elif not complete(boards.answers[row : row + 1], boards.size)[0]:
        fault = "the answer is not a valid filled board"
    else:
        fault = "the answer disagrees with the clues"
    raise InputError(f"{boards.where(row)}: {fault}; correct or delete it")


def verify(boards: Boards, *, progress: Progress | None = None) -> np.ndarray:
    """Raise `InputError`, naming the first bad row, unless every puzzle has one solution, its answer.

    Returns the ratings [N] int32, the guesses of our solver. All cores solve; `progress(done, total)` is
    called after every part.
    """
    counts, ratings = np.zeros(len(boards), np.int32), np.zeros(len(boards), np.int32)
    starts = range(0, len(boards), _CHUNK)

    def count(start: int) -> None:
        part = slice(start, start + _CHUNK)
        _, counts[part], ratings[part] = solve(boards.questions[part], boards.size)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for start, _ in zip(starts, pool.map(count, starts), strict=True):
            if progress is not None:
                progress(min(start + _CHUNK, len(boards)), len(boards))
    check_rules(boards, counts)
    return ratings


def require_disjoint(train: Boards, test: Boards) -> None:
    """Raise `InputError` naming both rows if a puzzle stands in both splits up to symmetry.

    Only puzzles whose invariant occurs on both sides are brought into canonical form, so the check is exact
    and costs a few microseconds a puzzle. Of 16x16 equal invariants count as the same puzzle.
    """
    if train.size != test.size:
        return
    values = [invariants(boards.questions, boards.answers, boards.size) for boards in (train, test)]
    rows = [np.flatnonzero(np.isin(mine, other)) for mine, other in (values, values[::-1])]
    keys = [
        class_keys(boards.questions[at], boards.answers[at], boards.size)
        for boards, at in zip((train, test), rows, strict=True)
    ]
    in_train = dict(zip(keys[0], rows[0], strict=True))
    for key, row in zip(keys[1], rows[1], strict=True):
        if key in in_train:
            both = f"{train.where(in_train[key])} and {test.where(row)}"
            raise InputError(f"{both} are the same puzzle up to symmetry; remove one, or the score means nothing")
