"""`trm arc`, and ARC from training to a scored submission, on three small tasks."""

import json

import numpy as np
import pytest

from tests import tiny
from trm_jax.tasks.arc import predictions
from trm_jax.tasks.arc.files import digest, read_tasks
from trm_jax.tasks.arc.vote import Candidate


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    """A folder of three tasks of small grids, one with two test pairs."""
    folder, draw = tmp_path_factory.mktemp("arc") / "tasks", np.random.default_rng(0)
    folder.mkdir()
    for number in range(3):
        pairs = [{k: draw.integers(0, 4, (2, 3)).tolist() for k in ("input", "output")} for _ in range(4)]
        cut = 2 if number == 0 else 3
        (folder / f"t{number}.json").write_text(json.dumps({"train": pairs[:cut], "test": pairs[cut:]}))
    return folder


def write(path, tasks, answers, name="me") -> None:
    """answers: {(task, test): [(grid, weight), ...]}."""
    head = predictions.Header(predictions.Member(name, "external"), "mine", digest(read_tasks(tasks)))
    with predictions.writing(path, head) as writer:
        for key, found in answers.items():
            writer.candidates(key, [Candidate(np.array(grid, np.uint8), weight) for grid, weight in found])


@pytest.fixture
def right(tasks):
    """{(task, test): the right grid}."""
    return {
        (name, number): pair.output.tolist()
        for name, task in read_tasks(tasks).items()
        for number, pair in enumerate(task.test)
    }


def test_from_training_to_a_submission(trm, tasks, tmp_path):
    """Scores of `trm eval` are those of its file; a run that is evaluated again says the same."""
    changes = {"data.task": "arc", "data.path": str(tasks.parent), "data.train_sets": "tasks", "data.test_set": "tasks"}
    changes |= {"data.augmentations": 5, "data.side": 5, "train.steps": 4, "eval.every_steps": 4}
    run = tmp_path / "run"
    result = trm.run("train", "demo", "--workdir", run, *tiny.arguments(changes))
    assert result.code == 0, result.err
    result = trm.run("eval", run)
    assert result.code == 0 and "pass@2" in result.out, result.err
    file = run / "predictions.jsonl"
    assert f"predictions: {file}" in result.out and result.err.endswith(f"next: trm arc score {file} --data TASKS\n")
    scored = json.loads((run / "evals.jsonl").read_text().splitlines()[-1])
    header, lines = predictions.read(file)
    assert header.member.kind == "trm" and sum(line.status == "ok" for line in lines) == 3
    result = trm.run("arc", "score", file, "--data", tasks)
    assert result.code == 0, result.err
    # Without the empty grids, which are candidates of the evaluation and stand in no file.
    assert float(result.out.splitlines()[1].split()[-5]) >= scored["pass@2"]
    result = trm.run("arc", "submit", file, "--data", tasks, "--output", tmp_path / "submission.json")
    assert result.code == 0 and "3 tasks, 4 test pairs" in result.out
    made = json.loads((tmp_path / "submission.json").read_text())
    assert {name: len(pairs) for name, pairs in made.items()} == {"t0": 2, "t1": 1, "t2": 1}
    assert trm.run("eval", run).code == 0
    assert json.loads((run / "evals.jsonl").read_text().splitlines()[-1]) == scored


def test_score_submit_and_read_again(here, tasks, right, tmp_path):
    wrong = [[9]]
    answers = {("t0", 0): [(right["t0", 0], 3)], ("t0", 1): [(wrong, 2), (right["t0", 1], 1)], ("t1", 0): [(wrong, 1)]}
    write(tmp_path / "a.jsonl", tasks, answers)
    result = here("arc", "score", tmp_path / "a.jsonl", "--data", tasks)
    assert result.code == 0, result.err
    title, *rows = (line.split() for line in result.out.splitlines())
    assert title[:2] == ["3", "tasks,"] and title[-6:] == [f"pass@{k}" for k in (1, 2, 5, 10, 100, 1000)]
    assert [row[-6:-4] for row in rows] == [["0.1667", "0.3333"], ["0.2500", "0.5000"], ["0.0000", "0.3333"]]
    result = here("arc", "submit", tmp_path / "a.jsonl", "--data", tasks, "--output", tmp_path / "submission.json")
    assert result.code == 0 and "1 of them without an answer" in result.out
    made = json.loads((tmp_path / "submission.json").read_text())
    assert made["t2"] == [{"attempt_1": [[0, 0], [0, 0]], "attempt_2": [[0, 0], [0, 0]]}]
    assert made["t0"][0] == {"attempt_1": right["t0", 0], "attempt_2": right["t0", 0]}
    again = here("arc", "score", tmp_path / "submission.json", "--data", tasks)
    assert [row.split()[-6:-4] for row in again.out.splitlines()[1:]] == [row[-6:-4] for row in rows]


