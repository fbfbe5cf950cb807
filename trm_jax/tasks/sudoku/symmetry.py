"""The symmetries of Sudoku: digits, bands, rows, stacks, columns and (square boxes only) transposition.

One transformation: `new[i, j] = digit_map[x'[row_perm[i], col_perm[j]]]` where x' is the possibly transposed
board. Variant k of a group is a pure function of (seed, group, k); variant 0 is the original.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trm_jax.data.hashing import below, key_of, shuffle, stream_key
from trm_jax.tasks.sudoku.boards import BOX_HEIGHT, SIZE_OF


@njit(cache=True, nogil=True)
def _draw_lines(key, counter, per_group, order, groups, within):
    """Permute the groups (bands, stacks) and their lines into `order` [size]; returns the next counter."""
    n_groups = order.shape[0] // per_group
    for i in range(n_groups):
        groups[i] = i
    counter = shuffle(key, counter, groups[:n_groups])
    for place in range(n_groups):
        for i in range(per_group):
            within[i] = i
        counter = shuffle(key, counter, within[:per_group])
        for i in range(per_group):
            order[place * per_group + i] = groups[place] * per_group + within[i]
    return counter


@njit(cache=True, nogil=True)
def _draw(key, height, width, digit_map, row_perm, col_perm, scratch):
    """Fill in the transformation of a key; returns whether it transposes. digit_map [size + 1]; the others [size]."""
    for digit in range(digit_map.shape[0]):
        digit_map[digit] = digit
    counter = shuffle(key, 0, digit_map[1:])
    transposed = height == width and below(key, counter, 2) == 1
    counter = _draw_lines(key, counter + 1, height, row_perm, scratch[0], scratch[1])
    _draw_lines(key, counter, width, col_perm, scratch[0], scratch[1])
    return transposed


@njit(cache=True, nogil=True)
def _fill(questions, answers, groups, variants, seed, height, shift, out_questions, out_answers):
    cells = questions.shape[1]
    size = int(np.sqrt(cells) + 0.5)
    width = size // height
    digit_map = np.empty(size + 1, np.int64)
    row_perm, col_perm = np.empty(size, np.int64), np.empty(size, np.int64)
    scratch = np.empty((2, size), np.int64)
    for example in range(groups.shape[0]):
        row = groups[example]
        if variants[example] == 0:
            for cell in range(cells):
                out_questions[example, cell] = questions[row, cell] + shift
                out_answers[example, cell] = answers[row, cell] + shift
            continue
        key = key_of(seed, row, variants[example])
        transposed = _draw(key, height, width, digit_map, row_perm, col_perm, scratch)
        row_step, col_step = (1, size) if transposed else (size, 1)
        cell = 0
        for i in range(size):
            start = row_perm[i] * row_step
            for j in range(size):
                source = start + col_perm[j] * col_step
                out_questions[example, cell] = digit_map[questions[row, source]] + shift
                out_answers[example, cell] = digit_map[answers[row, source]] + shift
                cell += 1


def variants(
    questions: np.ndarray, answers: np.ndarray, groups: np.ndarray, numbers: np.ndarray, seed: int, shift: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Variant `numbers[b]` of the puzzle `groups[b]`; puzzle and solution share one transformation.

    questions, answers [N, S] uint8; groups, numbers [b] int64. Returns two [b, S] int32 arrays, `shift` added
    to every cell (1 turns digits into tokens).
    """
    cells = questions.shape[1]
    out = np.empty((2, len(groups), cells), np.int32)
    groups, numbers = np.asarray(groups, np.int64), np.asarray(numbers, np.int64)
    _fill(questions, answers, groups, numbers, np.int64(seed), BOX_HEIGHT[SIZE_OF[cells]], shift, out[0], out[1])
    return out[0], out[1]


def transformations(count: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Those of variants 0 to count - 1 of group 0: (cells [count, S], digits [count, size + 1]).

    Cell i of variant k is digits[k][old[cells[k, i]]].
    """
    height = BOX_HEIGHT[size]
    cells = np.tile(np.arange(size * size), (count, 1))
    digits = np.tile(np.arange(size + 1), (count, 1))
    rows, columns = np.empty((2, size), np.int64)
    for k in range(1, count):
        key, scratch = stream_key(seed, 0, k), np.empty((2, size), np.int64)
        board = cells[0].reshape(size, size)
        if _draw(key, height, size // height, digits[k], rows, columns, scratch):
            board = board.T
        cells[k] = board[rows][:, columns].ravel()
    return cells, digits
