"""Mazes made here: hard ones as in Maze-Hard, and perfect ones (one path), as in Maze-Unique.

Maze number k of a kind is a pure function of (seed, kind, sizes, k).
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from trm_jax.data.hashing import below, key_of, shuffle
from trm_jax.errors import InputError
from trm_jax.tasks import Progress
from trm_jax.tasks.maze.grids import FREE, GOAL, START, WALL, Mazes, canonical
from trm_jax.tasks.maze.paths import label, search

HARD, PERFECT = 1, 2
_STARTS = 100  # drawn on one map before another is drawn
_LEAST_WALLS, _MORE_WALLS = 300, 201  # of 1,000 cells: 300 to 500, uniform over maps
_TRIES = 200_000  # maps before a length is given up; one of some 3,000 holds a path as long as those of Maze-Hard
_CHUNK = 16  # mazes that a thread makes at a time
_PATIENCE = 100  # rounds without a new maze before there are no more


@njit(cache=True, nogil=True)
def _distances(maze, start, parents, queue, distance):
    """Fill `distance` [H * W] for the cells that can be reached; as `search` otherwise."""
    end = search(maze, start, parents, queue)
    distance[start] = 0
    for place in range(1, end):
        distance[queue[place]] = distance[parents[queue[place]]] + 1
    return end


@njit(cache=True, nogil=True)
def _place_ends(maze, least, most, cells, key, counter, scratch):
    """Draw pairs of cells until they are least..most moves apart: (whether a pair was, the next counter).

    cells: of how many the second one is drawn; 0: of those that are as far from the first as they should be.
    """
    height, width = maze.shape
    parents, queue, distance = scratch[0], scratch[1], scratch[2]
    for _ in range(_STARTS):
        start = below(key, counter, height * width)
        counter += 1
        if maze[start // width, start % width] != FREE:
            continue
        end, so_far = _distances(maze, start, parents, queue, distance), 0
        for place in range(end):  # in place: no more are kept than were seen
            if least <= distance[queue[place]] <= most:
                queue[so_far] = queue[place]
                so_far += 1
        place = below(key, counter, cells or max(so_far, 1))
        counter += 1
        if place < so_far:
            goal = queue[place]
            maze[start // width, start % width], maze[goal // width, goal % width] = START, GOAL
            return True, counter
    return False, counter


@njit(cache=True, nogil=True)
def _hard(key, least, maze, scratch):
    """Fill maze [H, W] so that a shortest path has `least` moves or more; whether that was possible."""
    height, width = maze.shape
    counter, made = 0, False
    for _ in range(_TRIES):
        walls = _LEAST_WALLS + below(key, counter, _MORE_WALLS)
        counter += 1
        for cell in range(height * width):
            maze[cell // width, cell % width] = WALL if below(key, counter, 1000) < walls else FREE
            counter += 1
        start = below(key, counter, height * width)
        counter += 1
        # From the cell that is farthest from any cell the way to its own farthest is nearly as long as the longest.
        for _ in range(2):
            start = scratch[1][_distances(maze, start, scratch[0], scratch[1], scratch[2]) - 1]
        if scratch[2][start] >= least:
            made, counter = _place_ends(maze, least, height * width, height * width, key, counter, scratch)
        if made:
            break
    return made


@njit(cache=True, nogil=True)
def _carve(maze, key, counter, rooms):
    """Depth-first backtracking over rooms at odd rows and columns: one path between any two; the next counter."""
    height, width = maze.shape
    across, order = (width - 1) // 2, np.arange(4)
    maze[:] = WALL
    depth, rooms[0] = 1, below(key, counter, ((height - 1) // 2) * across)
    counter += 1
    maze[rooms[0] // across * 2 + 1, rooms[0] % across * 2 + 1] = FREE
    while depth:
        row, column = rooms[depth - 1] // across * 2 + 1, rooms[depth - 1] % across * 2 + 1
        counter = shuffle(key, counter, order)
        depth -= 1
        for side in order:
            down, right = (side == 0) - (side == 1), (side == 2) - (side == 3)
            next_row, next_column = row + 2 * down, column + 2 * right
            inside = 0 < next_row < height - (height + 1) % 2 and 0 < next_column < width - (width + 1) % 2
            if inside and maze[next_row, next_column] == WALL:
                maze[row + down, column + right] = maze[next_row, next_column] = FREE
                rooms[depth + 1] = (next_row // 2) * across + next_column // 2
                depth += 2
                break
    return counter


@njit(cache=True, nogil=True)
def _perfect(key, least, most, maze, scratch):
    """Carve maze [H, W] and place its ends least..most apart, each length alike likely; whether it was possible."""
    counter, made = 0, False
    for _ in range(_TRIES):
        counter = _carve(maze, key, counter, scratch[1])
        length = least + below(key, counter, most - least + 1)
        made, counter = _place_ends(maze, length, length, 0, key, counter + 1, scratch)
        if made:
            break
    return made


@njit(cache=True, nogil=True)
def _fill(kind, seed, first, least, most, mazes, scratch):
    for number in range(mazes.shape[0]):
        key = key_of(seed, kind, first + number)
        if kind == HARD:
            made = _hard(key, least, mazes[number], scratch)
        else:
            made = _perfect(key, least, most, mazes[number], scratch)
        if not made:
            return number
    return mazes.shape[0]


def generate(
    count: int,
    *,
    kind: str,
    height: int,
    width: int,
    min_moves: int,
    max_moves: int,
    seed: int,
    first: int = 0,
    known: set[bytes] | None = None,
    progress: Progress | None = None,
) -> Mazes:
    """`count` mazes with labels, different up to symmetry, from number `first` on; all cores work.

    kind: "hard" (random walls, a shortest path of min_moves or more) or "perfect" (min_moves to max_moves). known:
    those that must not come again, in canonical form; the new ones are added. Raises InputError where there are not so
    many of them, or none that long.
    """
    known, code = set() if known is None else known, HARD if kind == "hard" else PERFECT

    def part(number: int) -> np.ndarray:
        mazes = np.empty((_CHUNK, height, width), np.uint8)
        scratch = np.zeros((3, height * width), np.int32)
        return mazes[: _fill(code, np.int64(seed), number, min_moves, max_moves, mazes, scratch)]

    kept, rows, workers, fruitless = [], [], os.cpu_count() or 1, 0
    with ThreadPoolExecutor(workers) as pool:
        while len(kept) < count:
            starts, before = range(first, first + workers * _CHUNK, _CHUNK), len(kept)
            for number, mazes in zip(starts, pool.map(part, starts), strict=True):
                if len(mazes) < _CHUNK and len(kept) < count:
                    said = f"no {kind} maze of {height}x{width} was found with a path that long"
                    raise InputError(f"{said}: lower data.min_moves")
                for offset, maze in enumerate(mazes):
                    if len(kept) < count and (form := canonical(maze)) not in known:
                        known.add(form)
                        kept.append(maze)
                        rows.append(number + offset)
            first, fruitless = starts.stop, fruitless + 1 if len(kept) == before else 0
            if fruitless >= _PATIENCE:
                said = f"only {len(kept)} different {kind} mazes of {height}x{width} were found, {count} are asked for"
                raise InputError(f"{said}: ask for fewer, or for larger ones")
            if progress is not None:
                progress(len(kept), count)
    inputs = np.stack(kept)
    labels, moves = label(inputs)
    return Mazes(inputs, labels, moves, f"generated {kind} mazes", np.array(rows), "number")
