"""`trm eval` as a search: table, picture, record, and what is refused."""

import json
import re
import shutil
import signal

import pytest

from tests import tiny


@pytest.fixture
def run(solver, tmp_path):
    shutil.copytree(solver.workdir, tmp_path / "run", ignore=shutil.ignore_patterns("evals.jsonl"))
    return tmp_path / "run"


def record(run) -> dict:
    (added,) = (json.loads(line) for line in (run / "evals.jsonl").read_text().splitlines())
    return added


def test_several_depths_are_a_sweep_of_plain_inference(trm, run):
    result = trm.run("eval", run, "--steps", "1,3,6")
    assert result.code == 0, result.err
    added, last = record(run), tiny.records(run, "eval")[-1]
    assert [(row["steps"], row["rollouts"]) for row in added["table"]] == [(1, 1), (3, 1), (6, 1)]
    assert added["table"][1]["q"] == added["table"][1]["vote"] == last["exact_accuracy"]  # 3 are its own
    assert added["kind"] == "search" and added["count"] == last["count"] and added["eval_set"] == last["eval_set"]
    assert last["exact_accuracy"] not in (0, added["table"][0]["q"])  # it learned, and to take more than one step
    assert (run / "search.png").read_bytes().startswith(b"\x89PNG")
    lines = [line.split() for line in result.out.splitlines()]
    assert ["3", "1", f"{last['exact_accuracy']:.4f}"] in [line[:3] for line in lines]
    assert re.search(rf"^exact accuracy +{added['score']:.4f}  \[.*\]  on 40 puzzles; 36 calls", result.out, re.M)


def test_rollouts_and_their_selections(trm, run):
    how = ["--rollouts", 3, "--noise", 0.5, "--noise-on", "both", "--last-quiet", "--symmetries", "--steps", "2"]
    result = trm.run("eval", run, *how, "--select", "valid", "--batch-size", 16, "--max-examples", 37)
    assert result.code == 0, result.err
    added = record(run)
    assert added["count"] == 37 and added["noise_on"] == ["z_H", "z_L"] and added["select"] == "valid"
    assert [row["rollouts"] for row in added["table"]] == [1, 2, 3]
    for row in added["table"]:
        # A valid board of these is the right one: the puzzles have one solution.
        assert row["valid"] == pytest.approx(1 - row["abstained"]) and row["where_valid"] == 1
        assert max(row[rule] for rule in ("q", "vote", "residual")) <= row["valid"] + 1e-9
    assert added["table"][-1]["any"] == pytest.approx(added["score"]) and added["score"] > 0.5
    head = "3 rollouts of 2 supervision steps, noise 0.5 on z_H, z_L but before the last step, in different forms"
    assert head in result.out.splitlines()[0]
    assert re.search(rf"^exact accuracy +{added['score']:.4f} by valid", result.out, re.M)


def test_a_search_that_was_interrupted_goes_on(trm, run):
    """A signal during the second batch or a later one loses no more than that."""
    how = "eval", run, "--rollouts", 4, "--symmetries", "--steps", "2,96", "--batch-size", 2
    assert trm.run(*how).code == 0
    whole = record(run)

    def a_batch_is_kept() -> bool:
        # Of a file that is only made, nothing is kept yet.
        return any(file.stat().st_size for file in run.glob("search-*.jsonl"))

    for _ in range(3):  # on a busy machine the signal may come when all is done
        (run / "evals.jsonl").unlink()
        process = trm.start(*how)
        process.until(a_batch_is_kept)
        process.signal(signal.SIGINT)
        stopped = process.wait()
        if any(run.glob("search-*.jsonl")):
            break
    assert stopped.code == 130 and stopped.err.endswith("interrupted\n"), stopped.err
    (kept,) = run.glob("search-*.jsonl")
    result = trm.run(*how)
    assert result.code == 0 and f"of 20 batches are in {kept}" in result.err, result.err
    assert record(run)["table"] == whole["table"]  # bit for bit
    assert not kept.exists()


def test_a_note_on_bfloat16_beyond_the_trained_depth(trm, run):
    """Of a plain evaluation too, and with another dtype than that of training."""
    result = trm.run("eval", run, "--steps", 4, "--max-examples", 8, "--set", "model.dtype=bfloat16")
    assert result.code == 0, result.err
    assert "note: 4 steps in bfloat16, and it was trained with 3: roundings may add up" in result.err
    assert record(run)["exact_accuracy"] > 0.5  # it is the trained model


@pytest.mark.parametrize(
    "argv, words",
    [
        (["--steps", "0"], "argument --steps: '0' is not a whole number of at least 1"),
        (["--steps", "4,2"], "argument --steps: '4,2' does not ascend"),
        (["--steps", "4,x"], "argument --steps: 'x' is not a whole number"),
        (["--rollouts", "0"], "argument --rollouts: '0' is not a whole number of at least 1"),
        (["--noise", "-1"], "argument --noise: -1 is no standard deviation"),
        (["--noise", "nan"], "argument --noise: nan is no standard deviation"),
        (["--noise", "loud"], "argument --noise: invalid strength value: 'loud'"),
        (["--select", "best"], "argument --select: invalid choice: 'best'"),
        (["--noise-on", "z_H"], "--noise-on says where noise goes, and there is none"),
        (["--select", "vote"], "--select vote chooses among rollouts; add --rollouts 8"),
        (["--rollouts", 4, "--checkpoints", 1, 2], "--checkpoints does not go with --rollouts"),
    ],
)
def test_options_that_are_wrong(refused, argv, words):
    assert refused("eval", "nowhere", *argv).startswith(words)


def test_rollouts_that_would_not_differ(trm, run):
    result = trm.run("eval", run, "--rollouts", 4)
    assert result.code == 2
    assert result.err == "error: only 1 of 4 rollouts would differ; add --noise 0.3, or --symmetries\n"
    assert not (run / "evals.jsonl").exists()
