"""sweep.json is valid at any moment and forgets nothing."""

import json
import os
from pathlib import Path

import pytest

from tests import faults
from trm_jax.errors import InputError
from trm_jax.sweep.run import DONE, RUNNING, STATE_FILE, STOPPED, WAITING, Run, State, read


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
