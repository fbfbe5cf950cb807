"""Curves from records: what is drawn, what is left out, what is refused."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from trm_jax.errors import InputError
from trm_jax.reports.curves import curve_panels, curve_png
from trm_jax.reports.pictures import COLORS

EXACT = ["exact_accuracy"]


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


def drawn(found: list[dict], headlines=EXACT) -> dict[str, list[tuple]]:
    """(label, xs, ys) of each line, by the key that its panel shows, of one run."""
    panels = {panel.title.split(" (")[0].replace(" ", "_"): panel for panel in curve_panels({"demo": found}, headlines)}
    return {key: [(one.label, list(one.x), list(one.y)) for one in panel.series] for key, panel in panels.items()}


def test_lines_hold_the_figures_of_their_kind_and_key():
    found = drawn(records())
    assert {key: [label for label, _, _ in lines] for key, lines in found.items()} == {
        "loss": ["train"],
        "exact_accuracy": ["train", "held out, last 0.5"],
        "steps": ["train", "held out, last 16"],
    }
    assert found["exact_accuracy"][1][1:] == ([50, 100, 150, 200], [0.125, 0.25, 0.375, 0.5])
    assert len(found["loss"][0][1]) == 20


@pytest.mark.parametrize("headlines", [["valid_optimal"], ["pass@2", "valid_optimal"], ["loss"]])
def test_scores_are_those_by_which_the_tasks_are_judged(headlines):
    found = [{**record, headlines[0]: 0.5} for record in records()]
    assert list(drawn(found, headlines)) == list(dict.fromkeys(("loss", headlines[0], "steps")))
    if headlines == ["loss"]:
        assert [label for label, _, _ in drawn(found, headlines)["loss"]] == ["train", "held out, last 0.5"]


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
    assert drawn(found) == {"loss": [("train", [1, 7], [2, 1])]}


def test_a_step_recorded_again_after_a_restart_counts_as_recorded_last():
    found = [{"kind": "train", "step": step, "loss": loss} for step, loss in [(10, 5.0), (20, 4.0), (30, 9.0)]]
    found += [{"kind": "train", "step": step, "loss": loss} for step, loss in [(20, 4.5), (30, 3.0)]]
    assert drawn(found)["loss"] == [("train", [10, 20, 30], [5.0, 4.5, 3.0])]


def test_several_runs_have_a_colour_each_and_held_out_figures_are_dashed():
    runs = {"_hidden?": records(), "b $x$": records(10), "c": records(15)}
    panels = curve_panels(runs, EXACT)
    assert len(panels) == 3 and [one.label for one in panels[0].series] == list(runs)
    accuracy = [(one.label, one.color, one.style) for one in panels[1].series]
    assert accuracy == [pair for k, run in enumerate(runs) for pair in ((run, k, "line"), ("", k, "dashed"))]


def test_a_long_noisy_line_is_drawn_faint_under_its_mean():
    rng = np.random.default_rng(0)
    noisy = [{"kind": "train", "step": i, "exact_accuracy": rng.random()} for i in range(1, 1001)]
    ((panel,), (short,)) = curve_panels({"a": noisy}, EXACT), curve_panels({"a": noisy[:50]}, EXACT)
    faint, mean = panel.series
    assert (faint.style, faint.label, mean.style, len(short.series)) == ("faint", "", "line", 1)
    # The mean of 33 uniform numbers stays near one half.
    assert np.ptp(faint.y) > 0.99 and np.ptp(mean.y) < 0.5 and len(mean.x) == len(mean.y) == 968


def test_the_loss_is_logarithmic_unless_it_reaches_zero(tmp_path):
    for losses, scale in (([1.0, 0.5, 0.01], "log"), ([1.0, 0.0, 0.5], "linear"), ([0.0], "linear")):
        found = [{"kind": "train", "step": step, "loss": loss} for step, loss in enumerate(losses)]
        (panel,) = curve_panels({"demo": found}, EXACT)
        assert panel.y_scale == scale
        curve_png(tmp_path / "a.png", {"demo": found}, EXACT)


def test_the_picture(tmp_path):
    path = tmp_path / "curves.png"
    curve_png(path, {"demo": records()}, EXACT, "demo, costs $5 and $6")
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    loss, accuracy, steps = np.array_split(pixels, 3, axis=1)
    for panel, colors in ((loss, COLORS[:1]), (accuracy, COLORS[:2]), (steps, COLORS[:2])):
        for color in COLORS[:3]:
            rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
            assert ((panel == rgb).all(axis=-1).sum() > 50) == (color in colors)


def test_nothing_to_draw_is_refused(tmp_path):
    path = tmp_path / "curves.png"
    with pytest.raises(InputError, match="run 'late' has no figures yet"):
        curve_png(path, {"demo": records(), "late": []}, EXACT)
    with pytest.raises(InputError, match="run 'demo' has no figures yet"):
        curve_png(path, {"demo": [{"kind": "train", "step": 1, "lr": 1e-4}]}, EXACT)
    with pytest.raises(InputError, match="let the name end in .png"):
        curve_png(tmp_path / "curves.svg", {"demo": records()}, EXACT)
    assert not list(tmp_path.iterdir())
