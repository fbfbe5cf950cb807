import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_jax.errors import InputError
from trm_jax.tasks.sudoku.boards import Boards, complete
from trm_jax.tasks.sudoku.canonical import canonical_forms, class_keys, invariants
from trm_jax.tasks.sudoku.solver import solve
from trm_jax.tasks.sudoku.symmetry import variants
from trm_jax.tasks.sudoku.verify import require_disjoint

SIZES = (4, 6, 9)


def transformed(boards, seed, number):
    groups = np.arange(len(boards))
    pair = variants(boards.questions, boards.answers, groups, np.full(len(boards), number), seed)
    return tuple(x.astype(np.uint8) for x in pair)


@pytest.mark.parametrize("size", [*SIZES, 16])
@settings(max_examples=8)
@given(seed=st.integers(0, 2**32), number=st.integers(1, 1000))
def test_form_and_invariant_do_not_change_under_symmetry(boards_of, size, seed, number):
    boards = boards_of(size)
    other = transformed(boards, seed, number)
    for law in (canonical_forms, invariants) if size <= 9 else (invariants,):
        np.testing.assert_array_equal(law(boards.questions, boards.answers, size), law(*other, size))


@pytest.mark.parametrize("size", SIZES)
def test_the_form_is_a_puzzle_of_the_class(boards_of, size):
    boards = boards_of(size)
    forms = canonical_forms(boards.questions, boards.answers, size)
    answers, questions = forms[:, 0], forms[:, 1]
    assert complete(answers, size).all()
    np.testing.assert_array_equal(solve(questions, size)[0], answers)
    np.testing.assert_array_equal((questions > 0).sum(axis=1), (boards.questions > 0).sum(axis=1))
    np.testing.assert_array_equal(canonical_forms(questions, answers, size), forms)


@pytest.mark.parametrize("size", SIZES)
def test_puzzles_of_one_solution_that_differ_in_a_clue_differ_in_form(boards_of, size):
    """Blanking one clue after the other of a full grid gives 10 nested puzzles: as many classes as clue numbers."""
    answer = boards_of(size).answers[0]
    questions = np.repeat(answer[None], 10, axis=0)
    for i in range(10):
        questions[i, : i + 1] = 0
    forms = canonical_forms(questions, np.repeat(answer[None], 10, axis=0), size)
    assert (forms[:, 0] == forms[0, 0]).all()
    assert len({form.tobytes() for form in forms}) == 10


def test_least_solution_grid_of_4x4_agrees_with_trying_everything():
    """The two classes of 4x4 grids: the least form over all 288 grids is the form of 96 or 192 of them."""
    grids = solve_all_4x4()
    forms = canonical_forms(grids, grids, 4)
    classes, sizes = np.unique(forms[:, 0], axis=0, return_counts=True)
    assert sorted(sizes.tolist()) == [96, 192]
    for form in classes:
        members = grids[(forms[:, 0] == form).all(axis=1)]
        np.testing.assert_array_equal(members[np.lexsort(members.T[::-1])[0]], form)


def solve_all_4x4():
    boards = np.zeros((1, 16), np.uint8)
    for cell in range(16):
        boards = np.repeat(boards, 4, axis=0)
        boards[:, cell] = np.tile([1, 2, 3, 4], len(boards) // 4)
        boards = boards[solve(boards, 4, limit=1)[1] > 0]
    assert len(boards) == 288
    return boards


def test_there_are_36_classes_of_minimal_4x4_puzzles():
    from trm_jax.tasks.sudoku.generator import distinct_puzzles

    assert len(distinct_puzzles((36,), size=4, seed=0)[0]) == 36
    with pytest.raises(InputError, match="found only 36 puzzles of size 4"):
        distinct_puzzles((37,), size=4, seed=0)


def test_keys_of_16x16_tell_puzzles_apart(boards_of):
    """Sixty puzzles, and a dozen that differ from one of them by one clue more."""
    boards = boards_of(16)
    question, answer = boards.questions[0], boards.answers[0]
    more = np.repeat(question[None], 12, axis=0)
    blanks = np.flatnonzero(question == 0)[:12]
    more[np.arange(12), blanks] = answer[blanks]
    keys = class_keys(boards.questions, boards.answers, 16)
    keys += class_keys(more, np.repeat(answer[None], 12, axis=0), 16)
    assert len(set(keys)) == 72


@pytest.mark.parametrize("size", [9, 16])
def test_a_disguised_test_puzzle_is_found_and_named(boards_of, size):
    boards = boards_of(size)
    train, test = boards.take(np.arange(30)), boards.take(np.arange(30, 60))
    require_disjoint(train, test)
    questions, answers = transformed(train, 11, 5)
    hidden = Boards(
        size,
        np.concatenate([test.questions, questions[7:8]]),
        np.concatenate([test.answers, answers[7:8]]),
        np.zeros(31, np.int32),
        np.full(31, "x"),
        "test.csv",
        np.arange(31) + 2,
    )
    with pytest.raises(InputError, match=f"number {train.rows[7]} and test.csv line 32 are the same puzzle"):
        require_disjoint(train, hidden)
