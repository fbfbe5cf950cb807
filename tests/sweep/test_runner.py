"""To the end whatever happens: how processes end, what is tried again, what is not."""

import fcntl
import json
import os
import threading
import time

import pytest

from tests import faults
from tests.sweep.conftest import StopOnce
from trm_jax.configs.workdir import LOG_FILE
from trm_jax.sweep.run import DIVERGED, DONE, FAILED, REFUSED, RUNNING, STATE_FILE, STOPPED, WAITING

# Ends well at the third attempt: each leaves a letter.
THIRD_TIME = "echo -n x >> {root}/count; [ $(cat {root}/count) = xxx ] || exit {code}"


def ends(entries) -> dict[str, tuple[str, list[int]]]:
    return {name: (entry["state"], entry["exit_codes"]) for name, entry in entries.items()}


def test_every_exit_code_has_its_meaning_and_none_stops_the_others(shell):
    scripts = {
        "good": "exit 0",
        "diverges": "echo 'error: the loss is not finite at step 3' >&2; exit 1",
        "bad": "echo 'error: unknown setting' >&2; echo bye; exit 2",
        "crashes": "echo Traceback; echo 'ValueError: no'; exit 70",
        "silent": "exit 3",
        "killed": "echo '12 runs side by side'; kill -9 $$",
        "last": "exit 0",
    }
    entries = shell.sweep(scripts, retries=1)
    assert ends(entries) == {
        "good": (DONE, [0]),
        "diverges": (DIVERGED, [1]),
        "bad": (REFUSED, [2]),
        "crashes": (FAILED, [70, 70]),
        "silent": (FAILED, [3, 3]),
        "killed": (FAILED, [-9, -9]),
        "last": (DONE, [0]),
    }
    assert {name: entry["error"] for name, entry in entries.items()} == {
        "good": "",
        "diverges": "the loss is not finite at step 3",
        "bad": "unknown setting",
        "crashes": "exit code 70: ValueError: no",
        "silent": "exit code 3",
        "killed": "killed by SIGKILL (out of memory?): 12 runs side by side",
        "last": "",
    }
    assert all(entry["started"] <= entry["ended"] and entry["ended"] for entry in entries.values())
    assert "bad: refused, unknown setting" in shell.lines


@pytest.mark.parametrize("retries, state, codes", [(2, DONE, [5, 5, 0]), (1, FAILED, [5, 5]), (0, FAILED, [5])])
def test_what_dies_is_tried_again_so_often(shell, retries, state, codes):
    entries = shell.sweep({"a": THIRD_TIME.format(root=shell.root, code=5)}, retries=retries)
    assert ends(entries) == {"a": (state, codes)}
    assert bool(entries["a"]["error"]) == (state == FAILED)


def test_being_stopped_from_outside_is_no_failure(shell):
    scripts = {
        "a": THIRD_TIME.format(root=shell.root, code=75),
        "b": f"[ -e {shell.root}/once ] || {{ touch {shell.root}/once; kill $$; sleep 9; }}",
    }
    assert ends(shell.sweep(scripts, retries=0)) == {"a": (DONE, [75, 75, 0]), "b": (DONE, [-15, 0])}


def test_pauses_grow_and_the_others_go_on_meanwhile(shell):
    moments = f"date +%s.%N >> {shell.root}/moments; exit 4"
    entries = shell.sweep({"a": moments, "b": "exit 0"}, retries=2, pause_s=0.4)
    first, second, third = map(float, (shell.root / "moments").read_text().split())
    # 0.4 and 0.8 s, at least; a busy machine makes them longer, not shorter.
    assert second - first >= 0.4 and third - second >= 0.8
    assert [line for line in shell.lines if "started" in line][:2] == ["a: started", "b: started"]
    assert ends(entries) == {"a": (FAILED, [4, 4, 4]), "b": (DONE, [0])}


def test_logs_keep_every_attempt(shell):
    shell.sweep({"a": "echo out; echo err >&2; exit 5"}, retries=1)
    lines = (shell.root / "a" / LOG_FILE).read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["---", "out", "err"] * 2
    assert lines[0].endswith("trm 'echo out; echo err >&2; exit 5'")


