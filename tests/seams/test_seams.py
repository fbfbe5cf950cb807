"""A task and a family that stand in no file of the package train, resume, are scored, planned, shown and asked."""

import json

import numpy as np
import pytest

from tests import tiny
from tests.processes import Server
from tests.seams import toy

TOY = {
    "data.task": "tests.seams.toy:REVERSAL",
    "model.family": "tests.seams.toy:mixer",
    "train.batch_size": 8,
    "train.steps": 400,
    "eval.every_steps": 200,
    "eval.batch_size": 8,
    "checkpoint.every_steps": 40,
    "log.every_steps": 20,
    "optim.lr": 0.01,
    "optim.warmup_steps": 10,
    "optim.weight_decay": 0.0,
    "optim.ema_decay": 0.9,
    "optim.table_lr": 1e-3,
    "optim.table_weight_decay": 0.0,
    "data.rows": 600,
}


def settings(**changes) -> list[str]:
    return ["--set", *(f"{key}={value}" for key, value in (TOY | changes).items())]


@pytest.fixture(scope="session")
def trm(tmp_path_factory, compilations):
    server = Server(tmp_path_factory.mktemp("processes"), compilations)
    yield server
    server.close()


@pytest.fixture(scope="module")
def run(trm, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("toy") / "run"
    result = trm.run("train", "demo", "--workdir", workdir, *settings())
    assert result.code == 0, result.err
    assert "held-out reversed 1.0000 on 10 puzzles" in result.out
    return workdir


def test_it_learns_and_its_headline_picks_the_best_checkpoint(run):
    evaluations = tiny.records(run, "eval")
    assert evaluations[-1]["reversed"] == 1.0 and "exact_accuracy" not in evaluations[-1]
    assert json.loads((run / "run.json").read_text())["headline"] == "reversed"
    assert {record["step"] for record in evaluations if record["reversed"] == 1.0} & set(tiny.steps(run))


def test_a_killed_run_goes_on_bit_for_bit(run, trm, tmp_path):
    process = trm.start("train", "demo", "--workdir", tmp_path / "run", *settings())
    metrics = tmp_path / "run" / "metrics.jsonl"
    assert process.until(lambda: metrics.exists() and metrics.read_text().count("\n") >= 6), process.wait().err
    process.kill()
    assert process.wait().code == -9
    again = trm.run("train", "demo", "--workdir", tmp_path / "run", *settings())
    assert again.code == 0 and "going on from step" in again.err
    tiny.assert_same_end(run, tmp_path / "run")


def test_it_is_scored_solved_shown_and_planned(run, trm):
    scored = trm.run("eval", run)
    assert scored.code == 0 and "reversed         1.0000  on 10 puzzles" in scored.out, scored.err
    solved = trm.run("solve", run, "0123")
    assert solved.code == 0 and "0123 -> 3210" in solved.out, solved.err
    refused = trm.run("solve", run, "01234")
    assert refused.code == 2 and "a row has 4 digits" in refused.err
    drawn = trm.run("solve", run, "0123", "--png", run / "x.png")
    assert drawn.code == 2 and "draws no pictures" in drawn.err
    shown = trm.run("show", "demo", *settings())
    assert shown.code == 0 and "model.width" in shown.out and "model.hidden_size" not in shown.out, shown.out
    planned = trm.run("plan", "demo", *settings())
    assert planned.code == 0 and "400" in planned.out, planned.err


def test_settings_of_another_task_are_unknown(trm):
    result = trm.run("show", "demo", *settings(**{"data.size": 4}))
    assert result.code == 2 and "unknown setting 'data.size'" in result.err
    curriculum = trm.run("plan", "demo", *settings(**{"train.curriculum_epochs": 4}))
    assert curriculum.code == 2 and "this model has no cycles" in curriculum.err
    missing = trm.run("show", "demo", "--set", "data.task=chess")
    assert missing.code == 2 and "choose one of sudoku" in missing.err


@pytest.mark.parametrize("devices, mesh", [(8, {}), (8, {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2})])
def test_a_table_whose_rows_do_not_divide_is_padded_shared_and_trained_alike(tmp_path, devices, mesh):
    """300 ids: 512 rows, 64 for each of 8 devices. Losses of few steps are alike within float32 rounding."""
    changes = TOY | {"train.steps": 12, "eval.every_steps": 6, "checkpoint.every_steps": 3, "log.every_steps": 2}
    tiny.train_here(tmp_path / "one", changes)
    tiny.train_here(tmp_path / "split", changes | mesh, devices=devices)
    whole, split = (tiny.state(tmp_path / name, 12)["params/rows"] for name in ("one", "split"))
    assert whole.shape == split.shape == (512, 16)
    touched = np.abs(whole).max(1) > 0
    assert 0 < touched.sum() <= 96  # of 12 batches of 8
    np.testing.assert_array_equal(np.abs(split).max(1) > 0, touched)
    # A sign that rounding decides costs two steps of the rate; few are like that.
    assert np.mean(np.abs(split - whole) > 1e-6) < 0.01
    for one, other in zip(tiny.records(tmp_path / "one"), tiny.records(tmp_path / "split"), strict=True):
        assert other == {k: pytest.approx(v, rel=1e-4, abs=1e-5) if isinstance(v, float) else v for k, v in one.items()}


def test_a_split_table_goes_on_on_another_number_of_devices(tmp_path):
    changes = TOY | {"train.steps": 12, "eval.every_steps": 12, "checkpoint.every_steps": 3, "log.every_steps": 2}
    tiny.train_here(tmp_path, changes, devices=8, stop=tiny.StopAfter(tmp_path, 3))
    reached = tiny.steps(tmp_path)[-1]
    before = tiny.state(tmp_path, reached)
    lines = []
    assert tiny.train_here(tmp_path, changes, devices=2, lines=lines).step == 12
    assert any(line.startswith(f"going on from step {reached}") for line in lines)
    untouched = np.abs(tiny.state(tmp_path, 12)["params/rows"]).max(1) == 0
    np.testing.assert_array_equal(before["params/rows"][untouched], 0.0)
    assert toy.ReversalConfig().ids == 300


def test_a_family_that_answers_at_once_has_no_steps_to_stop_at(run, trm):
    for how in (["--stop-at", "q"], ["--diagnose"]):
        result = trm.run("eval", run, *how)
        assert result.code == 2 and result.error_lines == [result.err.splitlines()[-1]], result.err
        said = "model.family=tests.seams.toy:mixer answers at once, in no steps; leave it out"
        assert f"error: {how[0]}: {said}" in result.err
