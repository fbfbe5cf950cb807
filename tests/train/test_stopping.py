"""What the signals do to a stop request."""

import os
import signal

import pytest

from tests import tiny
from trm_jax.train.stopping import StopRequest


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_only_asks(number):
    with StopRequest() as stop:
        assert not stop
        os.kill(os.getpid(), number)
        assert stop and stop.name == number.name


def test_a_second_interrupt_interrupts_and_a_second_sigterm_does_not():
    with StopRequest() as stop:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.name == "SIGTERM"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_afterwards_the_handlers_are_those_of_before():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before[1]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_a_checkpoint_is_made_when_so_much_time_has_passed(tmp_path):
    changes = {"checkpoint.every_steps": 1000, "checkpoint.keep_last": 2, "eval.every_steps": 12}
    tiny.train_here(tmp_path / "never", {**changes, "checkpoint.every_minutes": 0})
    assert tiny.steps(tmp_path / "never") == [12]
    tiny.train_here(tmp_path / "always", {**changes, "checkpoint.every_minutes": 1e-9})
    assert tiny.steps(tmp_path / "always") == [11, 12]
