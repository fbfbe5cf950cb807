"""What a person sees: a bar on a terminal, a line a minute in a log."""

import io
import re
import time

import pytest

from tests import tiny
from tests.terminal import Terminal
from trm_jax.cli.main import EXIT_STOPPED, report_failure
from trm_jax.errors import StoppedEarly
from trm_jax.train.progress import Progress, duration, reading

EVAL = {"kind": "eval", "step": 6, "exact_accuracy": 0.25, "accuracy": 0.5, "count": 12}


@pytest.mark.parametrize(
    "seconds, text", [(0, "0:00"), (59.9, "0:59"), (61, "1:01"), (3600, "1:00:00"), (45296, "12:34:56")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.fixture
def clock(monkeypatch):
    """Time that passes when told to."""
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_a_minute(clock):
    stream = io.StringIO()
    progress = Progress("demo", 1000, "exact_accuracy", stream=stream)
    progress.start(0)
    for step in range(1, 501):
        clock[0] += 0.5
        if step % 20 == 0:
            progress.record({"kind": "train", "step": step, "loss": 1.25, "exact_accuracy": 0.5, "steps": 3.0})
        progress.step(step)
    progress.close()
    assert stream.getvalue().splitlines() == [
        f"step {step}/1000  2.00 steps/s  left {left}  loss 1.250  exact accuracy 0.500  steps 3.0"
        for step, left in ((120, "7:20"), (240, "6:20"), (360, "5:20"), (480, "4:20"))
    ]


def test_the_rate_counts_from_where_the_run_went_on(clock):
    stream = io.StringIO()
    progress = Progress("demo", 1000, "exact_accuracy", stream=stream)
    progress.start(900)
    clock[0] += 60
    progress.step(960)
    assert stream.getvalue() == "step 960/1000  1.00 steps/s  left 0:40  \n"


def test_evaluations_and_messages_get_lines_of_their_own(clock):
    stream = io.StringIO()
    progress = Progress("demo", 1000, "exact_accuracy", stream=stream)
    progress.say("going on from step 3 of 1000")
    progress.record(EVAL)
    progress.close()
    assert stream.getvalue().splitlines() == [
        "going on from step 3 of 1000",
        "step 6: held-out exact accuracy 0.2500 on 12 puzzles",
    ]


def test_an_evaluation_of_some_puzzles_says_of_which_and_how_sure_it_is():
    stream = io.StringIO()
    progress = Progress("demo", 1000, "exact_accuracy", held_out=40, stream=stream)
    for record in (EVAL, EVAL | {"exact_accuracy": -3.0}, EVAL | {"count": 40}):
        progress.record(record)
    assert stream.getvalue().splitlines() == [
        "step 6: held-out exact accuracy 0.2500 on the first 12 of 40 puzzles, standard error 0.1250",
        "step 6: held-out exact accuracy -3.0000 on the first 12 of 40 puzzles",  # no share
        "step 6: held-out exact accuracy 0.2500 on 40 puzzles",
    ]


def test_a_terminal_gets_a_bar(trm, tmp_path):
    """A whole run with a terminal as standard error."""
    with Terminal() as terminal:
        result = trm.run("train", "demo", "--workdir", tmp_path / "run", *tiny.arguments(), terminal=terminal.name)
    assert result.code == 0
    text = terminal.text
    assert "━" in text and "12/12" in text and "left" in text
    assert re.search(r"loss \d+\.\d{3}", text)
    assert "step 6: held-out exact accuracy" in text and "step 12: held-out exact accuracy" in text


def test_a_signal_while_puzzles_are_read_stops_a_run_and_nothing_is_lost(capsys):
    """As at any later step: the code of a run that goes on with the same command, which launchers know."""
    stream, stop = io.StringIO(), []
    with pytest.raises(StoppedEarly) as stopped, reading(stop, stream=stream) as progress:
        progress(1, 3)
        stop.append("SIGTERM")
        progress(2, 3)
    assert report_failure(stopped.value) == EXIT_STOPPED
    assert capsys.readouterr().err == "stopped before the first step; the same command goes on\n"
