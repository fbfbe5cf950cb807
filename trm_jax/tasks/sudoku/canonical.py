"""The canonical form of a puzzle up to symmetry, and a fast invariant that needs no search.

Form: the lexicographically least solution grid over all transformations; among the transformations that
attain it, the least puzzle. Once the first row, its column order and the orientation are chosen, the digit
map is fixed (the first row becomes 1..size) and sorting the rest by the first column is the only way to be
least: 23,328 candidates for 9x9, nearly all of them refuted by the first cells of the second row.
"""

from __future__ import annotations

import functools
import itertools

import numpy as np
from numba import njit

from trm_jax.data.hashing import mix
from trm_jax.tasks.sudoku.boards import BOX_HEIGHT, units


@functools.cache
def _column_orders(size: int) -> np.ndarray:
    """[orders, size] int64: all column orders that permute the stacks and the columns in each."""
    width = size // BOX_HEIGHT[size]
    orders = []
    for stacks in itertools.permutations(range(size // width)):
        for inner in itertools.product(itertools.permutations(range(width)), repeat=size // width):
            orders.append([s * width + c for s, cols in zip(stacks, inner, strict=True) for c in cols])
    return np.array(orders, np.int64)


@njit(cache=True, nogil=True)
def _keep_lesser(puzzle, rows, order, row_step, col_step, label, form):
    """Let `form` [2, size, size] be this candidate if that is less."""
    lesser = False
    for kind in range(2):
        for i in range(rows.shape[0]):
            for j in range(rows.shape[0]):
                here = label[puzzle[kind, rows[i] * row_step + order[j] * col_step]]
                if not lesser and here > form[kind, i, j]:
                    return
                if lesser or here < form[kind, i, j]:
                    lesser = True
                    form[kind, i, j] = here


@njit(cache=True, nogil=True)
def _canonical_rows(puzzles, height, orders, forms):
    size = orders.shape[1]
    label = np.zeros(size + 1, np.int64)  # of a digit; a blank stays 0
    head, key = np.empty(size, np.int64), np.empty(size, np.int64)
    for number in range(puzzles.shape[0]):
        puzzle, form = puzzles[number], forms[number]
        for transposed in range(2 if height * height == size else 1):
            row_step, col_step = (1, size) if transposed else (size, 1)
            for first in range(size):
                for candidate in range(orders.shape[0]):
                    order = orders[candidate]
                    for col in range(size):
                        label[puzzle[0, first * row_step + order[col] * col_step]] = col + 1
                    for row in range(size):
                        head[row] = label[puzzle[0, row * row_step + order[0] * col_step]]
                    second = first // height * height + (first % height == 0)
                    for row in range(first // height * height, first // height * height + height):
                        if row != first and head[row] < head[second]:
                            second = row
                    place = 0
                    here = label[puzzle[0, second * row_step + order[0] * col_step]]
                    while here == form[0, 1, place] and place < size - 1:
                        place += 1
                        here = label[puzzle[0, second * row_step + order[place] * col_step]]
                    if here <= form[0, 1, place]:  # nearly all end here
                        for row in range(size):  # the bands by their least labels, and the rows in each
                            band = row // height * height
                            key[row] = head[band : band + height].min() * 16 + head[row]
                        _keep_lesser(puzzle, np.argsort(key), order, row_step, col_step, label, form)


def canonical_forms(questions: np.ndarray, answers: np.ndarray, size: int) -> np.ndarray:
    """Canonical forms of puzzles [N, S] uint8 with solutions [N, S]: [N, 2, S] uint8 (solution, puzzle).

    Two puzzles have equal forms exactly if a symmetry carries one to the other.
    """
    forms = np.full((len(questions), 2, size, size), size + 1, np.uint8)
    _canonical_rows(np.stack([answers, questions], axis=1), BOX_HEIGHT[size], _column_orders(size), forms)
    return forms.reshape(len(questions), 2, size * size)


@njit(cache=True, nogil=True)
def _invariant_rows(questions, answers, table, square, result):
    cells = table.shape[0]
    size = int(np.sqrt(cells) + 0.5)
    colour = np.empty(cells, np.uint64)
    sums = np.empty((4, size), np.uint64)
    for puzzle in range(questions.shape[0]):
        for cell in range(cells):
            colour[cell] = np.uint64(1) if questions[puzzle, cell] > 0 else np.uint64(2)
        for _ in range(3):
            sums.fill(0)
            for cell in range(cells):
                spread = mix(colour[cell])
                sums[0, table[cell, 0]] += spread
                sums[1, table[cell, 1] - size] += spread
                sums[2, table[cell, 2] - 2 * size] += spread
                sums[3, answers[puzzle, cell] - 1] += spread
            for cell in range(cells):
                across = mix(sums[0, table[cell, 0]])
                down = mix(sums[1, table[cell, 1] - size])
                lines = across + down if square else across + mix(down)
                box = mix(sums[2, table[cell, 2] - 2 * size] + np.uint64(3))
                digit = mix(sums[3, answers[puzzle, cell] - 1] + np.uint64(5))
                colour[cell] = mix(mix(colour[cell]) + mix(lines) + mix(box) + mix(digit))
        total = np.uint64(0)
        for cell in range(cells):
            total += mix(colour[cell])
        result[puzzle] = total


def invariants(questions: np.ndarray, answers: np.ndarray, size: int) -> np.ndarray:
    """[N] uint64: equal for puzzles that a symmetry carries to each other, nearly always different otherwise.

    Colour refinement: a cell's colour (clue or blank) is mixed three times with the multisets of colours in
    its row, column and box and among the cells of its digit. Questions and answers [N, S] uint8.
    """
    result = np.empty(len(questions), np.uint64)
    height = BOX_HEIGHT[size]
    _invariant_rows(questions, answers, units(size), height * height == size, result)
    return result


def class_keys(questions: np.ndarray, answers: np.ndarray, size: int) -> list[bytes]:
    """A key of the class of each puzzle [N, S] uint8: equal exactly if a symmetry carries one puzzle to the other.

    Of 16x16, whose (4!)^5 column orders rule a canonical form out, the invariant: there two classes may share a key,
    which hardly ever happens, but no class has two.
    """
    keys = invariants(questions, answers, size) if size > 9 else canonical_forms(questions, answers, size)
    return [key.tobytes() for key in keys]
