"""Mazes: the label rule, verdicts, files as others write them, generators, what a person reads and sees."""

import gzip
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from trm_jax.data.arrays import read_split
from trm_jax.errors import InputError
from trm_jax.tasks.dihedral import INVERSE, dihedral
from trm_jax.tasks.maze import TASK, MazeConfig, files, grids, source
from trm_jax.tasks.maze.generator import generate
from trm_jax.tasks.maze.paths import label, problems
from trm_jax.tasks.maze.score import verdicts


@pytest.fixture(scope="module")
def golden(golden_folder) -> list[dict]:
    return json.loads(gzip.decompress((golden_folder / "arc" / "mazes.json.gz").read_bytes()))


compiled_verdicts = jax.jit(verdicts)


def tokens(text: str, like: dict) -> np.ndarray:
    return np.array([grids.CHARACTERS.index(c) for c in text], np.uint8).reshape(like["height"], like["width"])


def hard(count: int, side: int = 10, moves: int = 12, **how):
    how = {"kind": "hard", "height": side, "width": side, "min_moves": moves, "max_moves": 99, "seed": 0} | how
    return generate(count, **how)


def test_labels_and_verdicts_are_those_of_the_reference(golden):
    """20 mazes with 323 answers, judged by two public evaluators."""
    for case in golden:
        maze, truth = tokens(case["input"], case), tokens(case["label"], case)
        labels, moves = label(maze[None])
        np.testing.assert_array_equal(labels[0], truth, err_msg=case["maze"])
        assert moves[0] == case["moves"]
        answers = np.stack([tokens(c["answer"], case) for c in case["candidates"]])
        several = (jnp.asarray(np.broadcast_to(x, answers.shape), jnp.int32) for x in (maze, truth))
        found = compiled_verdicts(jnp.asarray(answers, jnp.int32), *several)
        for name, key in (("valid_optimal", "optimal"), ("simple", "simple")):
            assert found[name].tolist() == [c[key] for c in case["candidates"]], (case["maze"], name)
        assert [not problems(maze, answer) for answer in answers] == [c["optimal"] for c in case["candidates"]]


def test_every_label_of_maze_hard_follows_the_rule(shared):
    for name in ("train", "test"):
        split = read_split(shared / "data" / "maze_hard_1k", name)
        labels, moves = label(split.inputs.reshape(-1, 30, 30))
        np.testing.assert_array_equal(labels, split.labels.reshape(-1, 30, 30))
        assert moves.min() >= 109


def slow_distance(maze: np.ndarray) -> int:
    """By relaxation, -1 where there is no path."""
    far = np.where(maze == grids.START, 0.0, np.inf)
    for _ in range(maze.size):
        around = np.pad(far, 1, constant_values=np.inf)
        near = np.minimum.reduce([around[:-2, 1:-1], around[2:, 1:-1], around[1:-1, :-2], around[1:-1, 2:]])
        far = np.where(maze == grids.WALL, np.inf, np.minimum(far, near + 1))
    found = far[maze == grids.GOAL][0]
    return int(found) if np.isfinite(found) else -1


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([(1, 5), (6, 4), (7, 7)]), st.integers(0, 60), st.integers(0, 999))
def test_labels_are_shortest_paths(shape, walls, seed):
    height, width = shape
    random = np.random.default_rng(seed)
    maze = np.where(random.integers(0, 100, (height, width)) < walls, grids.WALL, grids.FREE).astype(np.uint8)
    maze.flat[random.permutation(height * width)[:2]] = grids.START, grids.GOAL
    (answer,), (moves,) = label(maze[None])
    assert moves == slow_distance(maze)
    if moves < 0:
        assert (answer == maze).all() and problems(maze, answer)
        return
    assert (answer >= grids.START).sum() == moves + 1 and not problems(maze, answer)
    found = compiled_verdicts(*(jnp.asarray(x[None], jnp.int32) for x in (answer, maze, answer)))
    assert found["valid_optimal"][0] and found["simple"][0]


