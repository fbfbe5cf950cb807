"""The rules of Sudoku, and an answer against its question."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm_jax.errors import InputError
from trm_jax.tasks.sudoku.check import as_boards, board_size, box_shape, check_answer, conflicting_cells

SOLVED = {
    4: "1234341221434321",
    6: "123456456123231564564231312645645312",
    9: "769341852142895367538267194273689541954123678681574923316452789495738216827916435",
}


def board(text: str) -> np.ndarray:
    return np.array([int(digit) for digit in text.replace(".", "0")])


def rule_conflicts(cells: np.ndarray, size: int) -> np.ndarray:
    """The rules read out loud, cell by cell: the slow second opinion."""
    rows, columns = box_shape(size)
    places = [(cell // size, cell % size) for cell in range(size * size)]
    units = [(r, c, (r // rows, c // columns)) for r, c in places]
    return np.array(
        [
            any(
                cells[i] and cells[i] == cells[j] and any(a == b for a, b in zip(units[i], units[j], strict=True))
                for j in range(size * size)
                if i != j
            )
            for i in range(size * size)
        ]
    )


@pytest.mark.parametrize("size", [4, 6, 9])
def test_a_solved_board_has_no_problems(size):
    answer = board(SOLVED[size])
    question = np.where(np.arange(size * size) % 3 == 0, answer, 0)
    check = check_answer(question, answer, size)
    assert (check.valid, check.agrees, check.solved, check.problems) == (True, True, True, ())
    assert not check.conflicts.any() and not check.changed_clues.any()
    assert check.conflicts.shape == check.changed_clues.shape == (size * size,)


@pytest.mark.parametrize(
    ("size", "same_row", "same_column", "same_box"),
    [(4, (0, 3), (0, 12), (0, 5)), (6, (0, 5), (0, 30), (0, 8)), (9, (0, 8), (0, 72), (0, 20))],
)
def test_each_rule_marks_both_cells_and_names_the_place(size, same_row, same_column, same_box):
    blank = np.zeros(size * size, int)
    for unit, pair in (("row 1", same_row), ("column 1", same_column), ("box 1", same_box)):
        answer = blank.copy()
        answer[list(pair)] = 3
        check = check_answer(blank, answer, size)
        assert sorted(np.flatnonzero(check.conflicts)) == sorted(pair)
        assert check.problems[0] == f"{unit} holds 3 twice"
        assert not check.valid and check.agrees


def test_boxes_of_six_are_two_rows_of_three():
    answer = np.zeros(36, int)
    answer[[0, 12]] = 5, 4  # other rows, other boxes
    answer[[14]] = 5  # row 3, column 3: the same columns as box 1, but the box below
    assert not check_answer(np.zeros(36, int), answer, 6).conflicts.any()
    answer[8] = 5  # row 2, column 3: box 1
    assert list(np.flatnonzero(check_answer(np.zeros(36, int), answer, 6).conflicts)) == [0, 8, 14]


def test_changed_and_erased_clues_are_named():
    answer = board(SOLVED[4])
    question = answer.copy()
    answer = answer.copy()
    answer[0], answer[5] = 2, 0
    check = check_answer(question, answer, 4)
    assert list(np.flatnonzero(check.changed_clues)) == [0, 5]
    assert not check.agrees and not check.valid
    assert check.problems == (
        "row 1 holds 2 twice",
        "column 1 holds 2 twice",
        "box 1 holds 2 twice",
        "1 cell is blank, the first at row 2 column 2",
        "the clue 1 at row 1 column 1 became 2",
        "the clue 4 at row 2 column 2 became blank",
    )


def test_a_valid_board_that_answers_another_question():
    answer = board(SOLVED[4])
    question = np.where(answer == 1, 2, np.where(answer == 2, 1, answer))
    check = check_answer(question, answer, 4)
    assert check.valid and not check.agrees and not check.solved
    assert not check.conflicts.any() and check.changed_clues.sum() == 8 == len(check.problems)


def test_an_unfinished_board_is_not_valid_though_nothing_conflicts():
    question = board("1...............")
    check = check_answer(question, question, 4)
    assert not check.valid and check.agrees
    assert check.problems == ("15 cells are blank, the first at row 1 column 2",)


@given(st.sampled_from([4, 6, 9]), st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_conflicts_follow_the_rules(size, seed, blanks_percent):
    rng = np.random.default_rng(seed)
    answer = rng.integers(1, size + 1, size * size)
    answer[rng.integers(0, 100, size * size) < blanks_percent] = 0
    check = check_answer(np.zeros_like(answer), answer, size)
    np.testing.assert_array_equal(check.conflicts, rule_conflicts(answer, size))
    assert check.valid == (not check.problems)
    assert check.conflicts.any() == any("holds" in problem for problem in check.problems)


def test_conflicts_of_many_boards_at_once_are_those_of_each():
    boards = np.random.default_rng(0).integers(0, 10, (5, 7, 81))
    together = conflicting_cells(boards, 9)
    assert together.shape == boards.shape
    for index in np.ndindex(5, 7):
        np.testing.assert_array_equal(together[index], conflicting_cells(boards[index], 9))


def test_box_shapes_and_sizes():
    assert [box_shape(size) for size in (4, 6, 9)] == [(2, 2), (2, 3), (3, 3)]
    assert [board_size(np.zeros((3, size * size))) for size in (4, 6, 9)] == [4, 6, 9]
    with pytest.raises(InputError, match="size 5: choose 4, 6 or 9"):
        box_shape(5)
    with pytest.raises(InputError, match=r"shape \[2, 80\]"):
        board_size(np.zeros((2, 80)))
    with pytest.raises(InputError, match=r"shape \[\]"):
        board_size(3)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (np.zeros(80, int), r"answer has shape \[80\]: a 9x9 board needs shape \[81\]"),
        (np.zeros((9, 9), int), r"answer has shape \[9, 9\]"),
        (np.zeros((1, 81), int), r"answer has shape \[1, 81\]"),
        (np.zeros(81), "answer has dtype float64"),
        (np.eye(1, 81, 12, dtype=int)[0] * 10, "answer holds 10 at row 2 column 4"),
        (-np.eye(1, 81, 80, dtype=int)[0], "answer holds -1 at row 9 column 9"),
    ],
)
def test_what_is_no_board_is_refused(answer, message):
    with pytest.raises(InputError, match=message):
        check_answer(np.zeros(81, int), answer, 9)


def test_no_steps_are_no_boards():
    with pytest.raises(InputError, match=r"frames has shape \[0, 81\]: a 9x9 board needs shape \[steps, 81\]"):
        as_boards(np.zeros((0, 81), int), 9, "frames", ndim=2)
