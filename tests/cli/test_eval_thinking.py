"""`trm eval --stop-at` and `--diagnose`: what they print and leave, and what cannot be asked."""

import json
import re
import shutil

import pytest

from tests import tiny
from trm_jax.configs.runs import open_run
from trm_jax.planning import cost


@pytest.fixture
def run(solver, tmp_path):
    shutil.copytree(solver.workdir, tmp_path / "run", ignore=shutil.ignore_patterns("evals.jsonl"))
    return tmp_path / "run"


def test_early_exit_scores_what_evaluation_says_of_it(trm, run):
    result = trm.run("eval", run, "--stop-at", "q", "--against-full", "--batch-size", 16)
    assert result.code == 0, result.err
    last = tiny.records(run, "eval")[-1]
    (record,) = (json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines())
    assert record["kind"] == "early_exit" and record["step"] == 200 and record["eval_set"] == last["eval_set"]
    assert record["scores"]["exact_accuracy"] == last["early_exit_exact_accuracy"]
    assert record["steps"] == pytest.approx(last["early_exit_steps"])
    assert record["full"]["score"] == last["exact_accuracy"] and record["full"]["seconds"] > 0
    assert record["never_stopped"] <= last["halt_steps"][-1] / last["count"]
    assert result.out.startswith(f"checkpoint 200 of {run}, ema weights, at most 3 supervision steps\n")
    assert re.search(rf"^exact accuracy   {record['scores']['exact_accuracy']:.4f}  on 40 puzzles$", result.out, re.M)
    assert re.search(r"^at all steps     exact accuracy [\d.]+, [\d.]+ s, [\d.]+ times as long$", result.out, re.M)
    assert cost.score(open_run(run)) == ("exact_accuracy", last["exact_accuracy"]), "it is no score of record"


def test_diagnostics_and_their_report(trm, run, tmp_path):
    result = trm.run("eval", run, "--diagnose", "--steps", 5)
    assert result.code == 0 and "note" not in result.err, result.err
    page = json.loads((run / "diagnostics.json").read_text())
    assert (run / "diagnostics.png").read_bytes().startswith(b"\x89PNG")
    last = tiny.records(run, "eval")[-1]
    assert page["by_step"]["score"][2] == pytest.approx(last["exact_accuracy"]), "after the trained number of steps"
    assert page["held_out"]["n"] == page["training"]["n"] == 40 and page["training"]["score"] > 0.9
    assert page["strata"].keys() == {"rating", "clues"} and not (run / "evals.jsonl").exists()
    assert re.search(rf"^exact accuracy   {page['held_out']['score']:.4f}  \[.*\] of 40 held-out", result.out, re.M)
    assert re.search(r"^q                calibration error [\d.]+, Brier [\d.]+, AUROC", result.out, re.M)
    result = trm.run("report", run, "--output", tmp_path / "page")
    assert result.code == 0, result.err
    assert "## What happens while it thinks" in (tmp_path / "page" / "selection.md").read_text()
    assert (tmp_path / "page" / "selection_diagnostics.png").exists()


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--against-full"], "--against-full compares with an evaluation that stops early; add --stop-at q"),
        (["--stop-at", "q", "--diagnose"], "argument --diagnose: not allowed with argument --stop-at"),
        (["--stop-at", "often"], "argument --stop-at: invalid choice: 'often'"),
        (["--stop-at", "q", "--checkpoints", "1", "2"], "--checkpoints does not go with --stop-at q; leave"),
        (["--diagnose", "--drafts"], "--drafts does not go with --diagnose; leave one of them out"),
    ],
)
def test_what_does_not_go_together(refused, argv, words):
    assert words in refused("eval", "nowhere", *argv)
