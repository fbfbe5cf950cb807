"""sweep.json is valid at any moment and forgets nothing; one sweep at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import faults
from trm_jax.errors import InputError
from trm_jax.sweep.plan import Run
from trm_jax.sweep.state import DONE, RUNNING, STATE_FILE, STOPPED, WAITING, State, alone, read


def runs(root: Path, *names: str) -> list[Run]:
    return [Run(name, 0, root / name, None, ("train", name, "--workdir", str(root / name))) for name in names]


def test_what_is_written_is_read(tmp_path):
    state = State(tmp_path, runs(tmp_path, "a", "b"))
    state.entries["b"].state, state.entries["b"].score = DONE, 0.5
    assert state.write() == ""
    assert read(tmp_path) == state.entries
    [first, second] = json.loads((tmp_path / STATE_FILE).read_text())["runs"]
    assert (first["state"], second["state"], second["score"]) == (WAITING, DONE, 0.5)
    assert first["command"] == f"trm train a --workdir {tmp_path}/a"
    assert [file.name for file in tmp_path.iterdir()] == [STATE_FILE]


def test_entries_of_other_runs_stay(tmp_path):
    before = State(tmp_path, runs(tmp_path, "a", "b"))
    before.entries["a"].exit_codes, before.entries["a"].state = [0], DONE
    before.entries["b"].exit_codes, before.entries["b"].attempts = [70], 1
    before.entries["b"].command, before.entries["b"].started = "trm train b --set seed=1", "2026-01-01T10:00:00+00:00"
    before.write()
    state = State(tmp_path, runs(tmp_path, "c", "b"))
    assert list(state.entries) == ["c", "b", "a"]
    assert state.entries["a"] == before.entries["a"]
    assert (state.entries["b"].exit_codes, state.entries["b"].attempts) == ([70], 1)
    assert state.entries["b"].command == "trm train b --set seed=1", "how it was trained, until it is trained again"


def test_what_ran_when_its_sweep_was_killed_does_not_run(tmp_path):
    before = State(tmp_path, runs(tmp_path, "a"))
    before.entries["a"].state = RUNNING
    before.write()
    assert State(tmp_path, runs(tmp_path, "b")).entries["a"].state == STOPPED


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"runs": 1}', '{"runs": [{"name": "a"}]}', '{"runs": ["a"]}'])
def test_a_file_that_somebody_has_broken_is_not_replaced(tmp_path, text):
    (tmp_path / STATE_FILE).write_text(text)
    with pytest.raises(InputError, match=f"{STATE_FILE} does not describe a sweep .*; remove it"):
        State(tmp_path, [])
    assert (tmp_path / STATE_FILE).read_text() == text


def test_a_full_disk_keeps_the_old_file(tmp_path):
    with faults.small_disk(tmp_path / "disk", 64) as disk:
        state = State(disk, runs(disk, "a"))
        assert state.write() == ""
        before = (disk / STATE_FILE).read_bytes()
        free = os.statvfs(disk)
        (disk / "filler").write_bytes(b"x" * free.f_bavail * free.f_bsize)
        assert state.write() == f"{disk}/{STATE_FILE} was not written (No space left on device); the one before stays"
        assert (disk / STATE_FILE).read_bytes() == before
        assert sorted(file.name for file in disk.iterdir()) == ["filler", STATE_FILE]
        (disk / "filler").unlink()
        assert state.write() == ""


def test_a_second_sweep_is_refused_and_told_of_the_first(tmp_path):
    root = tmp_path / "new" / "root"
    with alone(root):
        for _ in range(2):  # the refusal leaves the lock as it was
            with pytest.raises(InputError, match=rf"another sweep \(process {os.getpid()}\) is at work in {root}; "):
                with alone(root):
                    raise AssertionError("two sweeps in one folder")
    with alone(root):
        assert (root / ".sweep.lock").read_text() == f"{os.getpid()}\n"


def test_a_process_that_outlives_its_sweep_does_not_keep_the_lock(tmp_path):
    script = (
        "import subprocess, sys; from pathlib import Path; from trm_jax.sweep.state import alone\n"
        "with alone(Path(sys.argv[1])):\n"
        "    print(subprocess.Popen(['sleep', '60']).pid, flush=True)\n"
        "    import os, signal; os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, text=True)
    orphan = int(parent.stdout.readline())
    parent.stdout.close()
    parent.wait()
    try:
        os.kill(orphan, 0)
        with alone(tmp_path):
            assert (tmp_path / ".sweep.lock").read_text() == f"{os.getpid()}\n"
    finally:
        os.kill(orphan, 9)


def test_a_root_that_is_a_file(tmp_path):
    (tmp_path / "root").write_text("")
    with pytest.raises(InputError, match="root is a file; --root wants a folder"):
        with alone(tmp_path / "root"):
            raise AssertionError("it was taken for a folder")


def test_a_root_that_cannot_be_made():
    with pytest.raises(InputError, match="cannot write /proc/root_of_sweeps: "):
        with alone(Path("/proc/root_of_sweeps")):
            raise AssertionError("it was made")
