"""`trm solve` of an ARC task that the run has never seen, and checkpoints that vote together."""

import json

import numpy as np
import pytest
from PIL import Image

from tests import tiny
from trm_jax.tasks.arc import predictions


def pairs(seed: int, count: int) -> list[dict]:
    draw = np.random.default_rng(seed)
    return [{k: draw.integers(0, 4, (2, 3)).tolist() for k in ("input", "output")} for _ in range(count)]


@pytest.fixture(scope="module")
def run(trm, tmp_path_factory):
    """A run of a few steps on three tasks."""
    folder = tmp_path_factory.mktemp("arc")
    (folder / "tasks").mkdir()
    for number in range(3):
        made = pairs(number, 4)
        (folder / "tasks" / f"t{number}.json").write_text(json.dumps({"train": made[:3], "test": made[3:]}))
    changes = {"data.task": "arc", "data.path": str(folder), "data.train_sets": "tasks", "data.test_set": "tasks"}
    changes |= {"data.augmentations": 5, "data.side": 5, "train.steps": 6, "eval.every_steps": 6}
    changes |= {"checkpoint.keep_every_steps": 3}
    result = trm.run("train", "demo", "--workdir", folder / "run", *tiny.arguments(changes))
    assert result.code == 0, result.err
    return folder / "run"


@pytest.fixture
def task(tmp_path):
    path, made = tmp_path / "new.json", pairs(9, 5)
    path.write_text(json.dumps({"train": made[:3], "test": made[3:]}))
    return path


SMALL = ("--adapt-steps", 4, "--augmentations", 4, "--batch-size", 8)


def test_a_task_that_the_run_has_never_seen(trm, run, task, tmp_path):
    pictures = "--png", tmp_path / "a.png", "--gif", tmp_path / "a.gif"
    result = trm.run("solve", run, task, *SMALL, *pictures)
    assert result.code in (0, 1), result.err
    assert "learning embeddings for 1 task in 5 forms: 4 steps of 8, about 0:" in result.err
    verdicts = [line for line in result.out.splitlines() if line.startswith("new, test ")]
    assert len(verdicts) == 2 and (result.code == 0) == all(": solved (" in line for line in verdicts)
    (place,) = (run / "unseen").iterdir()
    before, after = tiny.state(run, 6), tiny.state(place, 4)
    for name, values in after.items():
        if name.startswith("params/weights/"):
            np.testing.assert_array_equal(values, before[name.replace("params/weights", "ema")], err_msg=name)
    table = after["params/puzzle_emb"]
    mean = before["params/puzzle_emb"][1:19].mean(0)
    assert table.shape[0] == 6 and (np.abs(table[1:] - mean) > 1e-6).any(1).any()
    header, lines = predictions.read(place / "predictions.jsonl")
    assert header.data_name == "new" and any(line.grid is not None for line in lines)
    with Image.open(tmp_path / "a.png") as png, Image.open(tmp_path / "a.gif") as gif:
        assert png.size[0] > 100 and gif.n_frames > 2
    again = trm.run("solve", run, task, *SMALL)
    assert "learning" not in again.err
    assert [line for line in again.out.splitlines() if line.startswith("new, test ")] == verdicts
    assert (
        trm.run("arc", "submit", place / "predictions.jsonl", "--data", task, "--output", tmp_path / "s.json").code == 0
    )
    assert len(json.loads((tmp_path / "s.json").read_text())["new"]) == 2


def test_all_weights_are_trained_where_that_is_asked_for(trm, run, task):
    result = trm.run("solve", run, task, *SMALL, "--adapt", "all")
    assert result.code in (0, 1) and "learning embeddings and weights for 1 task" in result.err, result.err
    places = [
        place
        for place in (run / "unseen").iterdir()
        if json.loads((place / "config.json").read_text())["train"]["parameters"] == "all"
    ]
    before, after = tiny.state(run, 6), tiny.state(places[0], 4)
    assert (after["params/weights/lm_head"] != before["ema/lm_head"]).any()


def test_answers_that_nobody_knows(trm, run, task):
    """They are voted on, and not scored."""
    content = json.loads(task.read_text())
    content["test"] = [{"input": pair["input"]} for pair in content["test"]]
    task.write_text(json.dumps(content))
    result = trm.run("solve", run, task, *SMALL)
    assert "there is no score, for the answers are not known" in result.err
    assert "solved (" not in result.out
    assert result.out.count(": answered (") == 2
    assert "arc submit" in result.err and "pass@" not in result.err


def test_what_is_refused(refused, run, task, tmp_path):
    assert "does not exist; name a JSON file of an ARC task" in refused("solve", run, tmp_path / "none.json")
    assert "--live and --limit are not for tasks of ARC" in refused("solve", run, task, "--live")
    assert "no checkpoint '77'" in refused("solve", run, task, "--checkpoint", 77)
    (tmp_path / "a,b.json").write_text(task.read_text())
    assert "a comma parts names of sets; rename it" in refused("solve", run, tmp_path / "a,b.json")
    (tmp_path / "bad.json").write_text('{"train": []}')
    assert "train is empty" in refused("solve", run, tmp_path / "bad.json")
    large = {side: [{"input": [[1] * 6], "output": [[1]]}] for side in ("train", "test")}
    (tmp_path / "large.json").write_text(json.dumps(large))
    assert "6 cells long and data.side=5" in refused("solve", run, tmp_path / "large.json")


def test_an_example_of_the_run_has_its_own_embedding(trm, run):
    result = trm.run("solve", run, "--example")
    assert result.code in (0, 1), result.err
    assert ("the puzzle does not tell" in result.out) == (result.code == 0)
    assert ("begins with no colour" in result.out) == (result.code == 1)


def test_checkpoints_vote_together(trm, run, refused, solver):
    """The votes of two are those of each of them added up."""
    votes = {}
    for which in (["3"], ["6"], ["3", "6"]):
        how = ("--checkpoints", *which) if len(which) > 1 else ("--checkpoint", *which)
        result = trm.run("eval", run, *how)
        assert result.code == 0, result.err
        header, lines = predictions.read(run / "predictions.jsonl")
        assert header.member.settings["checkpoints"] == [int(step) for step in which]
        votes[tuple(which)] = {
            (line.task, line.test, line.grid.tobytes(), line.grid.shape): line.weight
            for line in lines
            if line.grid is not None
        }
    one, other, both = votes.values()
    assert both == {key: one.get(key, 0) + other.get(key, 0) for key in one | other}
    assert "checkpoints 3, 6 of" in result.out
    assert "name each once" in refused("eval", run, "--checkpoints", 3, 3)
    assert "are not voted on" in refused("eval", solver.workdir, "--checkpoints", "latest")
