"""A run that was killed or stopped ends as if nothing had happened, bit for bit."""

import os
import random
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests import tiny
from tests.processes import ROOT, Process

CHANGES = {"train.steps": 48, "checkpoint.every_steps": 4, "eval.every_steps": 12, "eval.batch_size": 2}


def command(workdir: Path) -> list[str]:
    return ["train", "demo", "--workdir", str(workdir), *tiny.arguments(CHANGES)]


def half_written(workdir: Path) -> set[tuple[str, int]]:
    """Folders of checkpoints that are not whole: of one being saved, or left by a kill. (Name, inode) of each."""
    found = set()
    try:
        for folder in (workdir / "checkpoints").iterdir():
            if ".orbax-checkpoint-tmp" in folder.name:
                found.add((folder.name, folder.stat().st_ino))
    except FileNotFoundError:
        return set()  # nothing has been saved yet, or the folder was renamed while we looked: it is whole now
    return found


def logged(workdir: Path) -> int:
    try:
        return (workdir / "metrics.jsonl").read_text().count("\n")
    except FileNotFoundError:
        return 0


@pytest.fixture(scope="module")
def undisturbed(trm, tmp_path_factory):
    """A run that nobody disturbed, and how long a life of it takes in seconds."""
    workdir = tmp_path_factory.mktemp("undisturbed") / "run"
    trm.run(*command(workdir.with_name("compiles")))
    began = time.monotonic()
    result = trm.run(*command(workdir))
    assert result.code == 0, result.err
    return workdir, time.monotonic() - began


def kill_some_time(process: Process, workdir: Path, draw: random.Random, life_s: float) -> str:
    """Kill at a random moment: of the whole life, between steps, or inside a checkpoint. "" if it was done before."""
    leftovers = half_written(workdir)  # of the life before: no sign of a save in this one

    def being_written() -> bool:
        return bool(half_written(workdir) - leftovers)

    moment = draw.choice(["any time", "while it trains", "inside a checkpoint"])
    if moment == "any time":
        deadline = time.monotonic() + draw.uniform(0, life_s)
        process.until(lambda: time.monotonic() >= deadline)
    elif moment == "while it trains":
        before, lines = logged(workdir), draw.randint(1, 12)
        process.until(lambda: logged(workdir) >= before + lines)
    else:
        # The folder lives for some 20 to 100 ms. Not always the first: or no life would get past one.
        for _ in range(draw.randint(1, 3)):
            process.until(lambda: not being_written())
            process.until(being_written)
        time.sleep(draw.uniform(0, 0.02))
    if not process.alive():
        return ""
    process.kill()
    process.until(lambda: False)  # gone: nothing is renamed any more
    return "half a checkpoint" if being_written() else moment


def survive_kills(trm, undisturbed, folder: Path, kills: int, seed: int) -> list[str]:
    """Kill runs `kills` times in all, each run until it ends by itself and is like the undisturbed one."""
    reference, life_s = undisturbed
    draw, moments, number = random.Random(seed), [], 0
    while len(moments) < kills:
        workdir = folder / f"run{number}"
        number += 1
        while len(moments) < kills:
            process = trm.start(*command(workdir))
            moment = kill_some_time(process, workdir, draw, life_s)
            result = process.wait()
            if not moment or result.code == 0:
                break  # it was quicker; the next kill is for a new run
            assert result.code == -signal.SIGKILL
            moments.append(moment)
        result = trm.run(*command(workdir))
        assert result.code == 0, result.err
        tiny.assert_same_end(reference, workdir)
    print(f"{number} runs, killed at {moments}")  # shown by pytest -s
    return moments


def test_a_killed_run_goes_on_exactly(trm, undisturbed, tmp_path):
    assert len(survive_kills(trm, undisturbed, tmp_path, kills=4, seed=3)) == 4


