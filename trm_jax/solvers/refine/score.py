"""How good a program is, what it is told of its faults, and which answers are taken from several of them.

Source: the soft score, the feedback and the groups are Poetiq's (poetiq-ai/poetiq-arc-agi-solver), the order of a tree
is J. Berman's (jerber/arc_agi); where they count what is no grid, or a program twice, this does not.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from trm_jax.solvers import Question
from trm_jax.solvers.refine.sandbox import Ran

Grid = np.ndarray | None  # [H, W] uint8; None: no valid answer


def accuracy(grid: Grid, truth: np.ndarray) -> float:
    """The share of cells that are right; 0 for no grid, and for one of another shape."""
    if grid is None or grid.shape != truth.shape:
        return 0.0
    return float(np.mean(grid == truth))


@dataclass(frozen=True)
class Solution:
    """A program and what it makes of a task."""

    number: int  # of the reply that it stands in, from 0
    code: str
    shown: tuple[Grid, ...]  # its answers to the demonstrations
    errors: tuple[str | None, ...]  # why there is no grid, of demonstrations and then test inputs
    scores: tuple[float, ...]  # cell accuracy of the demonstrations
    answers: tuple[Grid, ...]  # to the test inputs

    @property
    def solved(self) -> bool:
        """Whether all demonstrations are right."""
        return all(score == 1.0 for score in self.scores)

    @cached_property
    def score(self) -> float:
        """The mean over demonstrations of their cell accuracy."""
        return math.fsum(self.scores) / len(self.scores)  # the same in any order of the demonstrations


def solution(number: int, code: str, ran: Ran, question: Question) -> Solution:
    """ran: on the inputs of all demonstrations, then on the test inputs."""
    count = len(question.demonstrations)
    pairs = zip(ran.grids[:count], question.demonstrations, strict=True)
    scores = tuple(accuracy(grid, pair.output) for grid, pair in pairs)
    return Solution(number, code, ran.grids[:count], ran.errors, scores, ran.grids[count:])


def feedback(one: Solution, question: Question) -> str:
    """What a program is told of each demonstration, by its own number wherever it stands in a prompt."""
    said = []
    for at, (grid, pair) in enumerate(zip(one.shown, question.demonstrations, strict=True)):
        said.append(f"Example {at + 1}: {_told(grid, one.errors[at], pair.output)}")
    for at, error in enumerate(one.errors[len(one.shown) :]):
        if error:
            said.append(f"Test input {at + 1}: {error}")
    return "\n".join(said)


def _told(grid: Grid, error: str | None, truth: np.ndarray) -> str:
    if grid is None:
        return f"wrong. {error}"
    if grid.shape != truth.shape:
        return f"wrong. The output is {_size(grid)} and should be {_size(truth)}."
    if (grid == truth).all():
        return "right."
    rows = zip(grid.tolist(), truth.tolist(), strict=True)
    cells = [" ".join(str(a) if a == b else f"{a}/{b}" for a, b in zip(*row, strict=True)) for row in rows]
    share = accuracy(grid, truth)
    return "wrong. Cells, where wrong as got/wanted:\n" + "\n".join(cells) + f"\nShare of cells right: {share:.2f}"


def _size(grid: np.ndarray) -> str:
    return f"{grid.shape[0]} rows x {grid.shape[1]} columns"


def _same(grids: Sequence[Grid]) -> Hashable:
    return tuple(None if grid is None else (grid.shape, grid.tobytes()) for grid in grids)


def grouped(results: Sequence[Solution]) -> list[int]:
    """The order in which results are believed.

    Those of equal answers to all test inputs are a group. Groups with one that solves all demonstrations come first,
    the larger before the smaller; one that does not may join such a group. Then come the others, by size and by their
    best score. Each group says its word once before any says it twice.
    """
    groups: dict[Hashable, list[int]] = {}
    for at in sorted(range(len(results)), key=lambda at: not results[at].solved):
        groups.setdefault(_same(results[at].answers), []).append(at)
    solved = [group for group in groups.values() if results[group[0]].solved]
    failed = [group for group in groups.values() if not results[group[0]].solved]
    for group in failed:
        group.sort(key=lambda at: -results[at].score)
    solved.sort(key=len, reverse=True)
    failed.sort(key=lambda group: (len(group), results[group[0]].score), reverse=True)
    every = solved + failed
    return [group[0] for group in every] + [at for group in every for at in group[1:]]


def candidates(ordered: Sequence[Solution]) -> list[list[np.ndarray]]:
    """The distinct valid grids for each test input, in the order of those who give them."""
    found: list[list[np.ndarray]] = []
    for answers in zip(*(one.answers for one in ordered), strict=True):
        kept: list[np.ndarray] = []
        for grid in answers:
            if grid is not None and not any(np.array_equal(grid, other) for other in kept):
                kept.append(grid)
        found.append(kept)
    return found


def by_pairs(one: Solution) -> tuple[float, float]:
    """What ranks programs in a tree, the larger the better: the share of demonstrations that are right, and where that
    is equal the cell accuracy."""
    return sum(score == 1.0 for score in one.scores) / len(one.scores), one.score


def distinct(found: Sequence[Solution]) -> list[Solution]:
    """Programs of different text, the first of each, in their order."""
    first: dict[str, Solution] = {}
    for one in found:
        first.setdefault(one.code.strip(), one)
    return list(first.values())


def final_two(ordered: Sequence[Solution]) -> list[Solution]:
    """The best, and the next of another program and other answers."""
    first, *others = ordered
    return [
        first,
        *[one for one in others if one.code != first.code and _same(one.answers) != _same(first.answers)][:1],
    ]
