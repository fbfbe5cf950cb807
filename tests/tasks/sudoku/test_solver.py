import itertools

import numpy as np
import pytest

from trm_jax.tasks.sudoku.boards import complete, units
from trm_jax.tasks.sudoku.solver import solve


def parse_board(text):
    return np.array([int(digit) for digit in text.replace(".", "0")], np.uint8)


def brute_force_count(board, size, limit):
    """Solutions of a small board by trying every digit in every blank, rules checked at each step."""
    blanks = np.flatnonzero(board == 0)
    boards = board[None]
    for cell in blanks:
        boards = np.repeat(boards, size, axis=0)
        boards[:, cell] = np.tile(np.arange(1, size + 1, dtype=np.uint8), len(boards) // size)
        for cells in ((units(size) == unit).any(axis=1) for unit in range(3 * size)):
            part = np.sort(boards[:, cells], axis=1)
            boards = boards[~((part[:, 1:] == part[:, :-1]) & (part[:, 1:] > 0)).any(axis=1)]
    return min(len(boards), limit)


@pytest.mark.parametrize("seed", range(5))
def test_counts_agree_with_brute_force_on_random_4x4(seed):
    rng = np.random.default_rng(seed)
    boards = np.zeros((60, 16), np.uint8)
    for board in boards:
        cells = rng.choice(16, rng.integers(0, 9), replace=False)
        board[cells] = rng.integers(1, 5, len(cells))
    expected = [brute_force_count(board, 4, 300) for board in boards]
    solutions, counts, _ = solve(boards, 4, limit=300)
    assert counts.tolist() == expected
    found = counts > 0
    assert complete(solutions[found], 4).all() and (solutions[~found] == 0).all()
    clues = boards[found]
    np.testing.assert_array_equal(np.where(clues > 0, clues, solutions[found]), solutions[found])


@pytest.mark.parametrize("digits", [(1, 16), (15, 16), (3, 8)])
def test_counts_agree_with_brute_force_on_16x16_with_two_digits_blanked(boards_of, digits):
    """As many solutions as ways to give the 32 cells their two digits again; one where a few clues settle it."""
    answer = boards_of(16).answers[0]
    question = np.where(np.isin(answer, digits), 0, answer)
    settled = np.where(np.isin(answer, digits[:1]), 0, answer)
    boards = np.stack([question, settled])
    expected = [brute_force_count(board, 16, 300) for board in boards]
    solutions, counts, _ = solve(boards, 16, limit=300)
    assert counts.tolist() == expected and expected[0] > 1 and expected[1] == 1
    assert complete(solutions, 16).all()
    np.testing.assert_array_equal(solutions[1], answer)


def test_all_288_grids_of_4x4():
    assert solve(np.zeros((1, 16), np.uint8), 4, limit=1000)[1] == [288]


def test_two_solutions_are_seen_whichever_comes_first():
    # A solved board with the four cells of an exchangeable rectangle blanked has exactly two solutions.
    board = parse_board("123456456123231564564231312645645312")
    grid = board.reshape(6, 6)
    for (r1, r2), (c1, c2) in itertools.product(itertools.combinations(range(6), 2), repeat=2):
        same_box = r1 // 2 == r2 // 2 or c1 // 3 == c2 // 3
        if same_box and grid[r1, c1] == grid[r2, c2] and grid[r1, c2] == grid[r2, c1]:
            open_board = grid.copy()
            open_board[[r1, r1, r2, r2], [c1, c2, c1, c2]] = 0
            _, counts, ratings = solve(open_board.reshape(1, -1), 6, limit=9)
            assert counts == [2] and ratings == [1]
            return
    pytest.fail("the board has no exchangeable rectangle: the test needs another one")


def test_a_puzzle_of_singles_takes_no_guess_and_a_hard_one_does():
    easy = "53..7....6..195....98....6.8...6...34..8.3..17...2...6.6....28....419..5....8..79"
    hard = "8..........36......7..9.2...5...7.......457.....1...3...1....68..85...1..9....4.."
    answer = "812753649943682175675491283154237896369845721287169534521974368438526917796318452"
    boards = np.stack([parse_board(text) for text in (easy, hard)])
    solutions, counts, ratings = solve(boards, 9)
    assert counts.tolist() == [1, 1] and ratings[0] == 0 and ratings[1] > 5
    np.testing.assert_array_equal(solutions[1], parse_board(answer))


def test_contradicting_clues_have_no_solution():
    assert solve(parse_board("11" + "." * 79)[None], 9)[1] == [0]
    assert solve(parse_board("12345678." + "." * 17 + "9" + "." * 54)[None], 9)[1] == [0]


def test_real_puzzles(shared):
    from trm_jax.tasks.sudoku.csv_files import read_csv

    boards = read_csv(shared / "data" / "sudoku_extreme_1k" / "train.csv")
    solutions, counts, ratings = solve(boards.questions, 9)
    assert (counts == 1).all()
    np.testing.assert_array_equal(solutions, boards.answers)
    # Another solver's guesses: hardness is shared, exact numbers are not.
    assert np.corrcoef(np.log1p(ratings), np.log1p(boards.ratings))[0, 1] > 0.8
