"""A compiled Sudoku solver: bit masks, naked and hidden singles, then the cell with the fewest candidates.

The search is iterative. Row d of the work array is the state at depth d:
`[grid bits: S | list of empty cells: S | digits used per unit: 3*size | number empty | guessed cell |
untried]`.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from trm_jax.data.hashing import below
from trm_jax.tasks.sudoku.boards import units

_DEAD, _SOLVED = -1, -2
NO_KEY = np.uint64(0)  # guess digits in rising order
# NumPy's numbers: `search` would be compiled anew for each number of Python's.
NOTHING = np.int64(-1)  # no (cell, digit) is avoided
FIRST, BOTH = np.int64(1), np.int64(2)  # limits: any solution; is it the only one?
ENDLESS = np.int64(2**62)  # no number of guesses ends the search


def workspace(size: int) -> np.ndarray:
    """[cells + 2, width] int32: scratch memory of `search`; one per thread."""
    cells = size * size
    return np.empty((cells + 2, 2 * cells + 3 * size + 3), np.int32)


@njit(cache=True, nogil=True, inline="always")
def _assign(state, slot, cell, bit, table):
    cells, size = table.shape[0], (state.shape[0] - 3 - 2 * table.shape[0]) // 3
    used, empty = 2 * cells, 2 * cells + 3 * size
    state[cell] = bit
    for kind in range(3):
        state[used + table[cell, kind]] |= bit
    last = state[empty] - 1
    state[cells + slot] = state[cells + last]
    state[empty] = last


@njit(cache=True, nogil=True)
def _propagate(state, table, avoid_cell, avoid_bit, once, twice, candidates):
    """Place all naked and hidden singles; returns _DEAD, _SOLVED, or the slot of the cell to guess."""
    cells, n_units = table.shape[0], once.shape[0]
    full = np.int32((1 << (n_units // 3)) - 1)
    used, empty = 2 * cells, 2 * cells + n_units
    while True:
        changed = False
        for unit in range(n_units):
            once[unit], twice[unit] = 0, 0
        for slot in range(state[empty] - 1, -1, -1):
            cell = state[cells + slot]
            row, col, box = table[cell, 0], table[cell, 1], table[cell, 2]
            mask = full & ~(state[used + row] | state[used + col] | state[used + box])
            if cell == avoid_cell:
                mask &= ~avoid_bit
            if mask == 0:
                return _DEAD
            if mask & (mask - 1) == 0:
                _assign(state, slot, cell, mask, table)
                changed = True
            else:
                candidates[cell] = mask
                twice[row] |= once[row] & mask
                once[row] |= mask
                twice[col] |= once[col] & mask
                once[col] |= mask
                twice[box] |= once[box] & mask
                once[box] |= mask
        if state[empty] == 0:
            return _SOLVED
        if changed:
            continue
        for unit in range(n_units):
            if (once[unit] | state[used + unit]) != full:
                return _DEAD
            once[unit] &= ~twice[unit]  # from here on: the hidden singles of the unit
        for slot in range(state[empty] - 1, -1, -1):
            cell = state[cells + slot]
            row, col, box = table[cell, 0], table[cell, 1], table[cell, 2]
            hidden = candidates[cell] & (once[row] | once[col] | once[box])
            if hidden != 0:
                taken = state[used + row] | state[used + col] | state[used + box]
                if hidden & (hidden - 1) != 0 or hidden & taken != 0:
                    return _DEAD
                _assign(state, slot, cell, hidden, table)
                changed = True
        if changed:
            continue
        fewest, choice = 99, 0
        for slot in range(state[empty]):
            mask, number = candidates[state[cells + slot]], 0
            while mask != 0:
                mask &= mask - 1
                number += 1
            if number < fewest:
                fewest, choice = number, slot
                if number == 2:
                    break
        return choice


@njit(cache=True, nogil=True)
def _pick(mask, key, counter):
    """One bit of `mask`: the lowest, or a random one if there is a key."""
    if key != NO_KEY:
        number, rest = 0, mask
        while rest != 0:
            rest &= rest - 1
            number += 1
        for _ in range(below(key, counter, number)):
            mask &= mask - 1
    return mask & -mask


@njit(cache=True, nogil=True, inline="always")
def _digit(bit):
    digit = 0
    while bit != 0:
        bit >>= 1
        digit += 1
    return digit


@njit(cache=True, nogil=True)
def search(board, table, limit, avoid, key, solution, tally, work, patience):
    """Look for up to `limit` solutions of `board` [S]; the first is written to `solution` [S].

    `tally` [S, size + 1] counts for every cell the digits of the solutions found ([0, ...]: nothing is
    counted); `avoid` = cell * 32 + digit that must not stand there, or NOTHING. Returns (number of solutions
    found, guesses made); the number is -1 where more than `patience` guesses were needed. A guess is a digit
    tried while its cell still has another one; the last one left is forced.
    """
    cells = table.shape[0]
    n_units = work.shape[1] - 2 * cells - 3
    used, empty = 2 * cells, 2 * cells + n_units
    once, twice = np.empty(n_units, np.int32), np.empty(n_units, np.int32)
    candidates = np.empty(cells, np.int32)
    avoid_cell, avoid_bit = -1, np.int32(0)
    if avoid >= 0:
        avoid_cell, avoid_bit = avoid // 32, np.int32(1 << (avoid % 32 - 1))

    for place in range(work.shape[1]):
        work[0, place] = 0
    for cell in range(cells):
        if board[cell] == 0:
            work[0, cells + work[0, empty]] = cell
            work[0, empty] += 1
            continue
        bit = np.int32(1 << (board[cell] - 1))
        work[0, cell] = bit
        for kind in range(3):
            if work[0, used + table[cell, kind]] & bit != 0:
                return 0, 0
            work[0, used + table[cell, kind]] |= bit

    depth, found, guesses, counter = 0, 0, 0, 0
    while True:
        slot = _propagate(work[depth], table, avoid_cell, avoid_bit, once, twice, candidates)
        if slot == _SOLVED:
            if found == 0:
                for place in range(cells):
                    solution[place] = _digit(work[depth, place])
            for place in range(tally.shape[0]):
                tally[place, _digit(work[depth, place])] += 1
            found += 1
            if found == limit:
                return found, guesses
        if slot >= 0:
            cell = work[depth, cells + slot]
            work[depth, empty + 1] = slot
            work[depth, empty + 2] = candidates[cell]
        else:
            depth -= 1
            while depth >= 0 and work[depth, empty + 2] == 0:
                depth -= 1
            if depth < 0:
                return found, guesses
        untried = work[depth, empty + 2]
        bit = _pick(untried, key, counter)
        counter += 1
        untried &= ~bit
        work[depth, empty + 2] = untried
        if untried != 0:
            guesses += 1
            if guesses > patience:
                return -1, guesses
        for place in range(work.shape[1]):
            work[depth + 1, place] = work[depth, place]
        slot = work[depth, empty + 1]
        _assign(work[depth + 1], slot, work[depth, cells + slot], bit, table)
        depth += 1


@njit(cache=True, nogil=True)
def _solve_rows(questions, table, limit, work, solutions, counts, ratings):
    nothing = np.empty((0, 1), np.int64)
    for row in range(questions.shape[0]):
        counts[row], ratings[row] = search(
            questions[row], table, limit, NOTHING, NO_KEY, solutions[row], nothing, work, ENDLESS
        )


def solve(questions: np.ndarray, size: int, limit: int = 2) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Solve questions [N, size*size] uint8.

    Returns the first solution of each [N, size*size] uint8 (zeros where there is none), the number of
    solutions up to `limit` [N] int32, and the rating [N] int32: the guesses it took to find the solution and,
    with limit 2, to prove it the only one.
    """
    questions, solutions = np.array(questions, order="C"), np.zeros(questions.shape, np.uint8)
    counts, ratings = np.zeros((2, len(questions)), np.int32)
    _solve_rows(questions, units(size), limit, workspace(size), solutions, counts, ratings)
    return solutions, counts, ratings
