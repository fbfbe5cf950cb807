"""Proof that puzzles are what they claim: clues agree, one solution, and it is the answer."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from trm_jax.errors import InputError
from trm_jax.tasks.sudoku.boards import Boards, complete, conflicts
from trm_jax.tasks.sudoku.solver import solve

_CHUNK = 2048


def check_rules(boards: Boards, counts: np.ndarray | None = None) -> None:
    """Raise `InputError` naming the first row whose clues contradict each other or whose answer is wrong.

    counts [N]: the number of solutions (up to 2) of each question; None where they were not counted.
    """
    counts = np.ones(len(boards), np.int32) if counts is None else counts
    wrong_clues = ((boards.questions > 0) & (boards.questions != boards.answers)).any(axis=1)
    checks = (
        (
            conflicts(boards.questions, boards.size),
            "the clues contradict each other (a digit twice in a unit)",
        ),
        (counts == 0, "the question has no solution"),
        (counts > 1, "the question has two or more solutions: it needs more clues"),
        (~complete(boards.answers, boards.size), "the answer is not a valid filled board"),
        (wrong_clues, "the answer disagrees with the clues"),
    )
    bad = np.any([mask for mask, _ in checks], axis=0)
    if bad.any():
        row = int(np.flatnonzero(bad)[0])
        message = next(text for mask, text in checks if mask[row])
        raise InputError(f"{boards.where(row)}: {message}; correct or delete it")


def prove(boards: Boards, *, progress: Callable[[int, int], None] | None = None) -> np.ndarray:
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
