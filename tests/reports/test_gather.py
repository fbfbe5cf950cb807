"""Which runs stand in a report: found by name, by alias, complete, comparable; and what is refused."""

import json
import re

import pytest

from tests.reports.synthetic import write_group, write_run
from trm_jax.configs import registry
from trm_jax.errors import InputError
from trm_jax.reports.gather import group_study, selection_study


def arms(study):
    return {arm.name: [run.path.name for run in arm.runs] for arm in study.arms}


def refusal(call, *args, **kwargs) -> str:
    with pytest.raises(InputError) as caught:
        call(*args, **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_an_alias_takes_the_runs_of_its_base(tmp_path):
    write_group(tmp_path, "contrib01", seeds=2)
    write_run(tmp_path / "other", "exp01a")
    study = group_study("contrib01", tmp_path)
    assert arms(study) == {
        "contrib01_baseline": ["baseline-seed0", "baseline-seed1"],
        "contrib01_curriculum": ["contrib01_curriculum-seed0", "contrib01_curriculum-seed1"],
    }
    first = study.arms[0]
    assert first.label == "contrib01_baseline = baseline" and study.reference is first
    assert study.report is registry.groups()["contrib01"].report and not study.guide_problem and study.notes == ()


def test_a_run_under_the_alias_own_name_is_the_same_run(tmp_path):
    write_run(tmp_path / "a", "contrib01_baseline", seed=0)
    write_run(tmp_path / "b", "baseline", seed=0)
    write_run(tmp_path / "c", "exp01c", seed=1)
    study = group_study("contrib01", tmp_path)
    assert arms(study)["contrib01_baseline"] == ["a", "c"], "a seed counts once"
    assert any(re.search(r"left out: \S*/b has the settings and the seed 0 of \S*/a", note) for note in study.notes)


def test_missing_members_are_named(tmp_path):
    write_group(tmp_path, "exp07", skip=("baseline",))
    study = group_study("exp07", tmp_path)
    assert [arm.name for arm in study.ran] == ["exp07a", "exp07c"]
    assert study.reference.name == "exp07a", "the first that ran, where the centre did not"
    assert "not run (or not finished): exp07b = baseline" in study.notes[0]


def test_no_runs_says_what_was_looked_for_and_what_makes_them(tmp_path):
    said = refusal(group_study, "exp07", tmp_path / "nowhere")
    assert "looked for exp07a, baseline, exp07c" in said
    assert said.endswith(f"trm sweep exp07 --root {tmp_path}/nowhere makes them")


def test_unfinished_runs_are_left_out_and_named(tmp_path):
    write_run(tmp_path / "half", "exp07c", evaluations=4)
    for said in (
        refusal(group_study, "exp07", tmp_path),
        refusal(selection_study, [], [tmp_path / "half"], tmp_path),
    ):
        assert "no finished runs " in said and "half (step 3,255 of 8,138)" in said and "trm sweep" in said
    write_run(tmp_path / "done", "exp07a")
    write_run(tmp_path / "begun", "baseline", evaluations=0)
    study = group_study("exp07", tmp_path)
    assert arms(study) == {"exp07a": ["done"], "exp07b": [], "exp07c": []}
    assert any(re.search("left out, unfinished: .*half .step 3,255 of 8,138", note) for note in study.notes)


def test_runs_scored_on_different_puzzles_are_refused(tmp_path):
    write_run(tmp_path / "a", "exp07a", eval_set="aaaa")
    write_run(tmp_path / "c", "exp07c", eval_set="cccc")
    for call in (
        lambda: group_study("exp07", tmp_path),
        lambda: selection_study([], [tmp_path / "a", tmp_path / "c"], tmp_path),
    ):
        said = refusal(call)
        assert re.search(r"the examples scored: eval_set aaaa of 500 .*in \S*/a; eval_set cccc .* in \S*/c;", said)


def test_the_same_override_everywhere_is_fine_and_said(tmp_path):
    write_group(tmp_path, "exp07", changes={"data.test_puzzles": 99})
    (note,) = group_study("exp07", tmp_path).notes
    assert note == "changed from the experiment: data.test_puzzles 99 (there 0) in all runs"


def test_an_override_of_some_arms_is_refused(tmp_path):
    write_run(tmp_path / "a", "exp07a", changes={"optim.lr": 1.0})
    write_run(tmp_path / "c", "exp07c")
    said = refusal(group_study, "exp07", tmp_path)
    assert re.search(r"differ in optim.lr: 1.0 in \S*/a; 0.0001 in \S*/c;", said)


def test_what_decides_no_result_may_differ(tmp_path):
    changes = {"train.accumulation": 2, "checkpoint.every_steps": 7, "optim.ema_also": "0", "log.tensorboard": False}
    write_run(tmp_path / "a", "exp07a", changes=changes)
    write_run(tmp_path / "c", "exp07c")
    assert len(group_study("exp07", tmp_path).ran) == 2


def test_one_seed_with_other_settings_is_no_duplicate(tmp_path):
    """The second run of a seed is left out only when it is the same run."""
    for folder, rate in (("first", 1e-4), ("second", 3e-4), ("third", 3e-4)):
        write_run(tmp_path / folder, "exp07a", changes={"optim.lr": rate, "optim.weight_decay": 10 * rate})
    said = refusal(group_study, "exp07", tmp_path)
    assert re.search(
        r"runs of exp07a differ in optim.lr: 0.0001 in \S*/first; 0.0003 in \S*/second, \S*/third, and in "
        r"optim.weight_decay: 0.001 in ",
        said,
    )
    write_run(tmp_path / "alike" / "first", "exp07a")
    write_run(tmp_path / "alike" / "second", "exp07a", changes={"train.accumulation": 2})
    assert arms(group_study("exp07", tmp_path / "alike"))["exp07a"] == ["first"]


def test_seeds_of_one_arm_with_different_settings_are_refused(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"seed{seed}", "exp02a_01", seed=seed, changes={"model.L_cycles": 5 + seed})
    assert "exp02a_01 differ in model.L_cycles" in refusal(group_study, "exp02a", tmp_path)


def test_a_run_that_cannot_be_read_is_left_out_and_named(tmp_path):
    write_group(tmp_path, "exp07")
    (tmp_path / "exp07a" / "run.json").write_text("{")
    study = group_study("exp07", tmp_path)
    assert [arm.name for arm in study.ran] == ["exp07b", "exp07c"]
    assert any("cannot be read" in note and "exp07a" in note for note in study.notes)


def test_a_companion_is_taken_where_it_compares(tmp_path):
    write_group(tmp_path, "exp02a")
    study = group_study("exp02a", tmp_path)
    assert [arm.name for arm in study.companion.ran] == ["exp02b_03"], "the centre that both share"
    write_group(tmp_path, "exp02b", eval_set="other")
    study = group_study("exp02a", tmp_path)
    assert study.companion is None and "examples scored" in study.companion_problem
    write_group(tmp_path / "fresh", "exp02a")
    write_group(tmp_path / "fresh", "exp02b")
    assert len(group_study("exp02a", tmp_path / "fresh").companion.ran) == 5


def test_a_selection_has_an_arm_for_each_setting(tmp_path):
    for seed in (0, 1):
        write_run(tmp_path / f"slow{seed}", "baseline", seed=seed, changes={"optim.lr": 1e-5})
    write_run(tmp_path / "plain", "baseline")
    study = selection_study([], [tmp_path / name for name in ("slow0", "slow1", "plain", "plain")], tmp_path)
    assert list(arms(study).values()) == [["slow0", "slow1"], ["plain"]] and study.varied == ("optim.lr",)


def test_a_selection_by_name(tmp_path):
    write_run(tmp_path / "a", "exp01a")
    write_run(tmp_path / "b", "baseline")
    study = selection_study(["exp01a", "exp01c", "exp01f"], [], tmp_path)
    assert arms(study) == {"exp01a": ["a"], "baseline": ["b"]}
    assert "exp01f" in study.notes[0] and "exp01c" not in study.notes[0]
    assert "trm sweep exp09e" in refusal(selection_study, ["exp09e"], [], tmp_path)


def test_a_run_of_an_unknown_experiment_can_be_named(tmp_path):
    write_run(tmp_path / "a", "baseline")
    config = json.loads((tmp_path / "a" / "config.json").read_text())
    (tmp_path / "a" / "config.json").write_text(json.dumps(config | {"name": "mine"}))
    assert arms(selection_study([], [tmp_path / "a"], tmp_path)) == {"mine": ["a"]}