@given(st.integers(0, 7), st.integers(1, 5), st.integers(1, 5))
def test_symmetries_undo_each_other(number, height, width):
    grid = np.arange(2 * height * width).reshape(2, height, width)
    np.testing.assert_array_equal(dihedral(dihedral(grid, number), INVERSE[number]), grid)


def test_the_official_builder_s_eight_variants(shared):
    """Its order of symmetries; its variants keep labels, which the rule gives back for hardly any."""
    folder = shared / "data" / "official_arrays" / "maze_10_aug"
    split = read_split(folder, "train")
    mazes, labels = (x.reshape(10, 8, 30, 30) for x in (split.inputs, split.labels))
    for number in range(8):
        np.testing.assert_array_equal(mazes[:, number], dihedral(mazes[:, 0], number))
        np.testing.assert_array_equal(labels[:, number], dihedral(labels[:, 0], number))
    kept = MazeConfig(source="arrays", path=str(folder), train_puzzles=0, test_puzzles=0, augment="dihedral")
    train, test = TASK.load(kept)
    assert train.info.groups == 10 and len(test) == 5 and train.pool.variants.tolist() == [8] * 10
    with pytest.raises(InputError, match="8 variants of a maze, data.augment=none: .* set data.augment=dihedral"):
        TASK.load(MazeConfig(source="arrays", path=str(folder), train_puzzles=0, test_puzzles=0))


def test_awkward_rows_are_named_with_their_reason(shared, tmp_path):
    lines = (shared / "data" / "awkward_arc" / "08_maze_rows" / "mazes.csv").read_text().splitlines()
    reasons = (
        "the maze has 2 starts S; it needs one",
        "no path leads from S to G",
        "question has 899 characters, a maze of 30x30 has 900",
        "question: character 1 is 'x': write # for a wall",
        "the answer is no shortest path: the path is not whole",
        "the answer is not of this maze: they differ at row 1",
    )
    file = tmp_path / "mazes.csv"
    file.write_text("\n".join(lines[:2]) + "\n")
    assert len(files.read_csv(file)) == 1
    for number, reason in enumerate(reasons, 2):
        file.write_text("\n".join([*lines[:2], lines[number]]) + "\n")
        with pytest.raises(InputError) as caught:
            files.read_csv(file)
        assert f"{file} line 3: {reason}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("form", ["csv", "arrays"])
def test_what_was_written_is_read_again(form, tmp_path):
    train, test = hard(6), hard(3, first=1000)
    files.write_splits(tmp_path, form, train, test)
    again = files.read_splits(tmp_path)
    for name, mazes in (("train", train), ("test", test)):
        np.testing.assert_array_equal(again[name].inputs, mazes.inputs)
        np.testing.assert_array_equal(again[name].labels, mazes.labels)
    cfg = MazeConfig(source=form, path=str(tmp_path), height=10, width=10, train_puzzles=0, test_puzzles=0)
    source_, held_out = TASK.load(cfg)
    assert source_.info.groups == 6 and held_out.digest == TASK.load_eval(cfg).digest
    batch = source_.batch(0, np.arange(6), seed=0, batch_size=6)
    order = [np.flatnonzero((train.inputs.reshape(6, -1) == row).all(1))[0] for row in batch["inputs"]]
    assert sorted(order) == list(range(6))
    np.testing.assert_array_equal(batch["labels"], train.labels.reshape(6, -1)[order])


@pytest.mark.parametrize("augment", ["dihedral", "relabel"])
def test_symmetries_while_training(augment):
    mazes = hard(4)
    pool = source.AugmentedPool(mazes, augment)
    groups, numbers = np.repeat(np.arange(4), 8), np.tile(np.arange(8), 4)
    batch = pool.examples(groups, numbers)
    shaped = {name: batch[name].reshape(-1, 10, 10) for name in ("inputs", "labels")}
    for row, (group, number) in enumerate(zip(groups, numbers, strict=True)):
        np.testing.assert_array_equal(shaped["inputs"][row], dihedral(mazes.inputs[group], number))
        turned = dihedral(mazes.labels[group], number)
        wanted = turned if augment == "dihedral" else label(turned[None])[0][0]
        np.testing.assert_array_equal(shaped["labels"][row], wanted)
    assert TASK.warnings(MazeConfig(augment=augment)) == () or augment == "dihedral"