def test_a_vote_of_files(here, tasks, tmp_path):
    """Each file has one vote a pair: three lines of one do not outweigh one line of two others."""
    one, other = [[1]], [[2]]
    write(tmp_path / "a.jsonl", tasks, {("t1", 0): [(one, 50)]}, "a")
    write(tmp_path / "b.jsonl", tasks, {("t1", 0): [(other, 1)]}, "b")
    write(tmp_path / "c.jsonl", tasks, {("t1", 0): [(other, 3), (one, 1)]}, "c")
    files = [tmp_path / f"{name}.jsonl" for name in "abc"]
    assert here("arc", "vote", *files, "--output", tmp_path / "v.jsonl").code == 0
    header, lines = predictions.read(tmp_path / "v.jsonl")
    assert header.member.kind == "ensemble" and header.member.settings["members"] == ["a", "b", "c"]
    said = [(line.grid.tolist(), line.weight) for line in lines if line.grid is not None]
    assert said == [(other, 1.75), (one, 1.25)]
    assert here("arc", "vote", *files, "--weights", 3, 1, 1, "--output", tmp_path / "w.jsonl").code == 0
    assert next(predictions.read(tmp_path / "w.jsonl")[1]).grid.tolist() == one


def test_a_vote_knows_the_tasks_that_nobody_answers(here, tasks, tmp_path):
    """Of a part of a set: what was asked is what has a line."""
    every = read_tasks(tasks)
    head = predictions.Header(predictions.Member("a", "external"), "some", digest({n: every[n] for n in ("t1", "t2")}))
    with predictions.writing(tmp_path / "a.jsonl", head) as writer:
        writer.candidates(("t1", 0), [Candidate(np.array([[1]], np.uint8), 1)])
        writer.line(predictions.Line("t1", status="partial", reason="the time was over"))
        writer.line(predictions.Line("t2", status="ok"))
    assert here("arc", "vote", tmp_path / "a.jsonl", "--output", tmp_path / "v.jsonl").code == 0
    told = {line.task: line.status for line in predictions.read(tmp_path / "v.jsonl")[1] if line.status}
    assert told == {"t1": "partial", "t2": "failed"}
    result = here("arc", "submit", tmp_path / "v.jsonl", "--data", tasks, "--output", tmp_path / "s.json")
    assert result.code == 0, result.err


def test_merge(here, tasks, refused, tmp_path):
    write(tmp_path / "a.jsonl", tasks, {("t0", 0): [([[1]], 1)]})
    write(tmp_path / "b.jsonl", tasks, {("t1", 0): [([[2]], 1)]})
    write(tmp_path / "c.jsonl", tasks, {("t2", 0): [([[2]], 1)]}, "you")
    parts = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    assert here("arc", "merge", *parts, "--output", tmp_path / "m.jsonl").code == 0
    assert [line.task for line in predictions.read(tmp_path / "m.jsonl")[1]] == ["t0", "t1"]
    said = refused("arc", "merge", *parts, tmp_path / "c.jsonl", "--output", tmp_path / "n.jsonl")
    assert said.endswith("vote on them instead") and not (tmp_path / "n.jsonl").exists()


def test_what_cannot_be_scored(refused, tasks, tmp_path):
    write(tmp_path / "a.jsonl", tasks, {("t0", 0): [([[1]], 1)]})
    elsewhere = tmp_path / "other"
    elsewhere.mkdir()
    (elsewhere / "t9.json").write_text((tasks / "t1.json").read_text())
    file = tmp_path / "a.jsonl"
    assert "answers mine, whose tasks or test inputs" in refused("arc", "score", file, "--data", elsewhere)
    assert "does not exist" in refused("arc", "score", tmp_path / "none.jsonl", "--data", tasks)
    assert "does not exist" in refused("arc", "score", file, "--data", tmp_path / "none")
    assert "give one each" in refused("arc", "score", file, "--data", tasks, "--weights", 1, 2)
    (tmp_path / "s.json").write_text('{"t9": [{"attempt_1": [[1]]}]}')
    assert "task t9, test 0 is not in" in refused("arc", "score", tmp_path / "s.json", "--data", tasks)
