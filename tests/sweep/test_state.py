"""sweep.json is valid at any moment and forgets nothing; one sweep at a time."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import faults
from trm_jax.errors import InputError
from trm_jax.sweep.run import DONE, RUNNING, STOPPED, WAITING, Run
from trm_jax.sweep.state import STATE_FILE, State, alone, read


def runs(root: Path, *names: str) -> list[Run]:
    return [Run(name, 0, root / name, None, ("train", name, "--workdir", str(root / name))) for name in names]


def test_what_is_written_is_read(tmp_path):
    first, second = runs(tmp_path, "a", "b")
    second.state, second.score = DONE, 0.5
    State(tmp_path, [first, second]).write()
    first, second = json.loads((tmp_path / STATE_FILE).read_text())["runs"]
    assert read(tmp_path) == {"a": first, "b": second}
    assert (first["state"], second["state"], second["score"]) == (WAITING, DONE, 0.5)
    assert first["command"] == f"trm train a --workdir {tmp_path}/a"
    assert [file.name for file in tmp_path.iterdir()] == [STATE_FILE]


def test_entries_of_other_runs_stay(tmp_path):
    first, second = runs(tmp_path, "a", "b")
    first.exit_codes, first.state = [0], DONE
    second.exit_codes, second.started = [70], "2026-01-01T10:00:00+00:00"
    State(tmp_path, [first, second]).write()
    before, (third, second) = read(tmp_path), runs(tmp_path, "c", "b")
    State(tmp_path, [third, second]).write()
    after = read(tmp_path)
    assert list(after) == ["c", "b", "a"] and after["a"] == before["a"]
    assert (second.exit_codes, second.started) == ([70], "2026-01-01T10:00:00+00:00")


def test_what_ran_when_its_sweep_was_killed_does_not_run(tmp_path):
    [run] = runs(tmp_path, "a")
    run.state = RUNNING
    State(tmp_path, [run]).write()
    State(tmp_path, []).write()
    assert read(tmp_path)["a"]["state"] == STOPPED


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"runs": 1}', '{"runs": [{"name": "a"}]}', '{"runs": ["a"]}'])
def test_a_file_that_somebody_has_broken_is_not_replaced(tmp_path, text):
    (tmp_path / STATE_FILE).write_text(text)
    with pytest.raises(InputError, match=f"{STATE_FILE} does not describe a sweep .*; remove it"):
        State(tmp_path, [])
    assert (tmp_path / STATE_FILE).read_text() == text


def test_a_full_disk_keeps_the_old_file(tmp_path):
    with faults.small_disk(tmp_path / "disk", 64) as disk:
        state = State(disk, runs(disk, "a"))
        state.write()
        before = (disk / STATE_FILE).read_bytes()
        free = os.statvfs(disk)
        (disk / "filler").write_bytes(b"x" * free.f_bavail * free.f_bsize)
        with pytest.raises(OSError, match="No space left on device"):
            state.write()
        assert (disk / STATE_FILE).read_bytes() == before
        assert sorted(file.name for file in disk.iterdir()) == ["filler", STATE_FILE]
        (disk / "filler").unlink()
        state.write()


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
