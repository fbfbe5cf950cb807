"""What compiled programs say of a run: memory, remedies, time at best, pages."""

import json

import pytest

from tests import tiny
from tests.aot.conftest import RESULT, overflow
from trm_jax.aot import report
from trm_jax.aot.programs import programs_of
from trm_jax.planning import hardware

GB = 10**9


def memory(**changes):
    found = RESULT["memory_bytes"] | changes
    total = sum(found[key] for key in ("arguments", "outputs", "temporaries", "code")) - found["aliased"]
    return {**RESULT, "memory_bytes": found | {"total": total}}


def run_of(*results, changes=None, topology="v4-8"):
    """The record of a tiny run whose programs became these: the last result is the evaluation's, the first that of each
    training step."""
    cfg = tiny.config(changes)
    programs = programs_of(cfg)
    found = [*[results[0]] * (len(programs) - 1), results[-1]]
    return report.figures("tiny", cfg, hardware.find_slice(topology), dict(zip(programs, found, strict=True)))


def test_evaluation_leaves_the_state_of_training_where_it_is():
    run = run_of(RESULT, memory(arguments=1_000, outputs=10, temporaries=20_000, code=700))
    assert run["train_bytes"] == 14_000 + 700
    assert run["eval_bytes"] == 3_000 + 500 + 10 + 20_000 + 700
    assert run["fits"] and run["problem"] == ""


def test_the_longest_of_compute_memory_and_links_bounds_a_step():
    [step, _] = run_of(RESULT)["programs"]
    best = step["roofline_seconds"]
    assert best["memory"] == 2.4e9 / 1.2e12
    assert best["links"] == pytest.approx(12.6e6 / (2 * 45e9))
    assert best["compute"] == step["flops"] / 4 / 275e12
    assert (step["bound_by"], best["step"]) == ("memory", best["memory"])
    assert step["efficiency_without_overlap"] == pytest.approx(best["memory"] / (best["memory"] + best["links"]))


def test_hours_are_steps_and_batches_at_the_roofline():
    changes = {"train.steps": 1_000, "eval.every_steps": 100, "data.test_puzzles": 20, "optim.ema_also": "0,0.5"}
    run = run_of(RESULT, changes=changes)
    assert run["programs"][-1]["batch_rows"] == 8
    assert run["train_hours"] == pytest.approx(1_000 * 0.002 / 3600)
    assert run["eval_hours"] == pytest.approx(10 * 3 * 3 * 0.002 / 3600)  # evaluations, averages, batches


CURRICULUM = {
    "train.curriculum_epochs": 300, "train.curriculum_L_start": 1, "train.curriculum_H_start": 1,
    "train.steps": 1_000, "model.L_cycles": 2, "model.H_cycles": 2,
}  # fmt: skip


def test_a_curriculum_takes_the_time_of_its_stages():
    run = run_of(RESULT, changes=CURRICULUM)
    assert [(one["kind"], one["cycles"]) for one in run["programs"]] == [
        ("train", [1, 1]), ("train", [2, 2]), ("eval", [2, 2])
    ]  # fmt: skip
    small, large, _ = programs_of(tiny.config(CURRICULUM))
    found = {small: RESULT, large: {**RESULT, "traffic_bytes": 3 * RESULT["traffic_bytes"]}, ("eval", large[1]): RESULT}
    run = report.figures("tiny", tiny.config(CURRICULUM), hardware.find_slice("v4-8"), found)
    begins = 600  # 300 epochs of 16 puzzles in batches of 8
    assert run["train_hours"] == pytest.approx((begins * 0.002 + 400 * 0.006) / 3600)
    assert run["programs"][0]["flops"] < run["programs"][1]["flops"]


def test_what_does_not_fit_names_the_accumulation_that_should():
    run = run_of(overflow(100 * GB, 33 * GB), RESULT, changes={"train.batch_size": 48})
    assert not run["fits"] and "train_bytes" not in run
    assert run["problem"] == (
        "training needs 100.0 GB a chip and v4-8 has 33.0 for it: set train.accumulation=4, which gives the same update"
    )  # 3 parts take more than 33, and 48 rows on 4 chips can be cut into 2, 3, 4, 6 or 12
    assert report.table([run]) == [] and report.notes([run], {}) == [f"note: tiny: {run['problem']}"]


def test_more_than_accumulation_can_mend():
    run = run_of(overflow(100 * GB, 33 * GB), RESULT, changes={"train.batch_size": 8})
    assert run["problem"].endswith(
        "no train.accumulation is enough; take more chips, model.remat=block or a smaller model"
    )


def test_an_evaluation_that_does_not_fit_names_a_smaller_batch():
    changes = {"eval.batch_size": 40, "data.test_puzzles": 100}
    run = run_of(RESULT, overflow(40 * GB, 33 * GB), changes=changes)
    assert (
        "evaluation needs 40.0 GB" in run["problem"]
        and "set eval.batch_size=20, which scores the same" in run["problem"]
    )


def test_programs_that_fit_alone_may_not_fit_together():
    run = run_of(memory(arguments=20 * GB, aliased=0), memory(temporaries=20 * GB))
    assert not run["fits"]
    assert "evaluation needs 40.0 GB a chip and v4-8 has 33.0" in run["problem"]


def test_a_row_of_the_table():
    [row] = report.table([run_of(RESULT)])
    assert row.keys() > report.WIDE
    assert (row["all-reduce\nMB a step"], row["other\nMB"], row["from\nloops"]) == ("8", "all-gather 1", "89%")
    assert (row["memory\nms"], row["links\nms"], row["bound by"], row["fits"]) == ("2", "0.14", "memory", "yes")


def test_a_page_says_what_it_is_of_and_what_it_takes_for_granted():
    topology = hardware.find_slice("v4-8")
    run = run_of(RESULT)
    page = report.markdown([run], topology, {"tiny": ["other"]}, "trm compile tiny --output x.md")
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len(rows) == 3 and len({row.count("|") for row in rows}) == 1
    assert "Made by `trm compile tiny --output x.md`." in page and "- tiny is also other" in page
    assert "33.0 GB (30.75 GiB) of a chip" in page and "libtpu 0.0.1" in page
    assert all(f"- {line}" in page for line in report.ASSUMPTIONS)
    assert "|" not in report.markdown([run_of(overflow(9 * GB, GB), RESULT)], topology, {}, "trm compile tiny")


def test_all_figures_are_there_as_json():
    record = json.loads(json.dumps(run_of(RESULT)))
    train, evaluation = record["programs"]
    assert (train["kind"], train["cycles"], evaluation["kind"]) == ("train", [2, 2], "eval")
    assert {key: train[key] for key in RESULT} == RESULT
    assert record["fits"] is True and record["versions"]["libtpu"] == "0.0.1"
    broken = run_of(overflow(9 * GB, GB))
    assert broken["programs"][0]["overflow_bytes"] == [9 * GB, GB] and "train_hours" not in broken
