"""Twenty faults in a row, of every kind that several hosts know, and the run ends as if there had been none."""

import os
import random
import signal
import time

import pytest

from tests import tiny
from tests.faults import largest_file, truncate
from tests.multihost.fleet import Fleet, all_gone

PROCESSES, FAULTS = 8, 20
LONG = {"train.steps": 96, "checkpoint.keep_every_steps": 0, "eval.every_steps": 24}


def logged(workdir) -> int:
    """Lines of the records; the last may be half written."""
    file = workdir / "metrics.jsonl"
    return file.read_bytes().count(b"\n") if file.exists() else 0


def disturb(fleet: Fleet, workdir, draw: random.Random) -> str:
    """Let a few steps pass, then do something to the fleet; returns what."""
    before, wait_for = logged(workdir), draw.randint(1, 6)
    fleet[0].until(lambda: logged(workdir) >= before + wait_for or not fleet[0].alive(), poll_s=0.01)
    time.sleep(draw.uniform(0, 0.2))
    victim = fleet[draw.randrange(PROCESSES)]
    fault = draw.choice(["kill", "kill the coordinator", "kill all", "signal", "delay", "kill and damage a checkpoint"])
    if fault == "kill the coordinator":
        victim = fleet[0]
    if fault == "delay":
        victim.signal(signal.SIGSTOP)
        time.sleep(draw.uniform(0.5, 3.0))
        victim.signal(signal.SIGCONT)
        return fault
    for one in fleet.processes if fault == "kill all" else [victim]:
        if one.alive():
            one.signal(signal.SIGTERM if fault == "signal" else signal.SIGKILL)
    all_gone(fleet, within_s=60)
    checkpoints = workdir / "checkpoints"
    if fault == "kill and damage a checkpoint" and len(steps := tiny.steps(workdir)) > 1:
        truncate(largest_file(checkpoints / str(steps[-1])))
    return fault


@pytest.mark.slow
@pytest.mark.timeout(3600)  # eight processes start twenty times
def test_twenty_faults_leave_no_trace(hosts, tmp_path):
    seed = int(os.environ.get("TRM_FAULT_SEED", "0"))
    draw, workdir, faults, lives = random.Random(seed), tmp_path / "run", [], 0
    hosts.must_finish(PROCESSES, tmp_path / "undisturbed", LONG)
    while len(faults) < FAULTS:
        fleet = hosts.start(PROCESSES, workdir, LONG)
        lives += 1
        while len(faults) < FAULTS and all(process.alive() for process in fleet.processes):
            faults.append(disturb(fleet, workdir, draw))
        if len(faults) < FAULTS:
            codes = [result.code for result in fleet.wait()]
            assert not any(code in (2, 70) for code in codes), (faults, codes)
            if codes == [0] * PROCESSES:  # it came to its end before the next fault
                pytest.fail(f"done after {len(faults)} faults; give it more steps")
    if not all(code == 0 for code in (result.code for result in fleet.wait())):
        hosts.must_finish(PROCESSES, workdir, LONG)
    print(f"seed {seed}: {lives} lives, faults: {', '.join(faults)}")
    tiny.assert_same_end(tmp_path / "undisturbed", workdir)
