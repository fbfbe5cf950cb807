"""What a person sees of a sweep."""

import json

import pytest

from trm_jax.configs.defaults import defaults
from trm_jax.sweep.run import DIVERGED, DONE, RUNNING, Run, counts, news


@pytest.fixture
def runs(tmp_path) -> list[Run]:
    """The first is done, the second is half way after 50 s, the third has not begun."""
    found = [Run(name, seed, tmp_path / name, defaults(), ()) for seed, name in enumerate(("first", "second", "third"))]
    for run, steps in zip(found, (100, 50), strict=False):
        run.folder.mkdir()
        (run.folder / "run.json").write_text(json.dumps({"total_steps": 100}))
        train = {"kind": "train", "step": steps, "loss": 1.0, "clock": {"elapsed_s": float(steps)}}
        score = {
            "kind": "eval",
            "step": steps,
            "exact_accuracy": steps / 1000,
            "count": 8,
            "clock": {"elapsed_s": float(steps)},
        }
        (run.folder / "metrics.jsonl").write_text(f"{json.dumps(train)}\n{json.dumps(score)}\n")
    for run in found:
        run.look()
    found[0].state, found[1].state = DONE, RUNNING
    return found


def progress(run: Run) -> tuple:
    return run.step, run.total_steps, run.score, run.left_s


def test_progress_is_read_from_the_folder(runs):
    assert [progress(run) for run in runs] == [(100, 100, 0.1, 0.0), (50, 100, 0.05, 50.0), (0, 0, None, None)]


def test_a_folder_that_cannot_be_read_has_no_progress(runs):
    (runs[0].folder / "run.json").write_text("{")
    (runs[1].folder / "metrics.jsonl").write_text("rubbish\n{}\n")
    for run in runs[:2]:
        fresh = Run(run.name, 0, run.folder, run.config, ())
        fresh.look()
        assert progress(fresh) == (0, 0, None, None)


def test_counts(runs):
    assert counts(runs) == "1 of 3 done, 1 running, 1 waiting"
    runs[2].state = DIVERGED
    assert counts(runs) == "1 of 3 done, 1 running, 1 diverged"


def test_a_line_while_it_works(runs):
    assert news(runs) == "1 of 3 done, 1 running, 1 waiting; second step 50/100, exact accuracy 0.0500, 0:50 left"
