"""`trm bench`: what it prints and writes, never how fast a machine is."""

import importlib.util
import json

import pytest

from trm_jax.bench import against
from trm_jax.bench.shapes import DEFAULT

TINY = ["model.hidden_size=32", "model.num_heads=2", "model.puzzle_emb_ndim=32", "train.batch_size=4"]
TINY += ["eval.batch_size=4", "model.halt_max_steps=2", "model.L_cycles=1"]
WRITER = ["model.hidden_size=24", "model.num_heads=2", "model.layers=1", "model.ff_size=16", "eval.batch_size=4"]


def test_the_command(trm, tmp_path):
    """Every figure of a tiny model is measured or said to be left out; compared with itself nothing has changed."""
    file = tmp_path / "a.json"
    done = trm.run("bench", "sudoku4", "--minutes", "0.3", "--json", file, "--set", *TINY)
    assert done.code == 0, done.err
    results = json.loads(file.read_text())
    found = results["runs"]["sudoku4"]
    # On a machine that does other things the time may not do for all.
    kinds = {"train", "evaluate", "solve 1", "solve 64", "read a batch", "start"}
    assert "train" in found and found.keys() | {line.split(": ")[1] for line in results["left_out"]} == kinds
    for figure in found.values():
        s = figure["seconds"]
        assert 0 < s["q1"] <= s["median"] <= s["q3"] and s["n"] >= 1
    assert found["train"]["floor_s"] > 0 and found["train"]["program_bytes"] > 0
    assert all(kind in done.out for kind in found)
    (change, *_) = against.changes(json.loads(file.read_text()), against.read(file))
    assert change.verdict == "" and change.before == change.now


@pytest.mark.slow
def test_a_model_that_writes(trm, tmp_path):
    """Training and writing, beside PyTorch where it is installed; were the two not alike, there would be errors."""
    file, compare = tmp_path / "a.json", ["--compare", "torch"] * bool(importlib.util.find_spec("torch"))
    done = trm.run("bench", "arc_transformer", "--minutes", "0.3", *compare, "--json", file, "--set", *WRITER)
    assert done.code == 0, done.err
    assert "note: arc_transformer is too large for a CPU; arc_transformer_small stands for it" in done.err
    results = json.loads(file.read_text())
    found = results["runs"]["arc_transformer_small"]
    kinds = {"train", "evaluate", "write", "read a batch", "start"}
    kinds |= {"train, PyTorch", "write, PyTorch"} if compare else set()
    assert found.keys() | {line.split(": ")[1] for line in results["left_out"]} == kinds
    assert "train" in found and not any("error" in figure for figure in found.values()), found
    if "write" in found:
        assert found["write"]["tokens"] == 4 * 64 and found["write"]["floor_s"] > 0
        assert " tokens" in done.out and "of_product" not in found["write"]


def test_floors_are_shown_without_a_device(here):
    done = here("bench", "baseline_768", "--floor", "h200")
    assert done.code == 0 and "token products" in done.out and "MFU" in done.out
    done = here("bench", "--floor", "h200", "v4-8")
    assert done.code == 0 and all(name in done.out for name in DEFAULT)


def test_another_family_has_a_floor_too(here):
    """One that does not say its parts has its FLOPs."""
    ours = ["data.task=tests.seams.toy:REVERSAL", "model.family=tests.seams.toy:mixer"]
    done = here("bench", "demo", "--floor", "h200", "--set", *ours)
    assert done.code == 0 and "optimiser" in done.out and "model" in done.out, done.err


def test_wrong_words_are_one_line(refused, tmp_path):
    assert "there is no folder" in refused("bench", "demo", "--json", str(tmp_path / "no" / "x.json"))
    (tmp_path / "x.json").write_text("{}")
    assert "is not a result of trm bench" in refused("bench", "demo", "--against", str(tmp_path / "x.json"))
    assert "Did you mean" in refused("bench", "baselin")
    assert "no device" in refused("bench", "demo", "--floor", "h20")
