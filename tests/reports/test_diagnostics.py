"""Reports show diagnostics of the runs that have them: means over seeds, of the evaluation of record only."""

import json

import pytest

from tests.reports.synthetic import write_run
from trm_jax.configs.runs import open_run
from trm_jax.errors import InputError
from trm_jax.reports.build import build
from trm_jax.reports.diagnostics import diagnosed
from trm_jax.reports.gather import selection_study

TITLE = "What happens while it thinks"


def diagnose(run, score: float, **changes) -> None:
    """Leave a page as `trm eval --diagnose` does, of two steps."""
    final = open_run(run).final
    interval = {"n": 500, "score": score, "low": score - 0.1, "high": score + 0.1}
    page = {"step": final["step"], "weights": "ema", "eval_set": final["eval_set"], "score": "exact_accuracy"}
    page |= {"supervision_steps": 2, "held_out": interval, "training": {**interval, "score": 1.0}}
    page["by_step"] = {
        "residual": [None, 3.0 + score],
        "changed": [None, 1.5],
        "score": [0.1, score],
        "halts": [0.0, 0.5],
    }
    page["settling"] = {"settled": 0.5, "score_settled": score, "score_wandering": None, "settled_at": [250, 250]}
    page["stopping"] = {rule: {"score": score, "steps": 1.5, "stopped": 0.9} for rule in ("q", "settled")}
    page["calibration"] = {"bins": [{"n": 500, "q": 0.5, "exact": score}], "ece": 0.1, "brier": 0.2, "auroc": None}
    page["strata"] = {"clues": [{"from": 20, "to": 24, **interval}, {"from": 25, "to": 25, **interval}]}
    (run / "diagnostics.json").write_text(json.dumps(page | changes))


def report(*runs):
    return build(selection_study([], list(runs), runs[0].parent), "")


def test_means_over_seeds_by_arm(tmp_path):
    runs = [write_run(tmp_path / str(seed), "exp07a", seed=seed) for seed in (0, 1)]
    other = write_run(tmp_path / "other", "exp07c")
    for run, score in zip(runs, (0.6, 0.8), strict=True):
        diagnose(run, score)
    (found,) = [section for section in report(*runs, other).sections if section.title == TITLE]
    rows = {row[0]: dict(zip(found.table.columns, row, strict=True)) for row in found.table.rows}
    assert rows["exp07a"]["of held-out ones"] == "0.7000 ± 0.1414 (n = 2)"
    assert rows["exp07a"]["score of training puzzles"] == "1.0000 ± 0.0000 (n = 2)"
    assert rows["exp07c"]["of held-out ones"] == "not recorded"
    assert "AUROC of q" not in found.table.columns, "no run has one"
    assert found.sentence.startswith("2 of 3 runs were diagnosed")
    panels = {panel.title: panel for panel in found.panels}
    (moved,) = panels["How far the latents move"].series
    assert list(moved.x) == [2] and list(moved.y) == pytest.approx([3.7])
    (by_clues,) = panels["Score by clues"].series
    assert list(by_clues.y) == pytest.approx([0.7, 0.7])
    assert panels["Score by clues"].ticks == ((0, "20-24"), (1, "25"))
    assert list(panels["Calibration of q"].series[1].y) == pytest.approx([0.7])


@pytest.mark.parametrize("change", [{"step": 1}, {"weights": "live"}, {"eval_set": "another"}, {"held_out": {"n": 10}}])
def test_of_the_evaluation_of_record_only(tmp_path, change):
    one, other = (write_run(tmp_path / str(seed), "exp07a", seed=seed) for seed in (0, 1))
    diagnose(other, 0.5, **change)
    assert not diagnosed(selection_study([], [one, other], tmp_path)), "none has any"
    diagnose(one, 0.6)
    (found,) = diagnosed(selection_study([], [one, other], tmp_path))
    assert found.table.rows[0][2] == "0.6000 (n = 1)" and str(other) in found.notes[-1]


@pytest.mark.parametrize("content", ["{", "[]", '{"held_out": 3}'])
def test_a_damaged_file(tmp_path, content):
    run = write_run(tmp_path / "run", "exp07a")
    (run / "diagnostics.json").write_text(content)
    with pytest.raises(InputError, match=r"diagnostics.json .* trm eval --diagnose writes it again"):
        report(run)
