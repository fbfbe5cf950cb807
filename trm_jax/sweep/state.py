"""What a sweep keeps in its folder: one `sweep.json` that is valid at any moment, and a lock."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from trm_jax.errors import InputError
from trm_jax.storage.paths import making, write_whole
from trm_jax.sweep.run import RUNNING, STOPPED, Run

STATE_FILE, LOCK_FILE = "sweep.json", ".sweep.lock"
EARLIER = ("exit_codes", "started", "ended")  # what a run has from the sweeps before
KEPT = ("name", "seed", "command", "state", "error", "score", *EARLIER)


class State:
    """`sweep.json` of the folder `root`: the runs of this sweep, before those that earlier sweeps have left."""

    def __init__(self, root: Path, runs: Sequence[Run]):
        self._file, self._runs, self._others = root / STATE_FILE, runs, read(root)
        for run in runs:
            before = self._others.pop(run.label, {})
            vars(run).update({key: before[key] for key in EARLIER if key in before})
        for entry in self._others.values():
            if entry["state"] == RUNNING:  # its sweep was killed: whoever holds the lock is the only one
                entry["state"] = STOPPED

    def write(self) -> None:
        """Replace the file in one step. Raises OSError when that is impossible (a full disk), and the old one stays."""
        entries = [{"folder": str(run.folder)} | {key: getattr(run, key) for key in KEPT} for run in self._runs]
        write_whole(self._file, json.dumps({"runs": [*entries, *self._others.values()]}, indent=1).encode())


def read(root: Path) -> dict[str, dict]:
    """The entries of `root` by the names of the runs' folders; none before its first sweep. Raises InputError."""
    file = root / STATE_FILE
    if not file.exists():
        return {}
    try:
        entries = json.loads(file.read_text())["runs"]
        return {Path(each["folder"]).name: {**each, "exit_codes": [*each["exit_codes"]]} for each in entries}
    except (ValueError, TypeError, KeyError) as error:
        mend = "remove it, the runs themselves know how far they are"
        raise InputError(f"{file} does not describe a sweep ({error}); {mend}") from None


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Be the only sweep in `root` (made if need be) for as long as the context lasts. Raises InputError otherwise.

    The lock ends with this process, whatever ends it: the processes it starts do not inherit the file.
    """
    if root.is_file():
        raise InputError(f"{root} is a file; --root wants a folder")
    with making(root):
        root.mkdir(parents=True, exist_ok=True)
    with open(root / LOCK_FILE, "ab+", buffering=0) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            who = f"another sweep (process {lock.read().decode().strip()}) is at work in {root}"
            raise InputError(f"{who}; wait for it, stop it with kill, or give another --root") from None
        lock.truncate(0)
        with suppress(OSError):  # a full disk: the lock holds without a name on it
            lock.write(f"{os.getpid()}\n".encode())
        yield
