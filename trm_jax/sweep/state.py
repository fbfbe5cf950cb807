"""What a sweep keeps in its folder: one `sweep.json` that is valid at any moment, and a lock."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path

from trm_jax.errors import InputError
from trm_jax.storage.paths import making, write_whole
from trm_jax.sweep.plan import Run

STATE_FILE, LOCK_FILE = "sweep.json", ".sweep.lock"

WAITING, RUNNING, DONE = "waiting", "running", "done"
STOPPED = "stopped"  # saved and not finished
FAILED = "failed"  # died, more often than it was to be tried again
DIVERGED = "diverged"
REFUSED = "refused"  # bad input or a full disk: trying again changes nothing
BAD_ENDS = (FAILED, DIVERGED, REFUSED)


def now() -> str:
    """The time of day in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass
class Entry:
    """A run as `sweep.json` has it. `attempts` and `exit_codes` are of all sweeps; times are UTC; `error`: one line."""

    name: str
    seed: int | None
    folder: str
    command: str
    state: str = WAITING
    attempts: int = 0
    exit_codes: list[int] = field(default_factory=list)
    started: str = ""
    ended: str = ""
    error: str = ""
    score: float | None = None  # the headline of its task


class State:
    """The entries of a sweep's runs by folder, before those that earlier sweeps have left in `root`."""

    def __init__(self, root: Path, runs: Sequence[Run]):
        self._file = root / STATE_FILE
        kept = read(root)
        self.entries: dict[str, Entry] = {}
        for run in runs:
            entry = kept.pop(run.label, None) or Entry(run.name, run.seed, "", "")
            entry.seed, entry.folder = run.seed, str(run.folder)
            if not entry.started:  # otherwise it says how the run was trained
                entry.command = run.command
            self.entries[run.label] = entry
        self.entries |= kept
        for entry in self.entries.values():
            if entry.state == RUNNING:  # its sweep was killed: whoever holds the lock is the only one
                entry.state = STOPPED

    def of(self, run: Run) -> Entry:
        return self.entries[run.label]

    def write(self) -> str:
        """Replace `sweep.json` in one step; the reason when that is impossible (a full disk) and the old one stays."""
        content = json.dumps({"runs": [asdict(entry) for entry in self.entries.values()]}, indent=1)
        try:
            write_whole(self._file, content.encode())
        except OSError as error:
            return f"{self._file} was not written ({error.strerror}); the one before stays"
        return ""


def read(root: Path) -> dict[str, Entry]:
    """The entries of `root` by the names of the runs' folders; none before its first sweep. Raises InputError."""
    file = root / STATE_FILE
    if not file.exists():
        return {}
    known = {each.name for each in fields(Entry)}  # other versions keep other things besides
    try:
        found = [{k: v for k, v in entry.items() if k in known} for entry in json.loads(file.read_text())["runs"]]
        return {Path(entry["folder"]).name: Entry(**entry) for entry in found}
    except (ValueError, TypeError, KeyError, AttributeError) as error:
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
