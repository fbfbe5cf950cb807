"""Augmentations of single pairs: for each a list of (colours, symmetry), of which an epoch takes one.

A task's colours are permuted but for black and those that stand only in outputs. No two transformed inputs of a task
are equal, nor is one an original input. A pure function of (seed, task).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
from numba import njit

from trm_jax.data.hashing import key_of, mix, shuffle, stream_key
from trm_jax.tasks.arc.grids import COLORS, ArcTask, source_of, turns

_STREAM = 31  # of random numbers under a seed
_PERMUTATIONS = 5000  # of a task
_BEYOND = 10**10  # more than any code of ten colours


def domain(task: ArcTask) -> list[int]:
    """The colours of a task that may change: 1 to 9 without those that stand in outputs only."""
    inputs = set().union(*(np.unique(pair.input).tolist() for pair in task.pairs))
    outputs = set().union(*(np.unique(pair.output).tolist() for pair in task.train))
    return sorted(set(range(1, COLORS)) - (outputs - inputs))


@njit(cache=True, nogil=True)
def _drawn(key, colors, count):
    """[count, 10]: permutations of `colors`, all others staying."""
    found = np.empty((count, 10), np.int8)
    counter = 0
    for row in range(count):
        mixed = colors.copy()
        counter = shuffle(key, counter, mixed)
        found[row] = np.arange(10)
        for k in range(len(colors)):
            found[row, colors[k]] = mixed[k]
    return found


def permutations(colors: Sequence[int], seed: int, number: int) -> np.ndarray:
    """[n, 10] int8: permutations of a task's colours in random order: all, or 5,000 draws where there are more."""
    key, colors = stream_key(seed, _STREAM, number), np.array(colors, np.int64)
    if math.factorial(len(colors)) > _PERMUTATIONS:
        return _drawn(key, colors, _PERMUTATIONS)
    every = np.array(list(itertools.permutations(colors.tolist())), np.int8).reshape(-1, len(colors))
    order = np.arange(len(every))
    shuffle(key, 0, order)
    found = np.tile(np.arange(COLORS, dtype=np.int8), (len(every), 1))
    found[:, colors] = every[order]
    return found


@njit(cache=True, nogil=True)
def _hash(cells, height, width, symmetry, colors):
    """Of a transformed grid: 64 bits, so that two of the thousand of a task are equal by chance once in 10**13."""
    rows, columns = (width, height) if turns(symmetry) else (height, width)
    found = mix(np.uint64(rows * 31 + columns))
    for i in range(rows):
        for j in range(columns):
            a, b = source_of(i, j, height, width, symmetry)
            found = mix(found ^ np.uint64(colors[cells[a, b]] + 1))
    return np.int64(found)


@njit(cache=True, nogil=True)
def _code(present, colors):
    """What a map does to the colours that are present, as a number."""
    code = np.int64(0)
    for color in range(10):
        if present[color]:
            code = code * 10 + colors[color]
    return code


@njit(cache=True, nogil=True)
def _lists(cells, heights, widths, present, maps, caps, chosen, found_maps, counts):
    """Fill chosen [P, most], found_maps [P, most, 10] and counts [P]; present [P, 10]: of an input, that change."""
    same, seen = np.arange(10).astype(np.int8), set()
    for p in range(len(heights)):
        seen.add(_hash(cells[p], heights[p], widths[p], 0, same))
    had = set()  # restrictions of maps to the colours of each input
    turn = np.ones(len(heights), np.int64)
    for p in range(len(heights)):
        chosen[p, 0], found_maps[p, 0], counts[p] = 0, same, 1
        had.add(_code(present[p], same) + p * _BEYOND)
    for m in range(len(maps)):
        for p in range(len(heights)):
            code = _code(present[p], maps[m]) + p * _BEYOND
            if counts[p] >= caps[p] or code in had:
                continue
            had.add(code)
            for tried in range(8):
                symmetry = (turn[p] + tried) % 8
                image = _hash(cells[p], heights[p], widths[p], symmetry, maps[m])
                if image not in seen:
                    seen.add(image)
                    chosen[p, counts[p]], found_maps[p, counts[p]] = symmetry, maps[m]
                    turn[p] = symmetry + 1
                    counts[p] += 1
                    break
    # Every map under every symmetry, round by round, so that none is preferred.
    last = counts.copy()
    for more in range(1, 8):
        for p in range(len(heights)):
            for entry in range(last[p]):
                if counts[p] >= caps[p]:
                    break
                symmetry = (chosen[p, entry] + more) % 8
                image = _hash(cells[p], heights[p], widths[p], symmetry, found_maps[p, entry])
                if image not in seen:
                    seen.add(image)
                    chosen[p, counts[p]], found_maps[p, counts[p]] = symmetry, found_maps[p, entry]
                    counts[p] += 1


def augmentations(
    task: ArcTask, inputs: Sequence[np.ndarray], cap: int, seed: int, number: int
) -> list[tuple[np.ndarray, np.ndarray]]:
    """(symmetries [n], colours [n, 10]), int8, of each of a task's `inputs`, itself first; number: of the task.

    At most `cap` of each. Symmetries are those of `tasks.dihedral`.
    """
    colors = domain(task)
    cells = np.zeros((len(inputs), 30, 30), np.uint8)
    present = np.zeros((len(inputs), COLORS), np.bool_)
    for row, grid in enumerate(inputs):
        cells[row, : grid.shape[0], : grid.shape[1]] = grid
        present[row, np.intersect1d(grid, colors)] = True
    caps = np.array([min(cap, most(len(colors), int(k))) for k in present.sum(1)])
    shapes = np.array([grid.shape for grid in inputs])
    chosen, maps = np.zeros((len(inputs), cap), np.int8), np.zeros((len(inputs), cap, COLORS), np.int8)
    counts = np.zeros(len(inputs), np.int64)
    drawn = permutations(colors, seed, number)
    _lists(cells, shapes[:, 0], shapes[:, 1], present, drawn, caps, chosen, maps, counts)
    return [(chosen[p, :n], maps[p, :n]) for p, n in enumerate(counts)]


def most(colors: int, of_input: int) -> int:
    """How many different transformed inputs there can be, of so many colours of so many that change."""
    return math.perm(colors, of_input) * 8


@njit(cache=True, nogil=True)
def entries(seed, epoch, counts):
    """[P]: which entry of each pair's list an epoch takes: each once in a cycle of as many epochs as it has."""
    found = np.empty(len(counts), np.int64)
    for p in range(len(counts)):
        cycle, place = epoch // counts[p], epoch % counts[p]
        order = np.arange(counts[p])
        shuffle(key_of(seed, 32, p * 1_000_003 + cycle), 0, order)
        found[p] = order[place]
    return found
