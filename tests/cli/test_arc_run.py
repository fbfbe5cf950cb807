"""From tasks to a score by one command, stopped and gone on with."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.cli.test_arc_transformer import SMALL
from tests.tasks.pairs.test_pairs import write_set
from trm_jax.tasks.arc import predictions


@pytest.fixture
def data(tmp_path):
    write_set(tmp_path / "arc" / "a", 5, side=4)
    write_set(tmp_path / "arc" / "b", 3, seed=1, side=4)
    return tmp_path / "arc"


def settings(**changes) -> list[str]:
    return ["--set", *(f"{key}={value}" for key, value in {**SMALL, **changes}.items())]


def test_from_tasks_to_a_score(trm, data, tmp_path):
    """Again with another seed: nothing is done twice, and their votes are pooled."""
    words = ["arc", "run", "--preset", "high", "--data", data, "--output", tmp_path / "out", *settings(), "--drafts"]
    result = trm.run(*words, "--seeds", "1")
    assert result.code == 0, result.err
    assert "mean over tasks (ARC Prize, TRM)" in result.out and "device-hours" in result.out
    made = {path.name for path in (tmp_path / "out").iterdir()}
    assert made == {"seed_1", "predictions.jsonl", "submission.json", "gallery.html"}
    assert len(json.loads((tmp_path / "out" / "submission.json").read_text())) == 5
    answers = (tmp_path / "out" / "seed_1" / "evals.jsonl").read_text()
    result = trm.run(*words, "--seeds", "1", "2")
    assert result.code == 0, result.err
    assert result.err.count("$ trm eval") == 1 and (tmp_path / "out" / "seed_1" / "evals.jsonl").read_text() == answers
    pooled, _ = predictions.read(tmp_path / "out" / "predictions.jsonl")
    assert len(pooled.member.settings["members"]) == 2
    assert result.err.endswith(f"--picture {tmp_path / 'out' / 'cost.png'}\n")


@pytest.mark.slow
def test_a_stop_stops_its_stage(data, compilations, tmp_path):
    """SIGTERM: the training saves, 75; the same command goes on from there to the end."""
    folder = tmp_path / "out"
    command = [sys.executable, "-m", "trm_jax", "arc", "run", "--preset", "high", "--data", data, "--output", folder]
    command += settings(**{"train.steps": 600, "eval.every_steps": 600, "checkpoint.every_steps": 20})
    how = {"text": True, "cwd": tmp_path, "env": {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(compilations)}}
    stage = subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, **how)
    ends = time.monotonic() + 300
    while not list(folder.glob("seed_42/checkpoints/[0-9]*")) and time.monotonic() < ends:
        time.sleep(0.2)
    stage.send_signal(signal.SIGTERM)
    _, said = stage.communicate(timeout=120)
    assert stage.returncode == 75, said
    assert list(folder.glob("seed_42/checkpoints/[0-9]*")) and not (folder / "predictions.jsonl").exists()
    done = subprocess.run(list(map(str, command)), capture_output=True, **how)
    assert done.returncode == 0 and "going on from step" in done.stderr, done.stderr
    assert json.loads((folder / "seed_42" / "goodput.json").read_text())["lives"] == 2


def test_what_is_wrong_is_said_before_anything_is_trained(refused, data, tmp_path):
    said = refused("arc", "run", "--preset", "hihg", "--data", data)
    assert said.startswith("there is no preset 'hihg'; take one of ") and "low" in said
    said = refused("arc", "run", "--preset", "high", "--data", data, "--set", "data.path=elsewhere")
    assert said == "--set data.path: the sets lie in --data; name the folder there"
    said = refused("arc", "run", "--preset", "high", "--data", data, "--set", "data.train_sets=a,c", "data.test_set=a")
    assert said.startswith(f"{data / 'c'} does not exist, and c is none of the public sets: training, evaluation")
    assert not (tmp_path / "runs").exists()
