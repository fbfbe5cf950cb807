"""What a search asks of a task: which answers are valid, and the forms of a puzzle."""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm_jax.tasks import get
from trm_jax.tasks.maze.paths import label
from trm_jax.tasks.sudoku.symmetry import variants


@pytest.mark.parametrize("size", [4, 6, 9])
def test_a_board_is_valid_where_check_finds_nothing_wrong(boards_of, size):
    task, cfg = get("sudoku"), get("sudoku").Config(size=size)
    boards, draw = boards_of(size), np.random.default_rng(size)
    inputs, right = (np.repeat(x.astype(np.int32) + 1, 4, axis=0) for x in (boards.questions, boards.answers))
    answers, rows = right.copy(), np.arange(len(right))
    answers[rows[1::4], draw.integers(size**2, size=len(rows[1::4]))] = draw.integers(0, size + 2, len(rows[1::4]))
    answers[2::4] = np.roll(right, 8, axis=0)[2::4]  # the solution of another
    digits = np.concatenate([[0, 1], draw.permutation(size) + 2])
    answers[3::4] = digits[right[3::4]]  # keeps all rules, but not the clues
    found = jax.jit(lambda answers, inputs: task.valid(cfg, answers, {"inputs": inputs}))(answers, inputs)
    expected = [not task.check(cfg, *pair) for pair in zip(inputs, answers, strict=True)]
    np.testing.assert_array_equal(found, expected)
    assert found[::4].all() and 0 < found.sum() < len(rows) / 2


@pytest.fixture(scope="module")
def mazes():
    task = get("maze")
    cfg = task.Config(source="generated", height=8, width=8, train_puzzles=8, test_puzzles=40, min_moves=6)
    rows = task.load_eval(cfg).rows(np.arange(40))
    return task, cfg, rows["inputs"], rows["labels"]


def test_a_path_through_a_maze_is_valid_whatever_its_length(mazes):
    """A shortest path is; what `check` faults for more than its length is not."""
    task, cfg, inputs, labels = mazes
    valid = jax.jit(lambda answers: task.valid(cfg, answers, {"inputs": inputs}))
    assert valid(labels).all()
    draw = np.random.default_rng(0)
    broken = labels.copy()
    broken[np.arange(40), draw.integers(64, size=40)] = draw.integers(1, 6, 40)
    found = np.asarray(valid(broken))
    problems = [task.check(cfg, *pair) for pair in zip(inputs, broken, strict=True)]
    assert 0 < found.sum() < 40
    for ok, said in zip(found, problems, strict=True):
        assert not ok or all(line.startswith("the path has") for line in said)
        assert ok or said


@given(st.sampled_from([4, 6, 9]), st.integers(0, 2**32 - 1), st.integers(1, 5))
def test_forms_of_a_board_are_its_variants_and_are_undone(boards_of, size, seed, count):
    task, cfg = get("sudoku"), get("sudoku").Config(size=size)
    boards = boards_of(size)
    question, answer = (x[:1].astype(np.int32) + 1 for x in (boards.questions, boards.answers))
    cells, tokens = task.symmetries(cfg, count, seed)
    assert cells.shape == (count, size**2) and tokens.shape == (count, size + 2)
    np.testing.assert_array_equal(cells[0], np.arange(size**2))
    np.testing.assert_array_equal(tokens[0], np.arange(size + 2))
    numbers = np.arange(count)
    expected = variants(boards.questions[:1], boards.answers[:1], np.zeros(count, int), numbers, seed, shift=1)
    for k in numbers:
        seen = [tokens[k][board[0, cells[k]]] for board in (question, answer)]
        np.testing.assert_array_equal(seen, [expected[0][k], expected[1][k]])
        assert task.check(cfg, *seen) == ()
        back = np.argsort(tokens[k])[seen[1][np.argsort(cells[k])]]
        np.testing.assert_array_equal(back, answer[0])


@pytest.mark.parametrize("height, width, forms", [(5, 5, 8), (4, 6, 4)])
def test_forms_of_a_maze(height, width, forms):
    """Each keeps the length of a shortest path, and there are as many as a grid of its shape has."""
    task = get("maze")
    cfg = task.Config(source="generated", height=height, width=width, min_moves=2)
    maze = np.full((height, width), 2, np.int32)
    maze[1, 1:], maze[0, 1], maze[-1, 0] = 1, 3, 4
    cells, tokens = task.symmetries(cfg, 10, 0)
    seen = maze.ravel()[cells]
    np.testing.assert_array_equal(seen[0], maze.ravel())
    assert len(np.unique(seen, axis=0)) == forms and (tokens == np.arange(6)).all()
    assert len(set(label(seen.reshape(-1, height, width))[1])) == 1
    np.testing.assert_array_equal(np.take_along_axis(seen, np.argsort(cells), 1), np.tile(maze.ravel(), (10, 1)))
