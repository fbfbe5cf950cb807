import numpy as np
import pytest

from trm_jax.errors import InputError
from trm_jax.tasks.sudoku.boards import complete, conflicts, format_grid, format_line, parse_board, units

SOLVED_4 = "1234341221434321"
SOLVED_6 = "123456456123231564564231312645645312"


@pytest.mark.parametrize("text", ["." * 16, SOLVED_4, SOLVED_6, "." * 80 + "9"])
def test_text_round_trip(text):
    assert format_line(parse_board(text, "here")) == text


def test_zero_and_dot_are_blank():
    np.testing.assert_array_equal(parse_board("0" * 16, "here"), parse_board("." * 16, "here"))


@pytest.mark.parametrize(
    "text, message",
    [("123", "16, 36 or 81 characters"),
     ("5" + "." * 15, "character 1 is '5'"), ("." * 80 + "x", "character 81 is 'x'"),
     ("." * 80 + "\u00b2", "character 81")],
)  # fmt: skip
def test_bad_text_names_the_place(text, message):
    with pytest.raises(InputError, match=f"f.csv line 7: .*{message}"):
        parse_board(text, "f.csv line 7")


@pytest.mark.parametrize("size, shape", [(4, (2, 2)), (6, (2, 3)), (9, (3, 3))])
def test_units_partition_the_board(size, shape):
    table = units(size)
    for unit in range(3 * size):
        assert (table == unit).any(axis=1).sum() == size
    grid = table[:, 2].reshape(size, size)
    assert (grid[: shape[0], : shape[1]] == 2 * size).all()
    assert grid[shape[0], 0] != 2 * size and grid[0, shape[1]] != 2 * size


@pytest.mark.parametrize("text", [SOLVED_4, SOLVED_6])
def test_one_wrong_digit_breaks_a_solved_board(text):
    board = parse_board(text, "here")
    size = int(len(board) ** 0.5)
    assert complete(board[None], size).all()
    for cell in range(len(board)):
        wrong = board.copy()
        wrong[cell] = wrong[cell] % size + 1
        assert conflicts(wrong[None], size).all()
        wrong[cell] = 0
        assert not conflicts(wrong[None], size).any() and not complete(wrong[None], size).any()


def test_grid_drawing():
    assert format_grid(parse_board(SOLVED_6, "here")).splitlines()[:3] == [
        "1 2 3 | 4 5 6",
        "4 5 6 | 1 2 3",
        "------+------",
    ]