def test_jobs_run_side_by_side_each_in_its_place(shell):
    """Each waits for the other to have begun; one after the other they would give up."""
    wait = "for i in $(seq 100); do [ -e {root}/{other} ] && echo $WHERE && exit; sleep 0.1; done; exit 3"
    scripts = {
        me: f"touch {shell.root}/{me}-began; " + wait.format(root=shell.root, other=f"{other}-began")
        for me, other in ("ab", "ba")
    }
    places = [{"WHERE": "here"}, {"WHERE": "there"}]
    assert ends(shell.sweep(scripts, slots=places)) == {"a": (DONE, [0]), "b": (DONE, [0])}
    said = [(shell.root / name / LOG_FILE).read_text().splitlines()[-1] for name in "ab"]
    assert said == ["here", "there"]


def test_the_state_is_valid_and_right_while_it_runs(shell):
    """Read as often as possible by somebody else."""
    seen, over = [], threading.Event()

    def watch():
        while not over.is_set():
            if (shell.root / STATE_FILE).exists():
                entries = json.loads((shell.root / STATE_FILE).read_text())["runs"]
                seen.append(tuple(entry["state"] for entry in entries))

    watcher = threading.Thread(target=watch)
    watcher.start()
    shell.sweep({"a": "sleep 0.3; exit 5", "b": "sleep 0.3"}, retries=1, pause_s=0.3)
    over.set()
    watcher.join()
    assert len(seen) > 100
    moments = list(dict.fromkeys(seen))
    lasting = [(RUNNING, WAITING), (WAITING, RUNNING), (RUNNING, DONE), (FAILED, DONE)]
    assert [moment for moment in moments if moment in lasting] == lasting
    assert set(moments) <= {*lasting, (WAITING, WAITING), (WAITING, DONE)}


def test_a_stop_is_passed_on_waited_for_and_written_down(shell):
    """The first saves and says 75, the second never begins."""
    scripts = {"a": f"trap 'exit 75' TERM; touch {shell.root}/began; while :; do sleep 0.05; done", "b": "exit 0"}

    shell.stop = StopOnce((shell.root / "began").exists)
    entries = shell.sweep(scripts)
    assert ends(entries) == {"a": (STOPPED, [75]), "b": (WAITING, [])}
    assert "SIGTERM: the runs save and stop" in shell.lines


def test_a_second_interrupt_leaves_no_process_behind(shell):
    pid_file = shell.root / "pid"

    def interrupt():
        if pid_file.exists() and pid_file.read_text():
            raise KeyboardInterrupt
        return False

    shell.stop = StopOnce(interrupt)
    with pytest.raises(KeyboardInterrupt):
        shell.sweep({"a": f"trap '' TERM; echo $$ > {pid_file}; while :; do sleep 0.05; done"})
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)
    [entry] = json.loads((shell.root / STATE_FILE).read_text())["runs"]
    assert (entry["state"], entry["error"]) == (STOPPED, "killed with the sweep")


def test_a_folder_in_which_somebody_works_is_waited_for(shell):
    (shell.root / "a").mkdir(parents=True)
    with open(shell.root / "a" / ".lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        release = time.monotonic() + 0.5

        def later():
            if time.monotonic() > release:
                fcntl.flock(lock, fcntl.LOCK_UN)
            return False

        shell.stop = StopOnce(later)
        entries = shell.sweep({"a": "exit 0", "b": "exit 0"})
    assert ends(entries) == {"a": (DONE, [0]), "b": (DONE, [0])}
    assert [line for line in shell.lines if line.endswith("started")] == ["b: started", "a: started"]


def test_a_full_disk_costs_a_line_and_not_the_sweep(shell, tmp_path):
    with faults.small_disk(tmp_path / "disk", 64) as disk:
        shell.root = disk / "root"
        fill = f"cat /dev/zero > {disk}/filler 2>/dev/null; echo 'error: the disk is full' >&2; exit 2"
        entries = shell.sweep({"a": "exit 0", "b": fill, "c": "exit 0"})
        # The file on the disk is the last that could be written; what is known is in the lines.
        assert ends(entries)["a"] == (DONE, [0])
        assert [line for line in shell.lines if line.startswith("warning")] == [
            f"warning: {STATE_FILE} was not written (No space left on device); the one before stays"
        ]
        assert any(line.startswith("b: refused") for line in shell.lines)
        assert shell.lines[-1].startswith(f"c: refused, {disk}/root/c")
        assert shell.lines[-1].endswith("No space left on device")
        (disk / "filler").unlink()
        assert ends(shell.sweep({"b": "exit 0", "c": "exit 0"})) == {
            "b": (DONE, [0]),
            "c": (DONE, [0]),
            "a": (DONE, [0]),
        }
