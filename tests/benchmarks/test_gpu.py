"""The command for a GPU at hand: it keeps to its time, loses nothing that was finished, and goes on from an export."""

import json
import subprocess
import sys
import time

import numpy as np
import pytest

from benchmarks import gpu, gpu_training
from tests import tiny
from tests.processes import ROOT

FAKE = """
import json, subprocess, sys, time
name, file = sys.argv[1], sys.argv[3]
with open(file, "w") as out:
    json.dump({"figure": name}, out)
if name == "golden":
    sys.exit("it broke")
if name in ("bench", "torch"):
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    time.sleep(60)
"""


@pytest.fixture
def fake_phases(tmp_path, monkeypatch):
    """Phases that only say their name; one fails, two hang with a child."""
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "__init__.py").touch()
    (tmp_path / "benchmarks" / "gpu_phases.py").write_text(FAKE)
    monkeypatch.setattr(gpu, "ROOT", tmp_path)
    return tmp_path


def test_shares_leave_nothing_over_and_give_on_what_is_not_used():
    order, left = list(gpu.PHASES), 540.0
    for name in order:
        left -= gpu.share(name, order, left)
    assert left == pytest.approx(0, abs=1e-9)
    assert gpu.share("train", order, 500.0) == 500.0
    assert gpu.share("rates", ["rates"], 60.0) == 60.0


def test_it_is_bounded_in_time_and_keeps_what_was_found(fake_phases, monkeypatch):
    monkeypatch.setattr(gpu, "_LEAST_S", 0.0)
    began = time.monotonic()
    code = gpu.main(["--minutes", "0.2", "--output", str(fake_phases / "out"), "--commit", "abc"])
    assert time.monotonic() - began < 12 + 8  # two phases are cut, each ends within seconds
    results = json.loads((fake_phases / "out" / "gpu.json").read_text())
    statuses = {name: phase["status"] for name, phase in results["phases"].items()}
    expected = dict.fromkeys(gpu.PHASES, "done") | {"golden": "failed", "bench": "cut", "torch": "cut"}
    assert (code, statuses, results["commit"]) == (1, expected, "abc")
    assert all(phase["figure"] == name for name, phase in results["phases"].items())
    assert "it broke" in results["phases"]["golden"]["said"]


@pytest.mark.parametrize(
    ("flag", "said"), [("--data", "holds no train.csv"), ("--carry-from", "holds no train.0 of an earlier --output")]
)
def test_a_folder_that_holds_nothing_is_one_line(flag, said, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        gpu.main(["--output", str(tmp_path / "out"), flag, str(tmp_path)])
    assert stopped.value.code == 2 and said in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_what_there_is_no_time_for_is_skipped(fake_phases):
    gpu.main(["--minutes", "0.01", "--output", str(fake_phases / "out"), "--only", "rates", "train"])
    phases = json.loads((fake_phases / "out" / "gpu.json").read_text())["phases"]
    assert phases == {"rates": {"status": "skipped"}, "train": {"status": "skipped"}}


@pytest.mark.slow
def test_an_export_goes_on(tmp_path, monkeypatch, compilations):
    """Weights, averages, step bit for bit, moments in bfloat16, the carry at its beginning; and training goes on."""
    monkeypatch.setattr(gpu_training, "PIECE_BYTES", 150_000)
    changes = {"train.steps": 6}
    with tiny.warm_compilations(compilations):
        tiny.train_here(tmp_path / "a", changes, stop=tiny.StopAfter(tmp_path / "a", 1))
    (step,) = tiny.steps(tmp_path / "a")
    said = gpu_training.carry_out(tmp_path / "a", tmp_path)
    assert said["step"] == step < 6 and said["pieces"] == len(list(tmp_path.glob("train.[0-9]"))) > 1
    assert gpu_training.carry_in(tmp_path, tmp_path / "b")["sha256"] == said["sha256"]
    before, after = (tiny.state(tmp_path / name, step) for name in "ab")
    kept = {name for name in before if not name.startswith(("carry", "opt_state"))}
    tiny.assert_same_state({name: before[name] for name in kept}, {name: after[name] for name in kept})
    for name in (name for name in before if name.startswith("opt_state")):
        np.testing.assert_allclose(after[name], before[name], rtol=2**-8, err_msg=name)  # bfloat16 has eight bits
    assert after["carry/halted"].all()
    with tiny.warm_compilations(compilations):
        assert tiny.train_here(tmp_path / "b", changes).step == 6
    assert {record["step"] for record in tiny.records(tmp_path / "b", "train")} == {2, 4, 6}


@pytest.mark.slow
def test_all_of_it_with_small_shapes(tmp_path):
    """No phase fails, in at most 8 files of 16 MB."""
    command = [sys.executable, "-m", "benchmarks.gpu", "--tiny", "--minutes", "12", "--output", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    phases = json.loads((tmp_path / "gpu.json").read_text())["phases"]
    # What a slow machine has no time for is cut; what was reached holds.
    assert {phase["status"] for phase in phases.values()} <= {"done", "cut"}, phases
    assert all(case.get("passed", "skipped" in case) for case in phases["golden"].get("defaults", {}).values())
    for found in phases["determinism"].values():
        assert not isinstance(found, dict) or False not in found.values() and "error" not in found
    assert phases["train"]["export"]["step"] > 0
    files = list(tmp_path.iterdir())
    assert len(files) <= 8 and all(file.stat().st_size < 16e6 for file in files)
