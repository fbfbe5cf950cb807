"""Finding runs and telling how far they have come."""

import json

import pytest

from tests import tiny
from trm_jax.configs.runs import find_runs, open_run
from trm_jax.configs.workdir import claim


def make_run(workdir, *records, total_steps=None, changes=None):
    with claim(workdir, tiny.page(changes)):
        pass
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    if total_steps is not None:
        (workdir / "run.json").write_text(json.dumps({"total_steps": total_steps}))
    return workdir


def train(step):
    return {"kind": "train", "step": step}


def evaluation(step):
    return {"kind": "eval", "step": step, "exact_accuracy": 0.5, "count": 8}


@pytest.mark.parametrize(
    "records, total_steps, expected",
    [
        ([], None, (False, 0, 0)),
        ([], 12, (False, 0, 12)),
        ([train(2), evaluation(6), train(8)], 12, (False, 8, 12)),
        ([train(12)], 12, (False, 12, 12)),  # killed within its last evaluation
        ([train(12), evaluation(12)], 12, (True, 12, 12)),
    ],
)
def test_how_far_a_run_is(tmp_path, records, total_steps, expected):
    run = open_run(make_run(tmp_path, *records, total_steps=total_steps))
    assert (run.done, run.step, run.total_steps) == expected


def test_runs_are_found_at_any_depth_but_not_inside_runs(tmp_path):
    for path, seed in (("b", 1), ("a/x/seed1", 2), ("a/x/seed0", 3)):
        make_run(tmp_path / path, changes={"seed": seed})
    (tmp_path / "a" / "notes").mkdir()
    make_run(tmp_path / "b" / "checkpoints" / "copy")
    found = find_runs(tmp_path, pytest.fail)
    assert [(str(run.path.relative_to(tmp_path)), run.seed) for run in found] == [
        ("a/x/seed0", 3), ("a/x/seed1", 2), ("b", 1),
    ]  # fmt: skip
    assert [run.name for run in found] == ["demo"] * 3 and found[0].config.data.size == 4
    assert find_runs(tmp_path / "nowhere", pytest.fail) == []


@pytest.mark.parametrize(
    "file, content, said",
    [
        ("config.json", "{", "config.json is not JSON"),
        ("config.json", '{"model": {"hidden": 3}}', "unknown setting 'model.hidden'"),
        ("run.json", "{", "run.json is not JSON"),
        ("run.json", "[]", "run.json does not describe a run"),
        ("metrics.jsonl", "no\n{}\n", "metrics.jsonl line 1 is no record"),
    ],
)
def test_a_run_that_cannot_be_read_is_named_and_the_others_are_found(tmp_path, file, content, said):
    broken = make_run(tmp_path / "broken")
    make_run(tmp_path / "good")
    (broken / file).write_text(content)
    problems = []
    assert [run.path.name for run in find_runs(tmp_path, problems.append)] == ["good"]
    assert [str(broken) in str(problem) and said in str(problem) for problem in problems] == [True]
