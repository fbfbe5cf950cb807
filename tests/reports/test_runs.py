"""What is read out of a run's records."""

from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ml_collections import ConfigDict

from tests.reports.synthetic import write_run
from trm_jax.configs.runs import Run, open_run
from trm_jax.errors import InputError
from trm_jax.reports import measures as m
from trm_jax.reports.statistics import added


def run_of(*records, facts=None, **settings) -> Run:
    """A run from records alone, with the settings that a test needs."""
    run = Run(Path(), ConfigDict(), facts or {}, list(records))
    run.__dict__["settings"] = settings
    return run


def evaluation(step, exact, **more):
    return {"kind": "eval", "step": step, "exact_accuracy": exact, "clock": {"elapsed_s": 10.0 * step}, **more}


def line(step, **more):
    return {"kind": "train", "step": step, "loss": 1.0, **more}


EXACT = m.scores("exact_accuracy")


def test_the_accuracy_of_record_is_the_last_not_the_best():
    run = run_of(evaluation(10, 0.5), evaluation(20, 0.9), evaluation(30, 0.8), line(30))
    assert EXACT.final.of(run) == 0.8 and m.TIME.of(run) == 300.0 and m.STEPS.of(run) == 30


def test_a_step_evaluated_again_counts_as_evaluated_last():
    assert EXACT.final.of(run_of(evaluation(20, 0.5), evaluation(10, 0.1), evaluation(20, 0.7))) == 0.7


CURVES = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(CURVES, st.floats(0, 1), st.floats(0, 1))
def test_a_higher_level_is_never_reached_earlier(curve, one, other):
    run = run_of(*(evaluation(step, exact) for step, exact in enumerate(curve, 1)))
    low, high = (m.until("time", level).of(run) for level in sorted((one, other)))
    if high is not None:
        assert low is not None and low <= high
    assert (low is None) == (max(curve) < min(one, other))


def test_levels_in_time_epochs_and_updates():
    run = run_of(evaluation(10, 0.5), evaluation(20, 0.85), evaluation(30, 0.7), facts={"groups": 16},
                 **{"train.batch_size": 8})  # fmt: skip
    assert [m.until(what, 0.85).of(run) for what in ("time", "epochs", "updates")] == [200.0, 10.0, 20]
    assert m.until("time", 0.86).of(run) is None
    assert (m.until("epochs", 0.85).name, m.until("epochs", 0.85).key) == ("epochs to 0.85", "epochs_to_0.85")


def test_training_accuracy_is_of_the_last_fifth_weighed_by_what_halted():
    late = [line(90, exact_accuracy=0.5, halted=30.0), line(95), line(100, exact_accuracy=0.9, halted=10.0)]
    run = run_of(line(80, exact_accuracy=0.1, halted=99.0), *late, evaluation(100, 0.5))
    assert EXACT.train.of(run) == pytest.approx(0.6) and EXACT.gap.of(run) == pytest.approx(0.1)
    assert EXACT.gap.of(run_of(evaluation(100, 0.5))) is None


def test_speed_leaves_the_first_line_out_which_holds_the_compilation():
    clocks = [{"examples_per_s": speed, "peak_memory_bytes": memory} for speed, memory in ((1, 5), (10, 7), (30, 6))]
    run = run_of(*(line(step, clock=clock) for step, clock in enumerate(clocks, 1)), evaluation(3, 0.1))
    assert (m.SPEED.of(run), m.MEMORY.of(run)) == (20, 7)
    assert m.SPEED.of(run_of(line(1, clock=clocks[0]), evaluation(1, 0.1))) is None


def test_gradients_and_skipped_updates():
    lines = [
        line(step, grad_norm=norm, skipped=skipped) for step, norm, skipped in ((1, 9.0, 2), (9, 2.0, 0), (10, 4.0, 1))
    ]
    run = run_of(*lines, evaluation(10, 0.1))
    assert (m.GRAD_NORM.of(run), m.MAX_GRAD_NORM.of(run), m.SKIPPED.of(run)) == (3.0, 9.0, 3.0)
    assert m.SKIPPED.of(run_of(evaluation(1, 0.1))) is None


def test_live_weights_are_those_evaluated_besides_or_the_only_ones():
    both = evaluation(1, 0.8, exact_accuracy_live=0.7)
    assert EXACT.live.of(run_of(both, **{"optim.ema_decay": 0.999})) == 0.7
    assert EXACT.live.of(run_of(evaluation(1, 0.8), **{"optim.ema_decay": 0.999})) is None
    assert EXACT.live.of(run_of(evaluation(1, 0.8), **{"optim.ema_decay": 0.0})) == 0.8


def test_halting_of_an_evaluation():
    run = run_of(evaluation(10, 0.1, halt_steps=[2, 1, 1]))
    assert (m.HALT_EARLY.of(run), m.HALT_VARIANCE.of(run)) == (0.75, 0.6875)
    assert added([[1], [1, 2]]) == [2, 2] and added([]) == []


@cache
def measures() -> list[m.Measure]:
    return [*EXACT, *(value for value in vars(m).values() if isinstance(value, m.Measure))]


def test_a_real_run_folder_has_every_figure(tmp_path):
    changes = {"model.dtype": "float16", "optim.ema_also": "0"}
    spent = {"train": 60.0, "lost": 20.0, "down": 5.0}
    run = open_run(write_run(tmp_path / "run", "mini_exp02a_01", changes=changes, spent=spent, lives=2))
    assert len(measures()) > 20
    assert {measure.key: measure.of(run) for measure in measures() if measure.of(run) is None} == {
        "peak_memory_bytes": None  # of a CPU
    }
    assert EXACT.efficiency.of(run) == pytest.approx(0.86 / (m.PARAMETERS.of(run) / 1e6 * m.TIME.of(run) / 3600))


def test_records_of_older_runs_are_taken_as_they_are(tmp_path):
    run = open_run(write_run(tmp_path / "run", "mini_baseline", old=True))
    known = {measure.key for measure in measures() if measure.of(run) is not None}
    assert {"exact_accuracy", "train_test_gap", "loss_variance"} <= known
    assert not known & {"seconds", "parameters", "peak_memory_bytes", "early_exit_steps", "halt_early", "goodput"}


def test_the_share_of_the_time_that_trained(tmp_path):
    spent = {"train": 60.0, "compile": 15.0, "lost": 5.0, "down": 300.0}
    assert m.GOODPUT.of(open_run(write_run(tmp_path / "run", "mini_baseline", spent=spent, lives=2))) == 0.75


def test_a_task_is_judged_by_its_own_score():
    records = [{"kind": "eval", "step": step, "loss": loss} for step, loss in ((1, 3.0), (2, 1.5), (3, 1.0))]
    run = run_of(*records, facts={"headline": "loss"})
    assert run.headline == "loss" and m.scores("loss").final.of(run) == 1.0
    assert m.until("updates", 2.0).of(run) == 2 and m.until("updates", 0.5).of(run) is None, "less of a loss is better"
    assert m.scores("pass@2").final.higher and not m.scores("loss").final.higher


@pytest.mark.parametrize("content", ["{", '{"seconds": 3}'])
def test_a_damaged_count_is_named(tmp_path, content):
    folder = open_run(write_run(tmp_path / "run", "mini_baseline"))
    (tmp_path / "run" / "goodput.json").write_text(content)
    with pytest.raises(InputError, match=r"run/goodput\.json does not say .*; only that is lost with it"):
        assert folder.goodput
