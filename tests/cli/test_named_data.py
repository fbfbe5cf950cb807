"""The data sets of exp04a and exp04b by name: puzzles drawn from a source, or a line that says which has enough."""

import pytest

from trm_jax.cli.main import main
from trm_jax.configs import registry, resolve
from trm_jax.tasks.sudoku import source as sudoku

PUZZLES = 120


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """train.csv with 120 puzzles, test.csv with 5."""
    made = tmp_path_factory.mktemp("data") / "puzzles"
    argv = ["data", "sudoku", "build", "--output-dir", made, "--subsample-size", PUZZLES, "--test", 5]
    assert main([str(word) for word in argv]) == 0
    return made


def drawn(name, folder, **data):
    """The training source of an experiment with its puzzles from `folder`; `data` are settings of its section."""
    data = {"source": "csv", "path": str(folder), **data}
    config = resolve.override(registry.get(name), {f"data.{key}": value for key, value in data.items()})
    return sudoku.load(resolve.freeze(config).data)[0]


@pytest.mark.parametrize("name", ["exp04a_2000", "exp04a_250", "exp04b_0010", "baseline"])
def test_a_source_with_too_few_puzzles(refused, folder, tmp_path, name):
    said = refused("train", name, "--workdir", tmp_path / "run", "--set", "data.source=csv", f"data.path={folder}")
    wanted = registry.get(name).data.train_puzzles
    assert said.startswith(f"{folder}/train.csv holds {PUZZLES} puzzles, train_puzzles asks for {wanted}: ")
    assert "ask for at most 120" in said and "data.source=hub (sapientinc/sudoku-extreme" in said
    assert "data.source=generated (any number)" in said


def test_a_source_with_enough_gives_as_many_as_the_name_says(folder):
    train = drawn("exp04a_100", folder)
    assert train.info.groups == 100
    assert set(train.pool.variants) == {1 + 1000}


@pytest.mark.parametrize("name, augmentations", [("exp04b_0010", 10), ("exp04b_0500", 500), ("exp04b_2000", 2000)])
def test_augmentations_are_computed_on_the_fly(folder, name, augmentations):
    assert set(drawn(name, folder, train_puzzles=100).pool.variants) == {1 + augmentations}


def test_the_smaller_sets_lie_in_the_larger_ones(folder):
    """So a step from one to the next adds puzzles and changes none."""
    sources = drawn("exp04a_100", folder, train_puzzles=40), drawn("exp04a_100", folder)
    small, large = ({row.tobytes() for row in train.pool.boards.questions} for train in sources)
    assert len(small) == 40 and small < large
