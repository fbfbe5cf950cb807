"""ARC from the official arrays: the golden test split, and sets written in the builder's way."""

import json

import numpy as np
import pytest

from tests.tasks.arc.official import write_arrays
from trm_jax.errors import InputError
from trm_jax.tasks.arc import TASK, ArcConfig
from trm_jax.tasks.arc.source import load


@pytest.fixture(scope="module")
def official(golden, tmp_path_factory):
    """The golden evaluator's eight tasks with their names and ids; the test split is the golden one itself."""
    folder, known, arrays = tmp_path_factory.mktemp("official"), golden("evaluator.json"), golden("evaluator.npz")
    tasks, identifiers = known["test_puzzles"], known["identifiers"]
    of_puzzle = arrays["puzzle_identifiers"][arrays["puzzle_indices"][:-1]]
    names = {name: [] for name in tasks}
    for one in of_puzzle:
        names[identifiers[one].split("|||")[0]].append(identifiers[one])
    order = dict.fromkeys(identifiers[one].split("|||")[0] for one in of_puzzle)
    write_arrays(folder, {name: tasks[name] for name in order}, names, list(tasks), identifiers=identifiers)
    for key in ("inputs", "labels"):
        np.testing.assert_array_equal(np.load(folder / "test" / f"all__{key}.npy"), arrays[key])
    return folder


def test_the_golden_evaluation_from_its_arrays(golden, official):
    """Examples, ids, and the official scores of the golden predictions; 48 puzzles, 60 examples."""
    arrays, known = golden("evaluator.npz"), golden("evaluator.json")
    cfg = ArcConfig(source="arrays", path=str(official))
    train, test = load(cfg)
    rows = test.rows(np.arange(60))
    np.testing.assert_array_equal(rows["inputs"], arrays["inputs"])
    np.testing.assert_array_equal(np.where(rows["labels"] < 0, 0, rows["labels"]), arrays["labels"])
    np.testing.assert_array_equal(rows["puzzle_ids"], arrays["puzzle_identifiers"])
    assert train.info.num_puzzle_ids == len(known["identifiers"]) and len(test) == TASK.eval_size(cfg) == 60
    assert TASK.info(cfg) == train.info and train.info.groups == 8
    ballot = test.ballot()
    ballot.add(np.arange(60), arrays["preds"][0], arrays["q_halt_logits"][0])
    official_scores = known["scenarios"]["one_evaluation"]["scores"]["mean_over_tasks"]
    assert {k: v for k, v in ballot.scores().items() if k != "tasks"} == pytest.approx(
        {f"pass@{k}": v for k, v in official_scores.items()}
    )


def small_set(count: int = 3) -> tuple[dict, dict]:
    draw = np.random.default_rng(4)
    tasks, names = {}, {}
    for number in range(count):
        grid = lambda: draw.integers(0, 10, draw.integers(1, 6, 2)).tolist()  # noqa: E731
        pairs = [{"input": grid(), "output": grid()} for _ in range(4)]
        name = f"t{number}"
        tasks[name] = {"train": pairs[:3], "test": pairs[3:]}
        colors = ["0" + "".join(map(str, draw.permutation(np.arange(1, 10)))) for _ in range(4)]
        names[name] = [name, *(f"{name}|||t{k}|||{c}" for k, c in zip((3, 6, 1, 0), colors, strict=True))]
    return tasks, names


@pytest.fixture
def written(tmp_path):
    tasks, names = small_set()
    write_arrays(tmp_path, tasks, names, ["t1"])
    return tmp_path


def test_training_examples_are_those_of_the_files(written):
    """Every training example, its offset aside, stands in the arrays under the same id."""
    cfg = ArcConfig(source="arrays", path=str(written))
    train, test = load(cfg)
    assert [len(task.pairs) for task in train.data.tasks.values()] == [4, 4, 4] and train.lengths.tolist() == [4, 3, 4]
    inputs, starts = (np.load(written / "train" / f"all__{key}.npy") for key in ("inputs", "puzzle_indices"))
    ids = np.load(written / "train" / "all__puzzle_identifiers.npy")

    def plain(tokens):
        square = tokens.reshape(30, 30)
        rows, columns = np.nonzero(square > 1)
        return square[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1].tobytes()

    stored = {(ids[p], plain(inputs[row])) for p in range(len(ids)) for row in range(starts[p], starts[p + 1])}
    seen = set()
    for step in range(20):
        batch = train.batch(step, np.arange(32), seed=0, batch_size=32)
        seen |= {(i, plain(x.astype(np.uint8))) for i, x in zip(batch["puzzle_ids"], batch["inputs"], strict=True)}
    assert seen == stored
    held_out = test.rows(np.arange(len(test)))
    assert len(test) == 5 and held_out["puzzle_ids"].tolist() == [6, 7, 8, 9, 10]
    np.testing.assert_array_equal(held_out["inputs"], np.load(written / "test" / "all__inputs.npy"))


def write_test_puzzles(folder, content) -> None:
    (folder / "test_puzzles.json").write_text(json.dumps(content))


def change(path, act) -> None:
    values = np.load(path)
    act(values)
    np.save(path, values)


def rename(folder, old: str, new: str) -> None:
    path = folder / "identifiers.json"
    path.write_text(json.dumps([new if name == old else name for name in json.loads(path.read_text())]))


def swap(folder, split: str, one: int, other: int) -> None:
    """The ids of two puzzles."""
    change(folder / split / "all__puzzle_identifiers.npy", lambda ids: ids.put([one, other], ids[[other, one]]))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda f: (f / "identifiers.json").unlink(), "identifiers.json does not exist"),
        (lambda f: (f / "test_puzzles.json").unlink(), "test_puzzles.json does not exist"),
        (lambda f: (f / "identifiers.json").write_text("[]"), "has not the 16 names that"),
        (lambda f: (f / "test_puzzles.json").write_text("[]"), "is no object of tasks"),
        (lambda f: rename(f, "t0", "t0|||t9|||0123456789"), "names no augmentation of"),
        (lambda f: rename(f, "t0", "t0|||t1|||0123456788"), "names no augmentation of"),
        (lambda f: rename(f, "t0", "t0|||t1|||0123456789"), "0 puzzles are t0 itself"),
        (lambda f: change(f / "train" / "all__inputs.npy", lambda v: v[0].fill(0)), "example 0, inputs: no grid"),
        (lambda f: change(f / "train" / "all__inputs.npy", lambda v: v[0].fill(1)), "example 0, inputs: no grid"),
        (lambda f: swap(f, "train", 3, 4), "is not what its name says"),
        (lambda f: swap(f, "test", 0, 1), "has other puzzles or test pairs than train"),
        (lambda f: write_test_puzzles(f, {"t1": small_set()[0]["t2"]}), "are others in test_puzzles.json than"),
    ],
)  # fmt: skip
def test_arrays_at_odds_with_themselves(written, spoil, message):
    spoil(written)
    with pytest.raises(InputError) as caught:
        load(ArcConfig(source="arrays", path=str(written), seed=7))
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_settings_that_do_not_go_with_arrays(written):
    with pytest.raises(InputError, match="takes the arrays as they are"):
        ArcConfig(source="arrays", path=str(written), side=20)
    with pytest.raises(InputError, match="data.source=arrays needs data.path"):
        load(ArcConfig(source="arrays"))
