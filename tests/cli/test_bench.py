"""`trm bench`: what it prints and writes, never how fast a machine is."""

import json

from trm_jax.bench import against
from trm_jax.bench.shapes import SHAPES

TINY = ["model.hidden_size=32", "model.num_heads=2", "model.puzzle_emb_ndim=32", "train.batch_size=4"]
TINY += ["eval.batch_size=4", "model.halt_max_steps=2", "model.L_cycles=1"]


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


def test_floors_are_shown_without_a_device(here):
    done = here("bench", "baseline_768", "--floor", "h200")
    assert done.code == 0 and "token products" in done.out and "MFU" in done.out
    done = here("bench", "--floor", "h200", "v4-8")
    assert done.code == 0 and all(name in done.out for name in SHAPES)


def test_another_family_has_a_floor_too(here):
    """One that does not say its parts has its FLOPs."""
    ours = ["data.task=tests.seams.toy:REVERSAL", "model.family=tests.seams.toy:mixer"]
    done = here("bench", "demo", "--floor", "h200", "--set", *ours)
    assert done.code == 0 and "optimiser" in done.out and "all" in done.out, done.err


def test_wrong_words_are_one_line(refused, tmp_path):
    assert "there is no folder" in refused("bench", "demo", "--json", str(tmp_path / "no" / "x.json"))
    (tmp_path / "x.json").write_text("{}")
    assert "is not a result of trm bench" in refused("bench", "demo", "--against", str(tmp_path / "x.json"))
    assert "Did you mean" in refused("bench", "baselin")
    assert "no device" in refused("bench", "demo", "--floor", "h20")
