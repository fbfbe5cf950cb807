"""The embedded source: random Sudoku puzzles, minimal, with one solution, rated by our solver's guesses.

A walk starts from a random filled grid, blanked to a minimal puzzle. Without a rating bound that puzzle is
kept. With one, the walk goes on by neighbour search: drop one clue, add another, keep the solution unique,
and accept when the rating does not move away from the wanted range; inside the range every few accepted steps
give a puzzle. Of 16x16 a minimal puzzle takes seconds; there a clue goes only where singles alone, without a
guess, prove it superfluous, which leaves a clue or two more, and there are no rating bounds. The puzzles of
walk w are a pure function of (seed, size, bounds, extra clues, w).
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numba import njit

from trm_jax.data.hashing import below, key_of, shuffle
from trm_jax.errors import InputError
from trm_jax.tasks import Progress
from trm_jax.tasks.sudoku.boards import Boards, complete, units
from trm_jax.tasks.sudoku.canonical import class_keys
from trm_jax.tasks.sudoku.solver import BOTH, ENDLESS, FIRST, NO_KEY, NOTHING, search, solve, workspace

_WALK = 32  # puzzles that one walk gives; walks never serve two splits
_STEPS = 5_000  # neighbours that a walk tries before it is given up
_QUIET = 400  # neighbours without a better rating before a walk starts afresh
_APART = 2  # accepted steps between two puzzles of a walk
_RATED = 16  # of the neighbours that a dropped clue gives, how many are rated: the best is taken
_LOST = np.int64(10_000)  # guesses after which a random filled grid is begun anew
_SINGLES = np.int64(0)  # guesses that may prove a clue of a 16x16 board superfluous
_LISTED = np.int64(64)  # solutions listed of a puzzle with one clue dropped
_PATIENCE = 50  # give up after 1,000 + this many puzzles per class found without a new class


@njit(cache=True, nogil=True)
def _copy(source, target):
    for cell in range(source.shape[0]):  # compiles ten times as fast as target[:] = source
        target[cell] = source[cell]


@njit(cache=True, nogil=True)
def _minimise(board, table, cells, solution, nothing, work, patience):
    """Blank every clue of `board`, in the order of `cells`, of which `patience` guesses prove it superfluous."""
    for cell in cells:
        digit = board[cell]
        if digit == 0:
            continue
        board[cell] = 0
        found, _ = search(board, table, FIRST, cell * 32 + digit, NO_KEY, solution, nothing, work, patience)
        if found != 0:
            board[cell] = digit


@njit(cache=True, nogil=True)
def _distance(rating, low, high):
    """How far a rating is from low..high (high -1: no bound)."""
    return max(low - rating, rating - high if high >= 0 else 0, 0)


@njit(cache=True, nogil=True)
def _step(board, farthest, low, high, key, counter, table, trial, order, solution, tally, work):
    """Write the best of some minimal neighbours into `trial`; returns its rating (-1: none near), next counter.

    With one clue dropped, the solutions are listed; a digit that stands at its cell in just one of them is a
    clue that makes the solution unique again: one list gives many neighbours.
    """
    cells, size = table.shape[0], tally.shape[1] - 1
    _copy(board, trial)
    gone = below(key, counter, cells)
    while board[gone] == 0:
        gone = (gone + 1) % cells
    trial[gone] = 0
    tally.fill(0)
    found, _ = search(trial, table, _LISTED, NOTHING, NO_KEY, solution, tally, work, ENDLESS)
    if found == _LISTED:
        return -1, counter + 1
    place = below(key, counter + 1, cells * size)
    counter += 2
    best, best_place, rated = farthest + 1, -1, 0
    for _ in range(cells * size):
        place = (place + 1) % (cells * size)
        new, digit = place // size, place % size + 1
        if tally[new, digit] != 1 or (new == gone and digit == board[gone]):
            continue
        trial[new] = digit
        _, rating = search(trial, table, BOTH, NOTHING, NO_KEY, solution, tally[:0], work, ENDLESS)
        trial[new] = 0
        rated += 1
        if _distance(rating, low, high) < best:
            best, best_place = _distance(rating, low, high), place
        if best == 0 or rated == _RATED:
            break
    if best_place < 0:
        return -1, counter
    trial[best_place // size] = best_place % size + 1
    counter = shuffle(key, counter, order)
    _minimise(trial, table, order, solution, tally[:0], work, ENDLESS)
    _, rating = search(trial, table, BOTH, NOTHING, NO_KEY, solution, tally[:0], work, ENDLESS)
    return (rating if _distance(rating, low, high) <= farthest else -1), counter


@njit(cache=True, nogil=True)
def _walk(seed, walk, low, high, extra, table, work, questions, answers, ratings):
    """Fill `questions`, `answers`, `ratings` with the puzzles of a walk; returns how many it found."""
    cells = table.shape[0]
    order = np.arange(cells)
    board, trial = np.empty(cells, np.uint8), np.empty(cells, np.uint8)
    tally = np.empty((cells, int(np.sqrt(cells) + 0.5) + 1), np.int64)
    bounded = low > 0 or high >= 0
    patience = ENDLESS if cells <= 81 else _SINGLES
    key = key_of(seed, cells, walk)
    counter = np.int64(0)
    made, steps, quiet, accepted, rating, fresh = 0, 0, 0, 0, -1, True
    while made < questions.shape[0] and steps < _STEPS:
        if fresh:  # a random minimal puzzle
            board.fill(0)
            filling = np.int64(-1)
            while filling < 0:
                filling, _ = search(
                    board, table, FIRST, NOTHING, key_of(key, 0, counter), answers[made], tally[:0], work, _LOST
                )
                counter += 1
            _copy(answers[made], board)
            counter = shuffle(key, counter, order)
            _minimise(board, table, order, answers[made], tally[:0], work, patience)
            _, rating = search(board, table, BOTH, NOTHING, NO_KEY, answers[made], tally[:0], work, ENDLESS)
            fresh, quiet, accepted = False, 0, _APART
        distance = _distance(rating, low, high)
        if distance == 0 and accepted >= _APART:
            _copy(board, questions[made])
            counter = shuffle(key, counter, order)
            search(board, table, FIRST, NOTHING, NO_KEY, answers[made], tally[:0], work, ENDLESS)
            left = extra
            for cell in order:
                if left > 0 and board[cell] == 0:
                    questions[made, cell] = answers[made, cell]
                    left -= 1
            _, ratings[made] = search(questions[made], table, BOTH, NOTHING, NO_KEY, trial, tally[:0], work, ENDLESS)
            made += 1
            accepted, quiet, fresh = 0, 0, not bounded
            continue
        steps += 1
        quiet += 1
        near, counter = _step(board, distance, low, high, key, counter, table, trial, order, answers[made], tally, work)
        if near >= 0:
            _copy(trial, board)
            accepted += 1
            if distance == 0 or _distance(near, low, high) < distance:
                quiet = 0
            rating = near
        fresh = quiet > _QUIET
    return made


def generate(
    seed: int, walk: int, size: int, low: int = 0, high: int = -1, extra_clues: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The puzzles of walk `walk` of `seed`, at most 32: questions, answers [n, S] uint8, ratings [n] int32.

    Fewer than 32 (none, perhaps) where the search did not reach a rating in low..high (high -1: no bound)
    often enough. `extra_clues` cells of the solution are added to each minimal puzzle.
    """
    questions = np.empty((_WALK, size * size), np.uint8)
    answers, ratings = np.empty_like(questions), np.empty(_WALK, np.int32)
    made = _walk(seed, walk, low, high, extra_clues, units(size), workspace(size), questions, answers, ratings)
    return questions[:made], answers[:made], ratings[:made]


