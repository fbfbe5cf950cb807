"""What runs have cost: from their files, from a driver's counters, at prices."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from trm_jax.cli.main import main
from trm_jax.configs.runs import open_run
from trm_jax.errors import InputError
from trm_jax.planning import find
from trm_jax.planning.cost import PUBLISHED, cost, score
from trm_jax.storage.paths import append_line
from trm_jax.train.clock import KINDS
from trm_jax.train.meter import Meter

GPU = "NVIDIA H100 80GB HBM3"


def made(folder: Path, *, seconds=3600.0, devices=2, kind=GPU, costs=(), evals=(), test_set="evaluation") -> Path:
    """A run that has trained for so long, and what was done with it after."""
    folder.mkdir()
    page = {"name": "arc_transformer_low", "seed": 1, "data": {"task": "pairs", "test_set": test_set}}
    page |= {"model": {"family": "arc_transformer"}, "train": {"steps": 10}}
    (folder / "config.json").write_text(json.dumps(page))
    facts = {"headline": "exact_accuracy", "total_steps": 10, "devices": devices, "device_kind": kind}
    (folder / "run.json").write_text(json.dumps(facts))
    spent = {**dict.fromkeys(KINDS, 0.0), "train": seconds - 100, "lost": 100.0, "down": 1e6}
    (folder / "goodput.json").write_text(json.dumps({"seconds": spent, "lives": 1, "updated_unix_s": 1.0}))
    record = {"kind": "eval", "step": 10, "exact_accuracy": 0.25, "count": 4}
    (folder / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    for name, lines in (("costs.jsonl", costs), ("evals.jsonl", evals)):
        if lines:
            (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def line(what="eval", seconds=60.0, devices=2, device_kind=GPU, **more) -> dict:
    return {"what": what, "seconds": seconds, "devices": devices, "device_kind": device_kind, **more}


def test_training_what_was_lost_and_answers_count(tmp_path):
    """Each part at the price of its own devices; what a kill or an older run did not write is filled up."""
    costs = [line("train", 1800.0), line(), line(seconds=30.0, devices=1)]
    found = cost(open_run(made(tmp_path / "run", costs=costs)))
    assert (found.device_s(training=True), found.device_s(training=False)) == (7200.0, 150.0), "not between two lives"
    assert found.dollars() == pytest.approx(3.89 * 7350 / 3600), "of the table's H100"
    assert found.dollars(per_hour=1.0) == pytest.approx(7350 / 3600)
    assert found.dollars(find("2xa100")) == pytest.approx(3.58 / 2 * 7350 / 3600), "whose price is of two"
    assert found.joules is None, "no driver told"
    moved = [line("train", 3600.0, devices=8), line(device_kind="NVIDIA GeForce RTX 4090", devices=1, seconds=3600.0)]
    found = cost(open_run(made(tmp_path / "moved", devices=1, kind="cpu", costs=moved)))
    assert found.dollars() == pytest.approx(8 * 3.89 + 0.74) and found.devices == f"8 x {GPU}"


def test_energy_counts_where_all_of_it_was_told(tmp_path):
    told = [line("train", 3600.0, joules=3e6), line(joules=6e5)]
    assert cost(open_run(made(tmp_path / "all", costs=told))).joules == 3.6e6
    assert cost(open_run(made(tmp_path / "some", costs=[*told, line()]))).joules is None
    assert cost(open_run(made(tmp_path / "answers", costs=told[1:]))).joules is None
    assert cost(open_run(made(tmp_path / "half", costs=[line("train", 60.0, joules=3e4)]))).joules is None


def test_a_price_that_nobody_knows(tmp_path):
    assert cost(open_run(made(tmp_path / "run", kind="cpu"))).dollars() is None


def test_the_score_is_that_of_the_votes(tmp_path):
    run = made(tmp_path / "run", evals=[{"kind": "answers", "step": 10, "pass@2": 0.5}, {"kind": "eval", "step": 10}])
    assert score(open_run(run)) == ("pass@2", 0.5)
    assert score(open_run(made(tmp_path / "other"))) == ("exact_accuracy", 0.25)


def test_damaged_lines(tmp_path):
    run = made(tmp_path / "run", costs=[line()])
    file = run / "costs.jsonl"
    file.write_text(file.read_text() + '{"what": "ev')
    append_line(file, json.dumps(line()))
    assert cost(open_run(run)).device_s(training=False) == 240.0, "a kill has cut the second one"
    append_line(file, '{"what": "eval"}')
    with pytest.raises(InputError, match="costs.jsonl, line 4: it does not say what was spent; remove the line"):
        cost(open_run(run))
    for name in ("costs.jsonl", "goodput.json"):
        (run / name).unlink()
    with pytest.raises(InputError, match="has cost nothing yet: it has not begun"):
        cost(open_run(run))
    (run / "costs.jsonl").write_text(json.dumps(line()) + "\n")
    assert cost(open_run(run)).device_s() == 120.0, "an imported run has been used only"


def test_the_table_and_the_picture(tmp_path, capsys, monkeypatch):
    """Published points stand beside runs on the evaluation set only."""
    evals = [{"kind": "answers", "step": 10, "pass@2": 0.3}]
    low = made(tmp_path / "low", evals=evals)
    small = made(tmp_path / "small", evals=evals, test_set="training", kind="cpu")
    with (low / "evals.jsonl").open("a") as file:
        file.write('{"kind": "ans')  # a kill
    assert main(["cost", str(low), str(small)]) == 0
    said = capsys.readouterr().out
    assert "pass@2 0.3000" in said and "7.78" in said and "give one with --price or --device" in said
    drawn = []
    from trm_jax.reports import pictures

    monkeypatch.setattr(pictures, "panels_png", lambda panels, title="": drawn.append(panels) or b"png")
    for number, runs in enumerate(([low], [tmp_path])):
        words = ["cost", *map(str, runs), "--price", "2", "--picture", str(tmp_path / f"{number}.png")]
        assert main(words) == 0
    (alone,), (both,) = drawn
    assert [series.names for series in alone.series] == [[str(low)], list(PUBLISHED)]
    assert alone.series[0].x == [4.0] and "claims" in alone.series[1].label
    assert [series.names for series in both.series] == [[str(low), str(small)]]
    for words, wanted in (
        (["--picture", str(tmp_path / "0.png")], "0.png exists"),
        (["--device", "h99"], "no device 'h99'"),
        ([str(tmp_path / "nothing")], "nothing holds no run"),
    ):
        assert main(["cost", str(low), *words]) == 2
        assert wanted in capsys.readouterr().err


_DRIVER = """
#include <string.h>
static unsigned long long millijoules[2] = {5000, 70000};
int nvmlInit_v2(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = millijoules + index; return index > 1; }
int nvmlDeviceGetHandleByUUID(const char *uuid, void **handle)
{ *handle = millijoules + 1; return strcmp(uuid, "GPU-two"); }
int nvmlDeviceGetTotalEnergyConsumption(void *device, unsigned long long *energy)
{ *energy = *(unsigned long long *)device; return 0; }
"""


@pytest.mark.skipif(shutil.which("gcc") is None, reason="a library in the driver's place needs a compiler")
@pytest.mark.parametrize(
    ("visible", "wanted"), [(None, "75.0"), ("1", "70.0"), ("GPU-two", "70.0"), ("", "None"), ("7", "None")]
)
def test_energy_of_the_gpus_that_one_may_use(tmp_path, visible, wanted):
    (tmp_path / "driver.c").write_text(_DRIVER)
    library = tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, tmp_path / "driver.c"], check=True)
    env = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    env |= {"LD_LIBRARY_PATH": str(tmp_path)} | ({} if visible is None else {"CUDA_VISIBLE_DEVICES": visible})
    ask = [sys.executable, "-c", "from trm_jax.train.meter import joules; print(joules())"]
    done = subprocess.run(ask, env=env, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == wanted


def test_an_evaluation_is_counted(tmp_path, monkeypatch):
    """Once a minute and at the end, in seconds of the devices that are there."""
    from trm_jax.train import meter

    now = iter([0.0, 30.0, 61.0, 61.0, 70.0])
    monkeypatch.setattr(meter.time, "monotonic", lambda: next(now))
    one = meter.Meter(tmp_path, "eval", devices=3)
    one.tick()
    assert not (tmp_path / meter.COSTS_FILE).exists()
    one.tick()
    one.close()
    lines = [json.loads(text) for text in (tmp_path / meter.COSTS_FILE).read_text().splitlines()]
    assert all("joules" not in line for line in lines), "it is no GPU that computes"
    assert [line["seconds"] for line in lines] == [61.0, 9.0] and lines[0]["devices"] == 3


def test_a_file_that_cannot_be_written_ends_nothing(tmp_path):
    said = []
    (tmp_path / "costs.jsonl").mkdir()
    one = Meter(tmp_path, "train", said.append)
    one.close()
    one.close()
    assert len(said) == 1 and said[0].startswith("note: what this costs is not counted: ")
