"""The comparison with PyTorch as a program: what it computes and reports, never how fast."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from benchmarks.torch_speed import LOSS_TOLERANCE, check_agreement, interleave  # noqa: E402  (torch is optional)

ROOT = Path(__file__).resolve().parents[2]
TINY = ["data.size=4", "model.hidden_size=32", "model.num_heads=2", "model.puzzle_emb_ndim=32"]


def compare(tmp_path: Path, *arguments: str) -> dict:
    """Run the program in its own process (it confines itself to a few cores) and read its figures."""
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "benchmarks.torch_speed", "--config", "demo", "--batch", "6", "--rounds", "2"]
    done = subprocess.run(
        [*command, "--json", str(file), *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "torch / jax" in done.stdout
    return json.loads(file.read_text())


@pytest.mark.parametrize(
    ("mixer", "peak"),
    [
        (["model.mlp_t=true"], 0.0),
        pytest.param(["model.mlp_t=false", "model.pos_encodings=rope"], 0.5, marks=pytest.mark.slow),
    ],
)
def test_figures_of_a_tiny_run(tmp_path, mixer, peak):
    """The program refuses to report when the first losses differ, so a report means that both sides agreed."""
    figures = compare(tmp_path, "--threads", "1", "--peak-tflops", str(peak), "--set", *TINY, *mixer)
    for side in (figures["jax"], figures["torch"]):
        assert len(side["seconds"]) == 2
        assert 0 < side["min_s"] <= side["median_s"]
        assert side["tflops_per_s"] == pytest.approx(figures["step_tflops"] / side["min_s"])
        # No peak is known for a CPU: only one that is given makes a utilisation.
        assert side["mfu"] == (pytest.approx(side["tflops_per_s"] / peak) if peak else None)
    assert figures["ratio_min"] == pytest.approx(figures["torch"]["min_s"] / figures["jax"]["min_s"])
    assert figures["cores"] == figures["threads"] == 1
    assert figures["jax"]["compile_s"] > 0
    assert figures["command"].startswith("python -m benchmarks.torch_speed --config demo --batch 6")


@pytest.mark.parametrize(("ours", "twins"), [(1.0, 1.001), (float("nan"), 1.0), (1.0, float("nan"))])
def test_sides_that_disagree_are_not_compared(ours, twins):
    with pytest.raises(SystemExit, match="disagree"):
        check_agreement(ours, twins, LOSS_TOLERANCE["float32"])
    check_agreement(1.0, 1.00001, LOSS_TOLERANCE["float32"])


def test_sides_take_turns_and_change_the_order():
    class Recorder:
        def __init__(self, name):
            self.name, self.seconds = name, []

        def step(self):
            calls.append(self.name)

    calls = []
    sides = [Recorder("jax"), Recorder("torch")]
    interleave(sides, 3)
    assert calls == ["torch", "jax", "jax", "torch", "torch", "jax"]
    assert all(len(side.seconds) == 3 and min(side.seconds) >= 0 for side in sides)
