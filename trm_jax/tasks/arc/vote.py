"""Votes: candidates for the answer of each test pair, ranked.

Candidates of one grid are added up. They rank by votes, then by their mean q; where both are equal, by what comes first
in the order of the test set. So the order does not depend on how many hosts the candidates came from.
"""

from __future__ import annotations

import math
import pickle
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from trm_jax.errors import InputError
from trm_jax.tasks.arc.files import Tasks

PASS_AT = (1, 2, 5, 10, 100, 1000)
Key = tuple[str, int]  # task, number of its test pair
_OPEN = 16  # tasks whose votes are not compressed


@dataclass
class Candidate:
    """A grid and who is for it; q is the mean of those votes that have one, each as heavy as the vote."""

    grid: np.ndarray  # [H, W] uint8; 0 x 0 for an answer that is none
    weight: float = 0.0
    first: int = 0  # the least position of a vote for it
    qs: list[tuple[float, float]] = field(default_factory=list)  # (q times weight, weight)

    @property
    def q(self) -> float:
        # Exact sums: the same in whatever order the votes come.
        weight = math.fsum(weight for _, weight in self.qs)
        return math.fsum(q for q, _ in self.qs) / weight if weight else 0.0


class Ballot:
    """Votes for the grids of test pairs. Those of tasks that nobody has voted on lately lie compressed."""

    def __init__(self) -> None:
        self._open: dict[str, dict[int, dict[tuple, Candidate]]] = {}  # the task voted on last stands last
        self._packed: dict[str, bytes] = {}  # of every task, in the order of their first votes; empty while it is open

    def add(
        self, task: str, test: int, grid: np.ndarray, position: int, q: float | None = None, weight: float = 1.0
    ) -> None:
        """A vote for `grid`; position: in the order of the test set. q: how sure the voter is, 0 to 1."""
        grid = np.ascontiguousarray(grid, np.uint8)
        box = self._boxes(task).setdefault(test, {})
        found = box.setdefault((grid.shape, grid.tobytes()), Candidate(grid, first=position))
        found.weight += weight
        found.first = min(found.first, position)
        if q is not None:
            found.qs.append((float(q) * weight, weight))

    def _boxes(self, task: str) -> dict[int, dict[tuple, Candidate]]:
        boxes = self._open.pop(task, None)
        if boxes is None:
            packed, self._packed[task] = self._packed.get(task), b""
            boxes = pickle.loads(zlib.decompress(packed)) if packed else {}
        self._open[task] = boxes
        while len(self._open) > _OPEN:
            oldest = next(iter(self._open))
            self._packed[oldest] = zlib.compress(pickle.dumps(self._open.pop(oldest)), 1)
        return boxes

    @property
    def tasks(self) -> list[str]:
        """Those that have votes, in the order of their first ones."""
        return list(self._packed)

    def ranked(self) -> Iterator[tuple[Key, list[Candidate]]]:
        """The candidates of each test pair that has some, best first; task by task."""
        for task in self.tasks:
            for test, candidates in self.of(task).items():
                yield (task, test), candidates

    def of(self, task: str) -> dict[int, list[Candidate]]:
        """The candidates of a task's test pairs by their numbers, best first; of those that have some."""
        if task not in self._packed:
            return {}
        return {test: rank(box.values()) for test, box in sorted(self._boxes(task).items())}


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


def score(ranked: Iterable[tuple[Key, list[np.ndarray]]], tasks: Tasks) -> Scores:
    """Scores of grids, best first, for the test pairs of `tasks`.

    Raises InputError for a task whose answers are not known: what nobody knows is no right answer.
    """
    for name, task in tasks.items():
        if (number := unknown(task)) is not None:
            raise InputError(f"{task.origin}: task {name}, test {number} has no output; a score needs the answers")
    ranks = {name: [10**9] * len(task.test) for name, task in tasks.items()}  # of the right grid, from 1
    for (name, number), grids in ranked:
        if name in tasks:
            answer = tasks[name].test[number].output
            right = (place for place, grid in enumerate(grids, 1) if np.array_equal(grid, answer))
            ranks[name][number] = next(right, 10**9)
    solved = {k: [np.array(places) <= k for places in ranks.values()] for k in PASS_AT}
    return Scores(
        {k: float(np.mean([right.mean() for right in solved[k]])) for k in PASS_AT},
        {k: float(np.concatenate(solved[k]).mean()) for k in PASS_AT},
        {k: float(np.mean([right.all() for right in solved[k]])) for k in PASS_AT},
        len(tasks),
        sum(map(len, ranks.values())),
    )


def unknown(task) -> int | None:
    """The number of a task's first test pair whose answer is not known."""
    return next((number for number, pair in enumerate(task.test) if pair.output is None), None)