def test_generated_mazes_are_like_those_of_maze_hard():
    """The set: 109 to 153 moves, 114.1 on average, 37.1% walls. Bounds: four standard errors of 60 mazes."""
    mazes = hard(60, side=30, moves=109, max_moves=0)
    assert mazes.moves.min() >= 109 and abs(mazes.moves.mean() - 114.1) < 4 * 5.4 / 60**0.5
    share = (mazes.inputs == grids.WALL).mean((1, 2))
    assert abs(share.mean() - 0.371) < 4 * 0.027 / 60**0.5
    files.verified(mazes)
    np.testing.assert_array_equal(mazes.inputs[:5], hard(5, side=30, moves=109, max_moves=0).inputs)


def test_perfect_mazes_have_one_path():
    mazes = hard(40, side=30, moves=100, kind="perfect", max_moves=140)
    assert (mazes.inputs != grids.WALL).sum((1, 2)).tolist() == [391] * 40
    assert mazes.moves.min() >= 100 and mazes.moves.max() <= 140
    for maze, answer in zip(mazes.inputs, mazes.labels, strict=True):
        inner = np.argwhere(answer == grids.PATH)
        shut = maze.copy()
        shut[tuple(inner[len(inner) // 2])] = grids.WALL
        assert label(shut[None])[1][0] == -1, "without a cell of the path there is no other"


def test_splits_are_disjoint_up_to_symmetry():
    mazes = hard(3)
    turned = mazes.take(np.array([1]))
    turned = grids.Mazes(*(dihedral(x, 3) for x in (turned.inputs, turned.labels)), turned.moves, "turned", turned.rows)
    with pytest.raises(InputError, match="number 1 and turned line 1 are the same maze up to symmetry"):
        files.require_disjoint(mazes, turned)
    with pytest.raises(InputError, match="lower data.min_moves"):
        hard(1, side=4, moves=16)
    small = MazeConfig(source="generated", height=4, width=4, min_moves=3, train_puzzles=200, test_puzzles=100)
    assert TASK.load(small)[0].info.groups == 200, "of few mazes none comes twice"
    with pytest.raises(InputError, match="only [0-9]+ different hard mazes of 2x2 were found, 50 are asked for"):
        hard(50, side=2, moves=1)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"source": "perfect", "width": 2}, "30x2 has no room inside walls; a perfect maze needs 3x3 or more"),
        ({"source": "perfect", "max_moves": 5}, "no path has data.min_moves=109 to data.max_moves=5 moves"),
        ({"source": "arrays", "augment": "relabel"}, "data.augment=relabel derives labels, and arrays hold theirs"),
        ({"augment": "dihedral", "width": 20}, "data.augment=dihedral turns mazes, and 30x20 is not square"),
        ({"source": "generated", "test_puzzles": 0}, "needs train_puzzles and test_puzzles of at least 1"),
        ({"source": "csv"}, "data.source=csv needs data.path=FOLDER"),
    ],
)
def test_settings_that_do_not_go_together(changes, message):
    with pytest.raises(InputError) as caught:
        TASK.load(MazeConfig(**changes))
    assert message in str(caught.value)


def test_mazes_that_are_not_square(tmp_path):
    files.write_splits(tmp_path, "csv", hard(2, height=6, width=9), hard(1, height=6, width=9, first=500))
    assert files.read_splits(tmp_path, shape=(6, 9))["train"].inputs.shape == (2, 6, 9)
    with pytest.raises(InputError, match="line 2: 54 cells are no square maze; give --height and --width"):
        files.read_splits(tmp_path)


