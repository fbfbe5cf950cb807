"""MARC's puzzles: what an adapter is trained on, and what it is asked in the end."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trm_jax.solvers import Question, generator
from trm_jax.solvers.marc.augmenters import Change, changes, recolouring
from trm_jax.tasks.arc.grids import SIDE, Pair
from trm_jax.tasks.dihedral import INVERSE, dihedral

MOST = 250  # puzzles that train an adapter
LONGEST = 8192  # tokens; a puzzle has fewer
ORDERS = 2  # random ones in which demonstrations are shown, besides their own
IDENTITY = "identity"
VIEWS = {IDENTITY: 0, "transpose": 6, "flip_rows": 5, "flip_columns": 4, "rotate_90": 1, "rotate_180": 2}  # symmetries


@dataclass(frozen=True, eq=False)
class Puzzle:
    """Demonstrations and a pair whose output is asked for, which is None in a test."""

    demonstrations: tuple[Pair, ...]
    asked: Pair

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The one that is asked for stands last."""
        return (*self.demonstrations, self.asked)

    @property
    def grids(self) -> list[np.ndarray]:
        return [grid for pair in self.pairs for grid in (pair.input, pair.output) if grid is not None]

    @property
    def key(self) -> tuple:
        """Equal for equal puzzles; the order of demonstrations counts."""
        return tuple((grid.shape, grid.tobytes()) for grid in self.grids)

    def changed(self, change: Change) -> Puzzle:
        """With every grid changed."""
        *shown, asked = (
            Pair(change(pair.input), None if pair.output is None else change(pair.output)) for pair in self.pairs
        )
        return Puzzle(tuple(shown), asked)


def unique(puzzles: Iterable[Puzzle]) -> list[Puzzle]:
    """The first of equal ones."""
    found: dict[tuple, Puzzle] = {}
    for puzzle in puzzles:
        found.setdefault(puzzle.key, puzzle)
    return list(found.values())


def left_out(demonstrations: Sequence[Pair], count: int) -> list[Puzzle]:
    """Each pair as the question to all others but count - 1, in all ways; never without a demonstration."""
    kept = len(demonstrations) - count
    if kept < 1:
        return []
    return [
        Puzzle(shown, asked)
        for number, asked in enumerate(demonstrations)
        for shown in itertools.combinations((*demonstrations[:number], *demonstrations[number + 1 :]), kept)
    ]


def augmented(puzzles: Sequence[Puzzle], changes_of: Callable[[], Iterable[Change]]) -> list[Puzzle]:
    """Puzzles and what changes make of each, as far as no side is longer than 30; each once."""
    made = (puzzle.changed(change) for puzzle in puzzles for change in changes_of())
    return unique([*puzzles, *(one for one in made if max(max(grid.shape) for grid in one.grids) <= SIDE)])


def recoloured(puzzle: Puzzle, rng: np.random.Generator) -> Puzzle:
    """With its colours permuted, the same in all grids, and its demonstrations in a random order."""
    new = recolouring(set(np.concatenate([grid.ravel() for grid in puzzle.grids]).tolist()), rng)
    changed = puzzle.changed(lambda grid: new[grid])
    order = rng.permutation(len(changed.demonstrations))
    return Puzzle(tuple(changed.demonstrations[place] for place in order), changed.asked)


def training(
    task: Question, seed: int, tokens: Callable[[Puzzle], int], *, most: int = MOST, longest: int = LONGEST
) -> list[Puzzle]:
    """The puzzles that a task's adapter is trained on, at most `most`; none for a task of one demonstration.

    Those with one pair left out, and one recoloured copy of each; where they are fewer than `most`, filled up with
    those with two left out. tokens: of a puzzle's text, of which it must have fewer than `longest`.
    """
    found: list[Puzzle] = []
    for count in (1, 2):
        rng = generator(seed, task.id, f"leave {count}")
        made = augmented(left_out(task.demonstrations, count), lambda rng=rng: changes(rng))
        made = unique([*made, *[recoloured(puzzle, rng) for puzzle in made]])
        drawn = (place for place in rng.permutation(len(made)) if tokens(made[place]) < longest)
        found += [made[place] for place in sorted(itertools.islice(drawn, most - len(found)))]
        if len(found) == most:
            break
    return found


def viewed(grid: np.ndarray, view: str) -> np.ndarray:
    """A grid seen under a view."""
    return dihedral(grid, VIEWS[view])


def undone(grid: np.ndarray, view: str) -> np.ndarray:
    """The grid that looks like this under a view."""
    return dihedral(grid, INVERSE[VIEWS[view]])


def asked(
    task: Question, test: int, seed: int, tokens: Callable[[Puzzle], int], *, longest: int = LONGEST
) -> list[tuple[str, Puzzle]]:
    """(view, puzzle) of each prompt that asks for test input `test`: with seed 0 7, 10, 16, 20, 23 for 2 to 6 pairs.

    The demonstrations without one of them, in their own order and in random ones, for each of them, each once; and each
    view of one of these that is drawn, even where it looks the same: the vote is by views. The orders are the same for
    all tasks, and those of the reference. Where none has fewer tokens than `longest`, two demonstrations are left out.
    A lone demonstration is shown.
    """
    for count in (1, 2):
        found = [(view, one) for view, one in _asked(task, test, seed, count) if tokens(one) < longest]
        if found:
            return found
    return []


def _asked(task: Question, test: int, seed: int, count: int) -> list[tuple[str, Puzzle]]:
    """The prompts with `count` demonstrations left out."""
    pairs, query, orders = task.demonstrations, Pair(task.inputs[test], None), np.random.RandomState(seed)
    if len(pairs) > count:
        ways = list(itertools.combinations(range(len(pairs)), count))
    else:
        ways = [()] if count == 1 else []
    plain = []
    for without in ways:
        shown = tuple(pair for place, pair in enumerate(pairs) if place not in without)
        plain.append(Puzzle(shown, query))
        for _ in range(ORDERS):
            plain.append(Puzzle(tuple(shown[place] for place in orders.permutation(len(shown))), query))
    plain = unique(plain)
    if not plain:
        return []
    rng, found = generator(seed, task.id, f"views {test} {count}"), [(IDENTITY, one) for one in plain]
    for view in list(VIEWS)[1:]:
        one = plain[rng.integers(len(plain))].changed(lambda grid, view=view: viewed(grid, view))
        found.append((view, one))
    return found