def distinct_puzzles(
    counts: Sequence[int],
    *,
    size: int,
    seed: int,
    low: int = 0,
    high: int = -1,
    extra_clues: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> tuple[Boards, ...]:
    """Splits of counts[0], counts[1], ... puzzles, each verified, no two of them equal up to symmetry.

    A split does not depend on those after it, nor on the number of threads. `progress(done, total)` is called
    now and then. Raises `InputError` when so many classes do not exist (small boards) or cannot be reached (ratings).
    """
    threads = threads or os.cpu_count() or 1

    def make(walk: int) -> tuple[np.ndarray, ...]:
        questions, answers, ratings = generate(seed, walk, size, low, high, extra_clues)
        solutions, found, _ = solve(questions, size)
        if not (((found == 1) & complete(answers, size)).all() and (solutions == answers).all()):
            raise AssertionError(f"the generator made a wrong puzzle: seed {seed}, walk {walk}")
        return questions, answers, ratings, class_keys(questions, answers, size)

    def walks() -> Iterator[tuple]:
        for start in itertools.count(0, 2 * threads):
            yield from enumerate(pool.map(make, range(start, start + 2 * threads)), start)

    seen: set[bytes] = set()
    splits, quiet = [], 0
    with ThreadPoolExecutor(threads) as pool:
        made = walks()
        for count in counts:
            rows: list[tuple] = []
            while len(rows) < count:
                walk, found = next(made)
                quiet += _WALK
                for i, (*row, key) in enumerate(zip(*found, strict=True)):
                    if len(rows) < count and key not in seen:
                        seen.add(key)
                        rows.append((*row, walk * _WALK + i))
                        quiet = 0
                if progress is not None:
                    progress(len(seen), sum(counts))
                if len(rows) < count and quiet > 1000 + _PATIENCE * len(seen):
                    raise InputError(
                        f"found only {len(seen)} puzzles of size {size} that differ up to symmetry, {sum(counts)} were "
                        "asked for: ask for fewer, widen the rating bounds, add extra clues or take a larger board"
                    )
            *columns, numbers = (np.array(column) for column in zip(*rows, strict=True))
            sources, origin = np.full(len(rows), "generated"), f"generated (seed {seed})"
            splits.append(Boards(size, *columns, sources, origin, numbers, "number"))
    return tuple(splits)
