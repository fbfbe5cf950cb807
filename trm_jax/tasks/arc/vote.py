"""Votes: candidates for the answer of each test pair, ranked.

Candidates of one grid are added up. They rank by votes, then by their mean q; where both are equal, by what comes first
in the order of the test set. So the order does not depend on how many hosts the candidates came from.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from trm_jax.errors import InputError
from trm_jax.tasks.arc.files import Tasks

PASS_AT = (1, 2, 5, 10, 100, 1000)
Key = tuple[str, int]  # task, number of its test pair


@dataclass
class Candidate:
    """A grid and who is for it; mean q of those votes that have one."""

    grid: np.ndarray  # [H, W] uint8; 0 x 0 for an answer that is none
    weight: float = 0.0
    first: int = 0  # the least position of a vote for it
    qs: list[float] = field(default_factory=list)

    @property
    def q(self) -> float:
        # An exact sum: the same in whatever order the votes come.
        return math.fsum(self.qs) / len(self.qs) if self.qs else 0.0


class Ballot:
    """The candidates of test pairs."""

    def __init__(self) -> None:
        self._boxes: dict[Key, dict[tuple, Candidate]] = {}

    def add(self, task: str, test: int, grid: np.ndarray, position: int, q: float | None = None) -> None:
        """A vote for `grid`; position: in the order of the test set. q: how sure the voter is, 0 to 1."""
        grid = np.ascontiguousarray(grid, np.uint8)
        box = self._boxes.setdefault((task, test), {})
        found = box.setdefault((grid.shape, grid.tobytes()), Candidate(grid, first=position))
        found.weight += 1.0
        found.first = min(found.first, position)
        if q is not None:
            found.qs.append(float(q))

    def ranked(self) -> dict[Key, list[Candidate]]:
        """The candidates of each test pair that has some, best first."""
        return {key: rank(box.values()) for key, box in self._boxes.items()}


def rank(candidates: Iterable[Candidate]) -> list[Candidate]:
    """Best first: by weight, by mean q, by what came first."""
    return sorted(candidates, key=lambda one: (-one.weight, -one.q, one.first))


@dataclass(frozen=True)
class Scores:
    """pass@K under three rules, in which a pair without candidates counts as missed."""

    mean_over_tasks: Mapping[int, float]  # the mean over tasks of the share of their pairs that are solved (ARC Prize)
    mean_over_pairs: Mapping[int, float]  # the share of all pairs that are solved (Kaggle)
    all_pairs_right: Mapping[int, float]  # the share of tasks all of whose pairs are solved (Chollet 2019)
    tasks: int
    pairs: int


def score(ranked: Mapping[Key, list[np.ndarray]], tasks: Tasks) -> Scores:
    """Scores of grids, best first, for each test pair of `tasks`.

    Raises InputError for a task whose answers are not known: what nobody knows is no right answer.
    """
    ranks: dict[Key, int] = {}  # of the right grid, from 1
    for name, task in tasks.items():
        for number, pair in enumerate(task.test):
            if pair.output is None:
                raise InputError(f"{task.origin}: task {name}, test {number} has no output; a score needs the answers")
            grids = ranked.get((name, number), [])
            right = (place for place, grid in enumerate(grids, 1) if np.array_equal(grid, pair.output))
            ranks[name, number] = next(right, 10**9)
    of_task = {name: [ranks[name, number] for number in range(len(task.test))] for name, task in tasks.items()}
    solved = {k: {name: np.array(places) <= k for name, places in of_task.items()} for k in PASS_AT}
    return Scores(
        {k: float(np.mean([right.mean() for right in solved[k].values()])) for k in PASS_AT},
        {k: float(np.concatenate(list(solved[k].values())).mean()) for k in PASS_AT},
        {k: float(np.mean([right.all() for right in solved[k].values()])) for k in PASS_AT},
        len(tasks),
        len(ranks),
    )
