"""Augmentations of ARC tasks: a symmetry of the square and a permutation of the colours 1 to 9, all different.

Which symmetries give a task back is found by matching its pairs, so that no augmented grid is ever hashed: two
augmentations are the same puzzle exactly if they differ by such a symmetry. Augmentation k of a task is a pure function
of (seed, task, k); the task itself is number 0.
"""

from __future__ import annotations

import functools
import math

import numpy as np
from numba import njit

from trm_jax.data.hashing import below, key_of, shuffle
from trm_jax.tasks.arc.grids import COLORS, ArcTask, Pair
from trm_jax.tasks.dihedral import dihedral

_STREAM = 21  # of random numbers under a seed


@functools.cache
def _composition() -> np.ndarray:
    """[8, 8]: the symmetry that is the second after the first."""
    probe = np.arange(4).reshape(2, 2)
    found = {dihedral(probe, k).tobytes(): k for k in range(8)}
    return np.array([[found[dihedral(dihedral(probe, e), d).tobytes()] for e in range(8)] for d in range(8)])


def _grids(task: ArcTask) -> list[tuple[np.ndarray, np.ndarray]]:
    """(input, output) of every pair; a test pair without an answer has its input twice."""
    return [(pair.input, pair.input if pair.output is None else pair.output) for pair in task.pairs]


def present(task: ArcTask) -> list[int]:
    """The colours 1 to 9 that stand in a task."""
    return sorted(set().union(*(np.unique(grid).tolist() for pair in _grids(task) for grid in pair)) - {0})


def _recoloring(one: np.ndarray, other: np.ndarray, known: dict[int, int]) -> dict[int, int] | None:
    """`known` extended so that it carries grid `one` to `other`; None where no one-to-one map does."""
    if one.shape != other.shape:
        return None
    both = np.unique(one.ravel().astype(np.int64) * COLORS + other.ravel())
    found = dict(known)
    for code in both:
        a, b = divmod(int(code), COLORS)
        if found.setdefault(a, b) != b:
            return None
    return found if len(set(found.values())) == len(found) else None


def canonical(pair: Pair) -> bytes:
    """The same for pairs that are one up to a symmetry and a permutation of the colours 1 to 9, and for no others."""
    forms = []
    for symmetry in range(8):
        grids = dihedral(pair.input, symmetry), dihedral(pair.output, symmetry)
        cells = np.concatenate([[0], *(grid.ravel() for grid in grids)])
        _, first, which = np.unique(cells, return_index=True, return_inverse=True)
        names = np.argsort(np.argsort(first)).astype(np.uint8)  # colours in the order in which they appear
        forms.append(bytes([*grids[0].shape, *grids[1].shape]) + names[which].tobytes())
    return min(forms)


def symmetries(task: ArcTask) -> list[tuple[int, dict[int, int]]]:
    """All (symmetry, map of the colours that stand in the task) that give the task back, pairs in any order."""
    pairs, found = _grids(task), []

    def match(number: int, left: list[int], turned, known: dict[int, int]) -> None:
        if number == len(pairs):
            if (symmetry, known) not in found:
                found.append((symmetry, known))
            return
        for other in left:
            more = _recoloring(turned[number][0], pairs[other][0], known)
            more = more and _recoloring(turned[number][1], pairs[other][1], more)
            if more:
                match(number + 1, [rest for rest in left if rest != other], turned, more)

    for symmetry in range(8):
        turned = [(dihedral(a, symmetry), dihedral(b, symmetry)) for a, b in pairs]
        match(0, list(range(len(pairs))), turned, {0: 0})
    return found


def orbit_size(task: ArcTask) -> int:
    """How many different puzzles the augmentations of a task give, itself among them."""
    return 8 * math.perm(9, len(present(task))) // len(symmetries(task))


@njit(cache=True, nogil=True)
def _draw(key, count, colors, kept, maps, composed, chosen, to):
    """Fill chosen [count] and to [count, 10] with different augmentations, the first of which changes nothing.

    colors [k]: those of the task. kept [s], maps [s, 10]: what gives the task back; an augmentation after one of these
    is the same puzzle, so that all of them have the least one's code.
    """
    seen, counter, found = set(), 0, 0
    new = np.arange(10)
    while found < count:
        symmetry = 0
        if found:
            symmetry = below(key, counter, 8)
            new[:] = np.arange(10)
            counter = shuffle(key, counter + 1, new[1:])
        least = np.int64(2**62)
        for place in range(kept.shape[0]):
            code = np.int64(composed[symmetry, kept[place]])
            for color in colors:
                code = code * 10 + new[maps[place, color]]
            least = min(least, code)
        if least not in seen:
            seen.add(least)
            chosen[found] = symmetry
            to[found] = new
            found += 1


def augmentations(task: ArcTask, count: int, seed: int, number: int) -> tuple[np.ndarray, np.ndarray]:
    """(symmetries [n] int8, colours [n, 10] int8: the new one of each) of a task and `count` augmentations, or of all
    that there are. number: of the task in its set, which the draws depend on."""
    kept = symmetries(task)
    size = min(count + 1, 8 * math.perm(9, len(present(task))) // len(kept))
    chosen, to = np.empty(size, np.int8), np.empty((size, COLORS), np.int8)
    maps = np.zeros((len(kept), COLORS), np.int64)
    for row, (_, known) in enumerate(kept):
        maps[row, list(known)] = list(known.values())
    turns = np.array([symmetry for symmetry, _ in kept])
    key = np.uint64(key_of(np.int64(seed), _STREAM, number))
    _draw(key, size, np.array(present(task), np.int64), turns, maps, _composition(), chosen, to)
    return chosen, to
