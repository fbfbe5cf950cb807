import numpy as np
import pytest

from trm_jax.errors import InputError
from trm_jax.tasks.sudoku.boards import complete
from trm_jax.tasks.sudoku.canonical import canonical_forms
from trm_jax.tasks.sudoku.generator import distinct_puzzles, generate
from trm_jax.tasks.sudoku.solver import solve


def minimal(questions, size):
    """[N] bool: does blanking any one clue give a second solution?"""
    result = []
    for question in questions:
        clues = np.flatnonzero(question)
        weaker = np.repeat(question[None], len(clues), axis=0)
        weaker[np.arange(len(clues)), clues] = 0
        result.append((solve(weaker, size)[1] == 2).all())
    return np.array(result)


@pytest.mark.parametrize("size, bounds", [(4, {}), (6, {}), (9, {}), (9, {"low": 8, "high": 30}), (6, {"low": 1})])
def test_every_puzzle_has_one_solution_is_minimal_and_rated(size, bounds):
    questions, answers, ratings = generate(5, 0, size, **bounds)
    assert len(questions) > 5
    assert complete(answers, size).all()
    solutions, counts, guesses = solve(questions, size)
    assert (counts == 1).all()
    np.testing.assert_array_equal(solutions, answers)
    np.testing.assert_array_equal(guesses, ratings)
    assert minimal(questions, size).all()
    assert ratings.min() >= bounds.get("low", 0) and ratings.max() <= bounds.get("high", 10**6)


def test_of_16x16_no_clue_is_left_that_singles_prove_superfluous():
    questions, answers, ratings = generate(5, 0, 16)
    solutions, counts, guesses = solve(questions, 16)
    assert len(questions) == 32 and (counts == 1).all() and complete(answers, 16).all()
    np.testing.assert_array_equal(solutions, answers)
    np.testing.assert_array_equal(guesses, ratings)
    clues = np.flatnonzero(questions[0])
    assert len(clues) < 115  # a minimal one has about 95
    weaker = np.repeat(questions[:1], len(clues), axis=0)
    weaker[np.arange(len(clues)), clues] = 0
    _, counts, guesses = solve(weaker, 16)
    assert ((counts == 2) | (guesses > 0)).all()


def test_extra_clues_are_added_from_the_solution():
    plain, more = generate(5, 0, 9), generate(5, 0, 9, extra_clues=6)
    np.testing.assert_array_equal(plain[1], more[1])
    kept = plain[0] > 0
    np.testing.assert_array_equal(more[0][kept], plain[0][kept])
    np.testing.assert_array_equal((more[0] > 0).sum(axis=1), kept.sum(axis=1) + 6)
    assert (solve(more[0], 9)[1] == 1).all()


def test_splits_are_disjoint_and_do_not_depend_on_threads_or_on_later_splits():
    one = distinct_puzzles((40, 50), size=9, seed=1, threads=1)
    three = distinct_puzzles((40, 90), size=9, seed=1, threads=3)
    np.testing.assert_array_equal(one[0].questions, three[0].questions)
    np.testing.assert_array_equal(one[1].questions, three[1].questions[:50])
    both = [canonical_forms(b.questions, b.answers, 9) for b in three]
    assert len({form.tobytes() for form in np.concatenate(both)}) == 130
    other = distinct_puzzles((40,), size=9, seed=2)[0]
    assert not (other.questions == one[0].questions).all(axis=1).any()


def test_a_rating_that_no_puzzle_reaches():
    with pytest.raises(InputError, match="found only 0 puzzles"):
        distinct_puzzles((3,), size=4, seed=0, low=1000)
