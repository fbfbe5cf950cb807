import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_jax.tasks.sudoku.boards import BOX_HEIGHT, complete
from trm_jax.tasks.sudoku.solver import solve
from trm_jax.tasks.sudoku.symmetry import variants

SIZES = (4, 6, 9, 16)


def original_cells(size, seed, number):
    """Where each cell of a variant comes from and which digit became which, read off marked boards.

    The transformation does not depend on the board, so boards that mark one line each reveal it.
    """
    cells = np.arange(size * size)
    marks = np.stack([(cells // size == line) + 1 for line in range(size)] +
                     [(cells % size == line) + 1 for line in range(size)]).astype(np.uint8)  # fmt: skip
    # Every marked board is its own group 0: one call each.
    out = np.stack([variants(m[None], m[None], [0], [number], seed)[0][0] for m in marks])
    plain = np.full((1, size * size), 2, np.uint8)
    two = variants(plain, plain, [0], [number], seed)[0][0, 0]
    hit = out == two
    rows, cols = hit[:size].argmax(axis=0), hit[size:].argmax(axis=0)
    digits = {}
    for digit in range(1, size + 1):
        whole = np.full((1, size * size), digit, np.uint8)
        digits[digit] = int(variants(whole, whole, [0], [number], seed)[0][0, 0])
    return rows, cols, digits


@pytest.mark.parametrize("size", SIZES)
@settings(max_examples=30)
@given(seed=st.integers(-(2**63), 2**63 - 1), number=st.integers(1, 10**6))
def test_a_variant_is_the_documented_transformation(size, seed, number):
    rows, cols, digits = original_cells(size, seed, number)
    height = BOX_HEIGHT[size]
    width = size // height
    assert sorted(digits.values()) == list(range(1, size + 1))
    rows, cols = rows.reshape(size, size), cols.reshape(size, size)
    transposed = (rows[0] != rows[0, 0]).any()
    if transposed:
        assert height == width, "boxes that are not square cannot be transposed"
        rows, cols = cols, rows  # new[i, j] = old[col_perm[j], row_perm[i]]
    row_perm, col_perm = rows[:, 0], cols[0]
    assert (rows == row_perm[:, None]).all() and (cols == col_perm[None, :]).all()
    for perm, per_group in ((row_perm, height), (col_perm, width)):
        assert sorted(perm) == list(range(size))
        groups = (perm // per_group).reshape(-1, per_group)
        assert (groups == groups[:, :1]).all(), "lines left their band or stack"


@pytest.mark.parametrize("size", SIZES)
def test_variants_are_valid_puzzles_of_one_transformation(boards_of, size):
    boards = boards_of(size)
    groups, numbers = np.repeat(np.arange(60), 5), np.tile(np.arange(5), 60)
    made = variants(boards.questions, boards.answers, groups, numbers, 7)
    questions, answers = (x.astype(np.uint8) for x in made)
    assert complete(answers, size).all()
    solutions, counts, _ = solve(questions, size)
    assert (counts == 1).all()
    np.testing.assert_array_equal(solutions, answers)


def test_variant_zero_is_the_original_and_others_depend_on_all_three(boards_of):
    boards = boards_of(9)

    def variant(seed, group, number):
        return variants(boards.questions, boards.answers, [group], [number], seed)[1][0].tobytes()

    assert variant(0, 4, 0) == boards.answers[4].astype(np.int32).tobytes()
    assert variant(0, 4, 3) == variant(0, 4, 3)
    assert len({variant(0, 4, 3), variant(1, 4, 3), variant(0, 4, 2), variant(0, 5, 3)}) == 4


def test_draws_are_uniform():
    """Digit 1's image, the place where row 1 (column 1) lands and the transposition, over 20,000 variants.

    Chi-squared, 8 degrees of freedom: 35 is passed by chance once in 30,000 times; the draws are fixed by the seed.
    """
    n = 20_000
    rows = np.arange(81, dtype=np.uint8)[None] // 9 + 1  # row i holds digit i + 1
    ones = np.ones((1, 81), np.uint8)
    images, moved = variants(ones, rows, np.zeros(n, np.int64), np.arange(1, n + 1), 5)
    image, moved = images[:, 0], moved.reshape(n, 9, 9)
    transposed = (moved[:, 0] != moved[:, 0, :1]).any(axis=1)
    landed = (moved == image[:, None, None]).any(axis=2).argmax(axis=1)
    landed_transposed = (moved == image[:, None, None]).any(axis=1).argmax(axis=1)
    assert abs(transposed.mean() - 0.5) < 4 * 0.5 / n**0.5
    for counts in (
        np.bincount(image, minlength=10)[1:],
        np.bincount(landed[~transposed], minlength=9),
        np.bincount(landed_transposed[transposed], minlength=9),
    ):
        assert len(counts) == 9 and chi_squared(counts) < 35


def chi_squared(counts):
    expected = counts.sum() / len(counts)
    return ((counts - expected) ** 2 / expected).sum()
