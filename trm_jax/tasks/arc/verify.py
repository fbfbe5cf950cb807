"""Overlaps: test pairs that stand among training pairs, as they are or turned and recoloured."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from trm_jax.tasks.arc.augment import canonical
from trm_jax.tasks.arc.files import Tasks
from trm_jax.tasks.arc.grids import Pair


class Overlap(NamedTuple):
    """A test pair, or a demonstration, and the pair that it equals; exact: without turning or recolouring it."""

    task: str
    test: int  # its number
    other: str
    side: str  # "train" or "test"
    pair: int
    exact: bool


def _outline(pair: Pair) -> tuple:
    """The same for pairs that are one up to symmetry and recolouring."""
    return tuple(
        (tuple(sorted(grid.shape)), tuple(sorted(np.bincount(grid.ravel(), minlength=10)[1:])), int((grid == 0).sum()))
        for grid in (pair.input, pair.output)
    )


def key(pair: Pair) -> str:
    """16 digits for all pairs that are this one, turned or recoloured."""
    return hashlib.sha256(canonical(pair)).hexdigest()[:16]


def overlaps(tested: Tasks, trained: Iterable[Tasks], of: str = "test") -> Iterator[Overlap]:
    """Test pairs of `tested` that are training pairs: demonstrations of its own tasks, or pairs of `trained`.

    of="train": demonstrations of `tested` that another task has too: it may be the same one under another name.
    """
    known = defaultdict(list)
    for tasks, sides in [(tested, ("train",)), *((tasks, ("train", "test")) for tasks in trained)]:
        for name, task in tasks.items():
            for side in sides:
                for number, pair in enumerate(getattr(task, side)):
                    if pair.output is not None:
                        known[_outline(pair)].append((name, side, number, pair))
    for name, task in tested.items():
        for number, pair in enumerate(getattr(task, of)):
            if pair.output is None:
                continue
            for other, side, place, found in known[_outline(pair)]:
                if (of == "test" or other != name) and canonical(pair) == canonical(found):
                    pairs = (pair.input, found.input), (pair.output, found.output)
                    exact = all(np.array_equal(a, b) for a, b in pairs)
                    yield Overlap(name, number, other, side, place, exact)


def notes(tested: Tasks, others: Tasks, name: str) -> tuple[str, ...]:
    """A line on the test pairs of a set that stand among its demonstrations or in `others`; none if there are none."""
    found = sorted({f"{one.task} test {one.test}" for one in overlaps(tested, [others])})
    if not found:
        return ()
    listed = ", ".join(found[:4]) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
    count = sum(len(task.test) for task in tested.values())
    said = f"{len(found)} of {count} test pairs of {name} are trained on, turned or recoloured"
    return (f"{said} ({listed}); `trm data arc verify` lists all",)
