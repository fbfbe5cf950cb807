"""`trm eval`: figures of a run, and where they are written."""

import json
import re
import shutil

import pytest

from tests import tiny


@pytest.fixture
def run(solver, tmp_path):
    shutil.copytree(solver.workdir, tmp_path / "run", ignore=shutil.ignore_patterns("evals.jsonl"))
    return tmp_path / "run"


def figures(out: str) -> dict[str, float]:
    return {name: float(value) for name, value in re.findall(r"^(\w+ accuracy) +([\d.]+)", out, re.MULTILINE)}


def test_it_repeats_the_runs_last_evaluation(trm, run):
    result = trm.run("eval", run)
    assert result.code == 0, result.err
    last = tiny.records(run, "eval")[-1]
    (added,) = (json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines())
    assert added == {**last, "weights": "ema", "supervision_steps": 3}
    assert result.out.startswith(f"checkpoint 200 of {run}, ema weights, 3 supervision steps\n")
    assert f"on {last['count']} puzzles" in result.out
    assert figures(result.out)["exact accuracy"] == pytest.approx(last["exact_accuracy"], abs=5e-5)  # four places


@pytest.mark.slow
def test_what_can_be_chosen(trm, run):
    """Another checkpoint, the live weights, fewer puzzles, other batches, more steps."""
    first, best = tiny.records(run, "eval")[0], max(tiny.records(run, "eval"), key=lambda r: r["exact_accuracy"])
    for argv, expected in (
        (["--checkpoint", 100], {"step": 100, "exact_accuracy": first["exact_accuracy"]}),
        (["--checkpoint", "best"], {"exact_accuracy": best["exact_accuracy"]}),
        (["--live"], {"weights": "live", "step": 200}),
        (["--max-examples", 7], {"count": 7}),
        (["--batch-size", 16], {"count": 40}),
        (["--steps", 5], {"supervision_steps": 5, "steps": 5.0}),
        (["--set", "data.test_puzzles=9"], {"count": 9}),
    ):
        assert trm.run("eval", run, *argv).code == 0
        added = json.loads((run / "evals.jsonl").read_text().splitlines()[-1])
        assert {name: added[name] for name in expected} == expected, argv
    assert len((run / "evals.jsonl").read_text().splitlines()) == 7
    whole = trm.run("eval", run)
    padded = trm.run("eval", run, "--batch-size", 16)
    assert figures(whole.out) == figures(padded.out)


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--checkpoint", 150], "no checkpoint '150' in .*; there are 100, 200"),
        (["--set", "eval.max_examples=-1"], "eval.max_examples is -1"),
        (["--set", "data.sise=9"], "unknown setting 'data.sise'. Did you mean data.size"),
        (["--set", "data.size=9"], "--set makes this another model than the one trained in .*"),
    ],
)
def test_what_cannot(trm, run, argv, words):
    result = trm.run("eval", run, *argv)
    assert result.code == 2 and len(result.err.splitlines()) == 1, result.err
    assert re.match(f"error: {words}", result.err), result.err
    assert not (run / "evals.jsonl").exists()
