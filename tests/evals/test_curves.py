"""Curves from records: what is drawn, what is left out, what is refused."""

import json
import math

import matplotlib
import numpy as np
import pytest
from PIL import Image

from trm_jax.errors import InputError
from trm_jax.evals.curves import COLORS, curve_lines, curve_png

BLUE, RED, GREEN = (tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in COLORS[:3])


def records(steps: int = 20, every: int = 10) -> list[dict]:
    """A metrics file as training writes it, read back from JSON."""
    lines = []
    for index in range(1, steps + 1):
        done = index / steps
        train = {"kind": "train", "step": index * every, "loss": 2 * math.exp(-4 * done), "lm_loss": 1.0}
        lines.append(json.dumps(train | {"exact_accuracy": done, "steps": 16 - 8 * done, "lr": 1e-4}))
        if index % 5 == 0:
            held_out = {"kind": "eval", "step": index * every, "exact_accuracy": done / 2, "steps": 16.0}
            lines.append(json.dumps(held_out))
    return [json.loads(line) for line in lines]


def rgb(path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def has(pixels: np.ndarray, color) -> bool:
    return bool((pixels == np.array(color)).all(axis=-1).sum() > 50)


def panels(path, number: int) -> list[np.ndarray]:
    """The panels, without the legend below them."""
    pixels = rgb(path)
    return np.array_split(pixels[: int(pixels.shape[0] * 0.85)], number, axis=1)


def test_lines_hold_the_figures_of_their_kind_and_key():
    lines = {(line.key, line.kind): line for line in curve_lines({"demo": records()})}
    assert set(lines) == {
        ("loss", "train"),
        ("exact_accuracy", "train"),
        ("exact_accuracy", "eval"),
        ("steps", "train"),
        ("steps", "eval"),
    }
    np.testing.assert_array_equal(lines["exact_accuracy", "eval"].steps, [50, 100, 150, 200])
    np.testing.assert_array_equal(lines["exact_accuracy", "eval"].values, [0.125, 0.25, 0.375, 0.5])
    assert lines["loss", "train"].steps.shape == (20,)


def test_absent_and_unusable_figures_leave_no_point():
    found = [
        {"kind": "train", "step": 1, "loss": 2.0},
        {"kind": "train", "step": 2},
        {"kind": "train", "step": 3, "loss": None},
        {"kind": "train", "step": 4, "loss": float("nan")},
        {"kind": "train", "step": 5, "loss": float("inf")},
        {"kind": "train", "loss": 1.0},
        {"kind": "note", "step": 6, "loss": 1.0},
        {"kind": "train", "step": 7, "loss": 1},
    ]
    (line,) = curve_lines({"demo": found})
    assert (line.steps.tolist(), line.values.tolist()) == ([1, 7], [2, 1])


def test_a_step_recorded_again_after_a_restart_counts_as_recorded_last():
    found = [{"kind": "train", "step": step, "loss": loss} for step, loss in [(10, 5.0), (20, 4.0), (30, 9.0)]]
    found += [{"kind": "train", "step": step, "loss": loss} for step, loss in [(20, 4.5), (30, 3.0)]]
    (line,) = curve_lines({"demo": found})
    assert (line.steps.tolist(), line.values.tolist()) == ([10, 20, 30], [5.0, 4.5, 3.0])


def test_one_run_has_three_panels_with_train_and_held_out(tmp_path):
    path = tmp_path / "curves.png"
    curve_png(path, {"demo": records()}, title="demo, 200 steps, costs $5 and $6")
    loss, accuracy, steps = panels(path, 3)
    assert has(loss, BLUE) and has(accuracy, BLUE) and has(steps, BLUE)
    assert not has(loss, RED), "held-out records have no loss"
    assert has(accuracy, RED) and has(steps, RED)


def test_several_runs_have_a_colour_each(tmp_path):
    path = tmp_path / "curves.png"
    curve_png(path, {"_hidden?": records(), "b $x$": records(10), "c": records(15)}, title="three")
    for panel in panels(path, 3):
        assert has(panel, BLUE) and has(panel, RED) and has(panel, GREEN)


def test_panels_without_figures_are_left_out(tmp_path):
    widths = []
    for keys in (["loss"], ["loss", "steps"], ["loss", "steps", "exact_accuracy"]):
        kept = [{key: record[key] for key in ("kind", "step", *keys) if key in record} for record in records()]
        curve_png(tmp_path / "curves.png", {"demo": kept}, title="")
        widths.append(rgb(tmp_path / "curves.png").shape[1])
    assert widths == [552, 1104, 1656]


def test_a_single_point_is_seen(tmp_path):
    curve_png(tmp_path / "curves.png", {"demo": [{"kind": "train", "step": 10, "loss": 1.2}]}, title="")
    (panel,) = panels(tmp_path / "curves.png", 1)
    # A disc of 4 points at 120 dpi has some 35 pixels, its rim blended.
    assert (panel == np.array(BLUE)).all(axis=-1).sum() > 10


def test_a_long_noisy_line_is_drawn_faint_under_its_mean(tmp_path):
    rng = np.random.default_rng(0)
    noisy = [{"kind": "train", "step": i, "exact_accuracy": rng.random()} for i in range(1, 1001)]
    curve_png(tmp_path / "noisy.png", {"demo": noisy}, title="")
    curve_png(tmp_path / "short.png", {"demo": noisy[:50]}, title="")

    def rows_of(name):
        (panel,) = panels(tmp_path / name, 1)
        return np.flatnonzero((panel == np.array(BLUE)).all(axis=-1).any(axis=1))

    # The mean of 33 uniform numbers stays near one half, where single ones fill the panel.
    assert np.ptp(rows_of("noisy.png")) < 0.6 * np.ptp(rows_of("short.png"))


def test_a_loss_of_zero_breaks_no_logarithm(tmp_path):
    found = [{"kind": "train", "step": step, "loss": loss} for step, loss in enumerate([1.0, 0.0, 0.5, 0.01])]
    curve_png(tmp_path / "a.png", {"demo": found}, title="")
    curve_png(tmp_path / "b.png", {"demo": [{"kind": "train", "step": 1, "loss": 0.0}]}, title="")
    assert (tmp_path / "a.png").exists() and (tmp_path / "b.png").exists()


def test_same_records_same_bytes_whatever_the_users_style(tmp_path):
    curve_png(tmp_path / "a.png", {"demo": records(100)}, title="demo")
    with matplotlib.rc_context({"axes.facecolor": "black", "lines.linewidth": 9, "savefig.dpi": 30}):
        curve_png(tmp_path / "b.png", {"demo": records(100)}, title="demo")
        assert matplotlib.rcParams["lines.linewidth"] == 9, "the user's settings are given back"
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "b.png"]


def test_nothing_to_draw_is_refused(tmp_path):
    path = tmp_path / "curves.png"
    with pytest.raises(InputError, match="no runs to draw curves of"):
        curve_png(path, {}, title="")
    with pytest.raises(InputError, match="run 'late' has no figures yet"):
        curve_png(path, {"demo": records(), "late": []}, title="")
    with pytest.raises(InputError, match="run 'demo' has no figures yet"):
        curve_png(path, {"demo": [{"kind": "train", "step": 1, "lr": 1e-4}]}, title="")
    with pytest.raises(InputError, match="let the name end in .png"):
        curve_png(tmp_path / "curves.svg", {"demo": records()}, title="")
    assert not list(tmp_path.iterdir())
