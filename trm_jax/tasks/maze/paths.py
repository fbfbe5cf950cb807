"""Shortest paths in mazes: the label rule, and verdicts on answers. Mazes are [H, W] tokens (see `grids`).

Shortest paths are hardly ever unique, so labels follow one rule: breadth-first from the start, neighbours in the order
down, left, right, up, the parent of a cell is its first discoverer.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trm_jax.tasks.maze.grids import FREE, GOAL, PATH, START, WALL

_DOWN_LEFT_RIGHT_UP = np.array([[1, 0], [0, -1], [0, 1], [-1, 0]])


@njit(cache=True, nogil=True)
def search(maze, start, parents, queue):
    """Breadth-first over the cells of maze [H, W] that are no walls; cells are numbered row by row.

    Fills parents [H * W] int32 (-1 where not reached, its own number at the start) and queue [H * W] int32; returns how
    many cells were reached, the first of the queue, in order of distance.
    """
    height, width = maze.shape
    parents[:] = -1
    parents[start], queue[0] = start, start
    first, end = 0, 1
    while first < end:
        cell = queue[first]
        first += 1
        for step in range(4):
            row = cell // width + _DOWN_LEFT_RIGHT_UP[step, 0]
            column = cell % width + _DOWN_LEFT_RIGHT_UP[step, 1]
            if 0 <= row < height and 0 <= column < width:
                other = row * width + column
                if parents[other] < 0 and maze[row, column] != WALL:
                    parents[other] = cell
                    queue[end] = other
                    end += 1
    return end


@njit(cache=True, nogil=True)
def _label(mazes, labels, moves):
    count, height, width = mazes.shape
    parents, queue = np.empty(height * width, np.int32), np.empty(height * width, np.int32)
    for number in range(count):
        start = goal = -1
        for cell in range(height * width):
            token = mazes[number, cell // width, cell % width]
            labels[number, cell // width, cell % width] = FREE if token == PATH else token
            if token == START:
                start = cell
            elif token == GOAL:
                goal = cell
        moves[number] = -1
        if start < 0 or goal < 0:
            continue
        search(mazes[number], start, parents, queue)
        if parents[goal] < 0:
            continue
        cell, length = parents[goal], 1
        while cell != start:
            labels[number, cell // width, cell % width] = PATH
            cell = parents[cell]
            length += 1
        moves[number] = length


def label(mazes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(labels [N, H, W], moves [N] int32) of mazes [N, H, W] by the rule; moves -1: no path, and none is marked.

    A path that is marked already makes no difference.
    """
    mazes = np.ascontiguousarray(mazes, np.uint8)
    labels, moves = np.empty_like(mazes), np.empty(len(mazes), np.int32)
    _label(mazes, labels, moves)
    return labels, moves


def problems(maze: np.ndarray, answer: np.ndarray) -> tuple[str, ...]:
    """What is wrong with the path of an answer [H, W] to a maze [H, W], a line each; empty for a shortest path.

    The path is where the answer says start, goal or path; the other cells do not matter (`valid_optimal`).
    """
    on_path, lines = answer >= START, []
    for token, name in ((START, "start"), (GOAL, "goal")):
        if not on_path[maze == token].all():
            lines.append(f"the path misses the {name}")
    crossed = np.argwhere(on_path & (maze == WALL))
    if len(crossed):
        walls = "a wall" if len(crossed) == 1 else f"{len(crossed)} walls, the first"
        lines.append(f"the path crosses {walls} at row {crossed[0][0] + 1} column {crossed[0][1] + 1}")
    as_maze = np.where(on_path, FREE, WALL).astype(np.uint8)
    start = int(np.flatnonzero(maze == START)[0])
    parents, queue = np.empty(maze.size, np.int32), np.empty(maze.size, np.int32)
    reached = search(as_maze, start, parents, queue)
    if reached < on_path.sum():
        lines.append(f"the path is not whole: {on_path.sum() - reached} of its cells are not joined to the start")
    shortest = int(label(maze[None])[1][0]) + 1
    if not lines and on_path.sum() != shortest:
        lines.append(f"the path has {on_path.sum()} cells; the shortest has {shortest}")
    return tuple(lines)
