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
def _sorted_rows(first, height, head, order):
    """Row order [size]: `first`, the rest of its band, the other bands, by first-column label `head`."""
    size = order.shape[0]
    top = first // height
    order[0] = first
    place = 1
    for label in range(size):  # labels in the first column are a permutation: visit them in rising order
        row = 0
        while head[row] != label:
            row += 1
        band = row // height
        if band == top:
            if row != first:
                # its band comes before all others: shift those already placed behind it
                at = place
                while at > 1 and order[at - 1] // height != top:
                    order[at] = order[at - 1]
                    at -= 1
                order[at] = row
                place += 1
        else:
            at = place
            while at > 0 and order[at - 1] // height != band:
                at -= 1
            if at == 0:
                at = place
            for move in range(place, at, -1):
                order[move] = order[move - 1]
            order[at] = row
            place += 1


@njit(cache=True, nogil=True)
def _canonical(question, answer, height, orders, form):
    """Write the canonical form into `form` [2, size, size]: solution, then puzzle."""
    size = form.shape[1]
    width = size // height
    place_in_first = np.empty((size, size), np.int64)
    column_of = np.empty(size + 1, np.int64)
    inverse = np.empty(size, np.int64)
    head = np.empty(size, np.int64)
    rows = np.empty(size, np.int64)
    form[:] = size + 1
    for transposed in range(2 if height == width else 1):
        row_step, col_step = (1, size) if transposed else (size, 1)
        for first in range(size):
            for col in range(size):
                column_of[answer[first * row_step + col * col_step]] = col
            for row in range(size):
                for col in range(size):
                    place_in_first[row, col] = column_of[answer[row * row_step + col * col_step]]
            band = first // height * height
            for number in range(orders.shape[0]):
                order = orders[number]
                for col in range(size):
                    inverse[order[col]] = col
                left, second, least = order[0], 0, size
                for row in range(band, band + height):
                    label = inverse[place_in_first[row, left]]
                    if row != first and label < least:
                        second, least = row, label
                verdict = 0
                for j in range(size):
                    label = inverse[place_in_first[second, order[j]]] + 1
                    if label != form[0, 1, j]:
                        verdict = -1 if label < form[0, 1, j] else 1
                        break
                if verdict > 0:
                    continue
                for row in range(size):
                    head[row] = inverse[place_in_first[row, left]]
                _sorted_rows(first, height, head, rows)
                verdict = _compare(question, place_in_first, inverse, order, rows, row_step, col_step, column_of, form)
                if verdict < 0:
                    _write(question, place_in_first, inverse, order, rows, row_step, col_step, column_of, form)


@njit(cache=True, nogil=True)
def _compare(question, place_in_first, inverse, order, rows, row_step, col_step, column_of, form):
    """-1, 0 or 1: is this candidate less than, equal to or greater than `form`?"""
    size = form.shape[1]
    for i in range(size):
        for j in range(size):
            label = inverse[place_in_first[rows[i], order[j]]] + 1
            if label != form[0, i, j]:
                return -1 if label < form[0, i, j] else 1
    for i in range(size):
        for j in range(size):
            digit = question[rows[i] * row_step + order[j] * col_step]
            label = inverse[column_of[digit]] + 1 if digit > 0 else 0
            if label != form[1, i, j]:
                return -1 if label < form[1, i, j] else 1
    return 0


@njit(cache=True, nogil=True)
def _write(question, place_in_first, inverse, order, rows, row_step, col_step, column_of, form):
    size = form.shape[1]
    for i in range(size):
        for j in range(size):
            form[0, i, j] = inverse[place_in_first[rows[i], order[j]]] + 1
            digit = question[rows[i] * row_step + order[j] * col_step]
            form[1, i, j] = inverse[column_of[digit]] + 1 if digit > 0 else 0


@njit(cache=True, nogil=True)
def _canonical_rows(questions, answers, height, orders, forms):
    for row in range(questions.shape[0]):
        _canonical(questions[row], answers[row], height, orders, forms[row])


def canonical_forms(questions: np.ndarray, answers: np.ndarray, size: int) -> np.ndarray:
    """Canonical forms of puzzles [N, S] uint8 with solutions [N, S]: [N, 2, S] uint8 (solution, puzzle).

    Two puzzles have equal forms exactly if a symmetry carries one to the other.
    """
    forms = np.empty((len(questions), 2, size, size), np.uint8)
    _canonical_rows(questions, answers, BOX_HEIGHT[size], _column_orders(size), forms)
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
            sums[:] = np.uint64(0)
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
