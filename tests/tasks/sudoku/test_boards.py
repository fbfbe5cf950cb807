"""The geometry of boards, the rules, and what is said of an answer that breaks them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_jax.tasks.sudoku.boards import BOX_HEIGHT, complete, conflicts, problems, units

SOLVED = {
    4: "1234341221434321",
    6: "123456456123231564564231312645645312",
    9: "769341852142895367538267194273689541954123678681574923316452789495738216827916435",
    16: "123456789ABCDEFG56789ABCDEFG12349ABCDEFG12345678DEFG123456789ABC"
    "23456789ABCDEFG16789ABCDEFG12345ABCDEFG123456789EFG123456789ABCD"
    "3456789ABCDEFG12789ABCDEFG123456BCDEFG123456789AFG123456789ABCDE"
    "456789ABCDEFG12389ABCDEFG1234567CDEFG123456789ABG123456789ABCDEF",
}


def board(text: str) -> np.ndarray:
    return np.array([int(digit, 17) for digit in text.replace(".", "0")])


def rule_conflicts(cells: np.ndarray, size: int) -> np.ndarray:
    """The rules read out loud, cell by cell: the slow second opinion."""
    rows, columns = BOX_HEIGHT[size], size // BOX_HEIGHT[size]
    places = [(cell // size, cell % size) for cell in range(size * size)]
    shared = [(r, c, (r // rows, c // columns)) for r, c in places]
    return np.array(
        [
            any(
                cells[i] and cells[i] == cells[j] and any(a == b for a, b in zip(shared[i], shared[j], strict=True))
                for j in range(size * size)
                if i != j
            )
            for i in range(size * size)
        ]
    )


@pytest.mark.parametrize("size, shape", [(4, (2, 2)), (6, (2, 3)), (9, (3, 3)), (16, (4, 4))])
def test_units_partition_the_board(size, shape):
    table = units(size)
    for unit in range(3 * size):
        assert (table == unit).any(axis=1).sum() == size
    grid = table[:, 2].reshape(size, size)
    assert (grid[: shape[0], : shape[1]] == 2 * size).all()
    assert grid[shape[0], 0] != 2 * size and grid[0, shape[1]] != 2 * size


@pytest.mark.parametrize("size", [4, 6, 9, 16])
def test_a_solved_board_has_no_problems_and_one_wrong_digit_breaks_it(size):
    answer = board(SOLVED[size])
    question = np.where(np.arange(size * size) % 3 == 0, answer, 0)
    assert problems(question, answer, size) == () and not conflicts(answer, size).any()
    cells = np.arange(size * size)
    wrong, blank = (np.repeat(answer[None], size * size, axis=0) for _ in range(2))
    wrong[cells, cells] = answer % size + 1
    blank[cells, cells] = 0
    assert complete(answer[None], size).all()
    assert not complete(wrong, size).any() and not complete(blank, size).any()


@pytest.mark.parametrize(
    ("size", "same_row", "same_column", "same_box"),
    [
        (4, (0, 3), (0, 12), (0, 5)),
        (6, (0, 5), (0, 30), (0, 8)),
        (9, (0, 8), (0, 72), (0, 20)),
        (16, (0, 15), (0, 240), (0, 51)),
    ],
)
def test_each_rule_marks_both_cells_and_names_the_place(size, same_row, same_column, same_box):
    blank = np.zeros(size * size, int)
    for unit, pair in (("row 1", same_row), ("column 1", same_column), ("box 1", same_box)):
        answer = blank.copy()
        answer[list(pair)] = 3
        assert sorted(np.flatnonzero(conflicts(answer, size))) == sorted(pair)
        assert problems(blank, answer, size)[0] == f"{unit} holds 3 twice"


def test_everything_that_is_wrong_is_named():
    question, answer = board(SOLVED[4]), board(SOLVED[4])
    answer[0], answer[5] = 2, 0
    assert problems(question, answer, 4) == (
        "row 1 holds 2 twice",
        "column 1 holds 2 twice",
        "box 1 holds 2 twice",
        "1 cell is blank, the first at row 2 column 2",
        "the clue 1 at row 1 column 1 became 2",
        "the clue 4 at row 2 column 2 became blank",
    )
    other = np.where(question == 1, 2, np.where(question == 2, 1, question))  # valid, of another question
    assert len(problems(other, question, 4)) == 8
    question, answer = board(SOLVED[16]), board(SOLVED[16])
    answer[14] = 16  # in letters: as boards are written
    assert problems(question, answer, 16)[0] == "row 1 holds G twice"
    assert problems(question, answer, 16)[-1] == "the clue F at row 1 column 15 became G"
    question = board("1...............")
    assert problems(question, question, 4) == ("15 cells are blank, the first at row 1 column 2",)


@settings(max_examples=30)
@given(st.sampled_from([4, 6, 9, 16]), st.integers(0, 2**32 - 1), st.integers(0, 100))
def test_conflicts_follow_the_rules(size, seed, blanks_percent):
    rng = np.random.default_rng(seed)
    answer = rng.integers(1, size + 1, size * size)
    answer[rng.integers(0, 100, size * size) < blanks_percent] = 0
    found = conflicts(answer, size)
    np.testing.assert_array_equal(found, rule_conflicts(answer, size))
    lines = problems(np.zeros_like(answer), answer, size)
    assert found.any() == any("holds" in line for line in lines)
    assert complete(answer[None], size)[0] == (not lines)