def test_mazes_as_text():
    """On a line or in rows, in the frame that `show` draws, with dots, with the ends of rows cut off."""
    maze = hard(1).inputs[0]
    cfg = MazeConfig(height=10, width=10)
    rows = [grids.written(row) for row in maze]
    for text in (
        "".join(rows),
        "".join(rows).replace(" ", "."),
        "\n".join(rows),
        "\r\n".join(row.rstrip() for row in rows) + "\r\n",
        TASK.show(cfg, maze.ravel(), maze.ravel()),
        "\n" + "\n".join(rows) + "\n\n" + "\n".join(rows) + "\n",
    ):
        found = TASK.read(cfg, text)
        assert len(found) in (1, 2)
        np.testing.assert_array_equal(found, [maze.ravel()] * len(found))
    assert TASK.line(cfg, maze.ravel()) == "".join(rows)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("S" + " " * 98, "line 1: 99 characters, where a maze has 10 lines of 10, or one of 100"),
        ("S" + " " * 99, "line 1: the maze has no goal G"),
        ("SG" + "?" * 98, "line 1: character 3 is '?'"),
        ("SGo" + "." * 97, "line 1: the maze has a path o drawn in it"),
        ("S G\n###", "line 2: the last maze has 2 lines of 10"),
    ],
)
def test_text_that_is_no_maze(text, message):
    with pytest.raises(InputError) as caught:
        TASK.read(MazeConfig(height=10, width=10), text.replace(" " * 98, "." * 98).replace(" " * 99, "." * 99))
    assert str(caught.value).startswith(message)


def test_an_answer_in_the_terminal(golden):
    case = next(case for case in golden if case["height"] == 3)
    maze, answer = tokens(case["input"], case), tokens("S#oooo  G", case)
    cfg = MazeConfig(height=3, width=3)
    assert TASK.show(cfg, maze.ravel(), answer.ravel()).splitlines() == ["┌───┐", "│S X│", "│oXo│", "│  G│", "└───┘"]
    assert "\x1b[34mo\x1b[0m" in TASK.show(cfg, maze.ravel(), answer.ravel(), color=True)
    faults = TASK.check(cfg, maze.ravel(), answer.ravel())
    assert faults == ("the path crosses 2 walls, the first at row 1 column 3",)


def test_pictures(tmp_path):
    mazes, cfg = hard(1), MazeConfig(height=10, width=10)
    maze, answer = mazes.inputs[0].ravel(), mazes.labels[0].ravel()
    TASK.png(cfg, tmp_path / "a.png", maze, answer, caption="a maze")
    TASK.gif(cfg, tmp_path / "a.gif", maze, np.stack([maze, answer]), np.array([0.2, 0.9]), halted_at=2)
    shutil.copy(tmp_path / "a.png", tmp_path / "b.png")
    TASK.png(cfg, tmp_path / "a.png", maze, answer, caption="a maze")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes(), "the same bytes every time"
    with Image.open(tmp_path / "a.png") as image:
        pixels = np.asarray(image.convert("RGB")).reshape(-1, 3)
        blue = (pixels == (9, 105, 218)).all(1).sum()
    assert blue >= (mazes.labels[0] == grids.PATH).sum() * 40 * 40
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3


def test_scores_stand_side_by_side():
    mazes, cfg = hard(4), MazeConfig(height=10, width=10)
    batch = {name: jnp.asarray(x.reshape(4, -1), jnp.int32) for name, x in
             (("inputs", mazes.inputs), ("labels", mazes.labels))}  # fmt: skip
    answers = batch["labels"].at[0, 0].set(0).at[1].set(batch["inputs"][1])
    sums = TASK.score(cfg, answers, batch, jnp.array([True, True, True, False]))
    scores = TASK.finish({name: float(value) for name, value in sums.items()})
    assert scores["exact_accuracy"] in (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert scores["valid_optimal"] == pytest.approx(2 / 3) or mazes.inputs[0, 0, 0] in (3, 4)
    assert TASK.finish({"count": 0.0}) == {} and TASK.headline in scores and "simple" in scores