@pytest.mark.slow
def test_twenty_kills_at_random_moments(trm, undisturbed, tmp_path):
    moments = survive_kills(trm, undisturbed, tmp_path, kills=20, seed=1)
    assert len(moments) == 20
    assert "half a checkpoint" in moments


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_run_saves_says_how_to_go_on_and_ends_exactly(trm, undisturbed, tmp_path, number):
    workdir = tmp_path / "run"
    process = trm.start(*command(workdir))
    process.until(lambda: logged(workdir) >= 3)
    process.signal(number)
    result = process.wait()
    assert result.code == 75, result.err
    stopped, following = result.out.splitlines()
    step = tiny.steps(workdir)[-1]
    assert stopped == f"stopped by {number.name} and saved at step {step} of 48"
    assert 6 <= step < 48  # it had logged step 6 when asked, and one step is a matter of milliseconds
    # The line names a command that works as it stands.
    following = following.removeprefix("next: trm ").removesuffix("   (goes on from there)")
    result = trm.run(*shlex.split(following))
    assert result.code == 0, result.err
    assert f"going on from step {step} of 48" in result.err
    tiny.assert_same_end(undisturbed[0], workdir)


@pytest.fixture(scope="module")
def undisturbed_here(tmp_path_factory):
    """In this process: its eight devices leave XLA other numbers of threads, so other roundings."""
    workdir = tmp_path_factory.mktemp("undisturbed_here") / "run"
    tiny.train_here(workdir, CHANGES)
    return workdir


def test_a_stop_during_an_evaluation_repeats_the_evaluation(undisturbed_here, tmp_path):
    """The evaluation of step 12 has six batches; the stop comes between the first and the second."""
    workdir = tmp_path / "run"

    class StopInEvaluation(tiny.StopRequest):
        """Set when the evaluation asks for the second time."""

        asked = 0

        def __bool__(self):
            inside = ".run_evaluation." in sys._getframe(2).f_code.co_qualname  # who asks whether it was told to
            self.asked += inside
            if inside and self.asked == 2:
                self.name = "SIGTERM"
            return super().__bool__()

    stop = StopInEvaluation()
    outcome = tiny.train_here(workdir, CHANGES, stop=stop)
    assert (outcome.step, outcome.stopped_by) == (12, "SIGTERM")
    assert stop.asked == 2 and not tiny.records(workdir, "eval") and tiny.steps(workdir)[-1] == 12
    lines = []
    tiny.train_here(workdir, CHANGES, lines=lines)
    assert lines[1] == "going on from step 12 of 48" and lines[2].startswith("step 12: held-out")
    tiny.assert_same_end(undisturbed_here, workdir)


def test_a_stop_before_the_first_step_saves_the_beginning(undisturbed_here, tmp_path):
    stop = tiny.StopRequest()
    stop.name = "SIGTERM"  # it came while the data was being read
    outcome = tiny.train_here(tmp_path / "run", CHANGES, stop=stop)
    assert (outcome.step, outcome.stopped_by, tiny.steps(tmp_path / "run")) == (0, "SIGTERM", [0])
    tiny.train_here(tmp_path / "run", CHANGES)
    tiny.assert_same_end(undisturbed_here, tmp_path / "run")


@pytest.mark.slow
def test_a_second_interrupt_leaves_at_once_and_loses_nothing(trm, undisturbed, tmp_path):
    workdir = tmp_path / "run"
    process = trm.start(*command(workdir))
    process.until(lambda: logged(workdir) >= 3)
    process.signal(signal.SIGINT)
    process.signal(signal.SIGINT)
    result = process.wait()
    # The two may fall so close together that the step was over in between; then it has been saved.
    assert result.code in (130, 75), result.err
    assert "Traceback" not in result.err
    assert trm.run(*command(workdir)).code == 0
    tiny.assert_same_end(undisturbed[0], workdir)


@pytest.mark.slow
def test_sigterm_to_python_dash_m(undisturbed, compilations, tmp_path):
    """The same through the interpreter as a launcher starts it, with nothing of the tests in between."""
    workdir = tmp_path / "run"
    environment = {**os.environ, "JAX_COMPILATION_CACHE_DIR": str(compilations), "PYTHONPATH": str(ROOT)}
    how = dict(env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path)
    process = subprocess.Popen([sys.executable, "-m", "trm_jax", *command(workdir)], **how)
    while process.poll() is None and logged(workdir) < 3:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert process.returncode == 75, err
    assert out.startswith("stopped by SIGTERM and saved at step ")
    done = subprocess.run([sys.executable, "-m", "trm_jax", *command(workdir)], **how)
    assert done.returncode == 0, done.stderr
    tiny.assert_same_end(undisturbed[0], workdir)
