"""Arms at equal training compute, time and size: runs whose answer is known."""

import re

from hypothesis import given
from hypothesis import strategies as st

from tests.reports.synthetic import grown, write_group, write_run
from tests.reports.test_analyses import column
from tests.reports.test_runs import evaluation, run_of
from trm_jax.configs.runs import open_run
from trm_jax.reports import measures as m
from trm_jax.reports.build import build
from trm_jax.reports.equal import at_equal_cost
from trm_jax.reports.gather import group_study, selection_study
from trm_jax.reports.statistics import adjusted, welch
from trm_jax.reports.units import FRACTION, p_text
from trm_jax.reports.words import verdict

SPREAD = (-0.004, 0.0, 0.004)  # of three seeds around an arm's accuracy
TWICE = {"train.steps": 1920}  # of rivals_hrm's steps


def write_arm(root, name, accuracy, **how):
    for seed, more in enumerate(SPREAD):
        write_run(root / name / str(seed), name, seed=seed, accuracy=accuracy + more, **how)


def sections(root, *names):
    """Of the runs of these experiments; the first one is the reference."""
    return at_equal_cost(selection_study([], [root / name for name in names], root))


def test_the_score_is_that_of_the_last_evaluation_within_what_the_cheapest_arm_takes(tmp_path):
    """hrm with twice the steps is half through when TRM ends; eqr, 0.4% above the budget, counts whole."""
    write_arm(tmp_path, "rivals_trm", 0.80)
    write_arm(tmp_path, "rivals_hrm", 0.90, changes=TWICE)
    write_arm(tmp_path, "rivals_eqr", 0.801)
    compute = sections(tmp_path, "rivals_trm", "rivals_hrm", "rivals_eqr")[0]
    trm, eqr = ([end + more for more in SPREAD] for end in (0.80, 0.801))
    hrm = [(0.90 + more) * grown(0.5) for more in SPREAD]
    scores = column(compute.table, r"within 1\.643 TFLOP$")
    assert scores["rivals_trm"] == "0.8000 ± 0.0040 (n = 3)" and scores["rivals_eqr"].startswith("0.8010 ± ")
    assert scores["rivals_hrm"].startswith(f"{sum(hrm) / 3:.4f} ± ") and grown(0.5) < 0.9
    costs = {"rivals_trm": "1.643", "rivals_hrm": "1.644", "rivals_eqr": "1.65"}
    assert column(compute.table, "until then") == costs
    tests = adjusted([welch(hrm, trm), welch(eqr, trm)])
    assert [test.shown for test in tests] == [True, False]
    words = [verdict(test, FRACTION[0]) for test in tests]
    assert list(column(compute.table, "Welch, Holm").values()) == ["reference", *words]
    claim = f"rivals_hrm {-tests[0].difference:.4f} below rivals_trm ({p_text(tests[0].p)}), and no other difference."
    assert compute.sentence == f"With 1.643 TFLOP each, as much as rivals_trm takes: Welch's test shows {claim}"


COSTS = st.lists(st.integers(1, 50), min_size=1, max_size=8)


@given(COSTS, st.integers(1, 600), st.integers(1, 600))
def test_more_budget_never_takes_an_earlier_evaluation(gaps, one, other):
    """Seconds are ten a step. The budget of a run's own total takes its last evaluation."""
    steps = [sum(gaps[: n + 1]) for n in range(len(gaps))]
    run = run_of(*(evaluation(step, step / 500, count=8) for step in steps))
    small, large = (m.spent("time", budget).of(run) for budget in sorted((one, other)))
    assert small is None or small <= large <= (1 + m.OVER) * max(one, other)
    assert (large is None) == (10.0 * steps[0] > (1 + m.OVER) * max(one, other))
    total = m.spent("time").of(run)
    assert total == 10.0 * steps[-1]
    score = m.scores("exact_accuracy").final
    assert m.score_within(score, "time", total).of(run) == steps[-1] / 500
    if large is not None:
        assert m.score_within(score, "time", max(one, other)).of(run) == large / 10 / 500


def test_an_evaluation_of_fewer_puzzles_does_not_count():
    run = run_of(evaluation(1, 0.2, count=8), evaluation(2, 0.9, count=4), evaluation(3, 0.5, count=8))
    assert m.spent("time", 25.0).of(run) == 10.0 and m.spent("time", 5.0).of(run) is None


def test_a_curriculum_costs_what_its_steps_cost(tmp_path):
    run = open_run(write_run(tmp_path / "run", "mini_contrib01_curriculum"))
    half = next(record for record in run.evaluations if record["step"] >= run.total_steps / 2)
    assert m.flops_at(run, run.final) == run.facts["train_flops"]
    assert m.flops_at(run, half) < run.facts["train_flops"] * half["step"] / run.total_steps


def test_an_arm_whose_evaluations_come_too_late_is_named(tmp_path):
    """TRM ends after 15 seconds, before the tenth of hrm's steps that its first evaluation takes."""
    write_arm(tmp_path, "rivals_trm", 0.80, examples_per_s=1000.0)
    write_arm(tmp_path, "rivals_hrm", 0.90, examples_per_s=100.0)
    _, time, _ = sections(tmp_path, "rivals_trm", "rivals_hrm")
    assert "With 15.36 s each, as much as rivals_trm takes: no difference is claimed" in time.sentence
    assert time.sentence.endswith("The first evaluation of rivals_hrm comes after that.")
    row = next(row for row in time.table.rows if row[0] == "rivals_hrm")
    assert set(row[2:]) == {"no evaluation so early"}


def test_the_budget_lets_every_seed_of_the_cheapest_arm_end(tmp_path):
    for seed, rate in enumerate((1000.0, 900.0)):
        write_run(tmp_path / "trm" / str(seed), "rivals_trm", seed=seed, accuracy=0.8 + seed / 100, examples_per_s=rate)
        write_run(tmp_path / "hrm" / str(seed), "rivals_hrm", seed=seed, accuracy=0.8 + seed / 100, examples_per_s=rate)
    _, time, _ = sections(tmp_path, "trm", "hrm")
    assert column(time.table, r"within 17\.07 s$")["rivals_trm"] == "0.8050 ± 0.0071 (n = 2)"
    assert column(time.table, "until then")["rivals_trm"] == "16.21 ± 1.207 (n = 2)"


def test_one_seed_is_no_claim(tmp_path):
    write_group(tmp_path, "rivals")
    report = build(group_study("rivals", tmp_path), "trm report rivals")
    found = [part for part in report.sections if part.title.startswith("At equal")]
    assert [part.title.removeprefix("At equal ") for part in found] == ["training compute", "time", "size"]
    for part in found:
        assert "no difference is claimed" in part.sentence and "shows" not in part.sentence
        assert not re.search(r"higher|lower|p [=<]", " ".join(cell for row in part.table.rows for cell in row))


def test_what_was_not_recorded_is_not_answered(tmp_path):
    """Old runs have neither clocks nor counts."""
    write_arm(tmp_path, "rivals_trm", 0.80, old=True)
    write_arm(tmp_path, "rivals_hrm", 0.90)
    said = [part.sentence for part in sections(tmp_path, "rivals_trm", "rivals_hrm")]
    assert said == [
        "Not answered: fewer than two arms recorded their training compute.",
        "Not answered: fewer than two arms recorded their time.",
        "Not answered: rivals_trm recorded no parameters.",
    ]
    write_arm(tmp_path, "rivals_eqr", 0.85)
    for part in sections(tmp_path, "rivals_hrm", "rivals_eqr", "rivals_trm")[:2]:
        assert column(part.table, "until then")["rivals_trm"] == "not recorded"
        assert {series.label for series in part.panels[0].series} == {"rivals_hrm", "rivals_eqr"}


def test_only_arms_of_the_reference_s_size_are_tested_at_equal_size(tmp_path):
    """hrm has twice TRM's parameters, so Holm's correction has one comparison, not two."""
    ends = {"sudoku4": 0.80, "sudoku_eqr_small": 0.805, "sudoku_hrm_small": 0.90}
    for name, end in ends.items():
        write_arm(tmp_path, name, end)
    size = sections(tmp_path, *ends)[2]
    tests = column(size.table, "Welch, Holm")
    assert tests["sudoku4"] == "reference" and tests["sudoku_hrm_small"] == "not comparable: 1.99 times"
    alone = welch(*([ends[name] + more for more in SPREAD] for name in ("sudoku_eqr_small", "sudoku4")))
    assert tests["sudoku_eqr_small"] == verdict(alone, FRACTION[0]) and not alone.shown
    assert size.sentence == (
        "Of the arms with sudoku4's parameters, within 10%: Welch's test shows no difference. "
        "Not comparable in size: sudoku_hrm_small (1.99 times)."
    )


def test_arms_of_one_family_and_size_are_not_held_so(tmp_path):
    write_arm(tmp_path, "exp07a", 0.8)
    write_arm(tmp_path, "exp07c", 0.8)
    assert sections(tmp_path, "exp07a", "exp07c") == []
