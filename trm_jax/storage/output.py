"""Whose the folder of a run is, and the files that its owner writes there bit by bit, on this machine or in a bucket.

On this machine a lock says whose it is. In a bucket a lock would not do: a process that was killed cannot give it
back, and nobody can tell it from one that is slow. There each process that comes takes the run over, and the one
before finds that out before it writes again.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from trm_jax.errors import InputError, OutOfReach
from trm_jax.storage import bucket
from trm_jax.storage.paths import AnyPath, BucketPath, making, replacement, require_access

LOCK_FILE, OWNER_FILE = ".lock", ".owner"
EVERY_S = 60.0  # how often a file is sent to a bucket while it changes
_BYTES_PER_S = 50_000  # what sending may take on average: one that has grown large is sent less often


@contextmanager
def owned(workdir: AnyPath, check: Callable[[], None], option: str = "--workdir") -> Iterator[None]:
    """Let this process alone work in `workdir`, which is made if need be, for as long as the context lasts.

    check: raises when the folder must not be used; in a bucket it is called before another process loses the run.
    Raises InputError when `workdir` is a file or, on this machine, another process works there.
    """
    remote = isinstance(workdir, BucketPath)
    if remote:
        require_access(workdir, write=True)
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir} is a file; {option} wants a folder")
    if remote:
        check()
        take_over(workdir)
        check()
        yield
        return
    with making(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / LOCK_FILE, "w") as lock:
        if not _locks(lock):
            raise InputError(f"another process is working in {workdir}; wait for it or use another {option}")
        check()
        yield


def _locks(file) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def taken(workdir: Path) -> bool:
    """Whether a process is at work in a folder of this machine."""
    if not (workdir / LOCK_FILE).exists():
        return False
    with open(workdir / LOCK_FILE, "r+") as lock:
        return not _locks(lock)


@cache
def _own_id() -> str:
    return uuid.uuid4().hex


def take_over(workdir: BucketPath) -> None:
    """Make this process the owner of the run in `workdir`."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    who = {"id": _own_id(), "host": socket.gethostname(), "process": os.getpid(), "since": since}
    (workdir / OWNER_FILE).write_text(json.dumps(who) + "\n")


def require_owner(workdir: AnyPath) -> None:
    """Raise InputError when another process has taken over the run in `workdir`, in a bucket, from this one."""
    try:
        who = json.loads((workdir / OWNER_FILE).read_text()) if isinstance(workdir, BucketPath) else None
    except FileNotFoundError:
        return  # nobody has claimed it
    if who and who["id"] != _own_id():
        raise InputError(
            f"another process took over {workdir} (process {who['process']} of {who['host']}, {who['since']}); this "
            "one stops and leaves the run to it; let one process at a time work there"
        )


def open_output(workdir: AnyPath, name: str, content: bytes = b"", say: Callable[[str], None] = print) -> Output:
    """The file `name` in the folder of a run, which holds `content` from now on.

    In a bucket every method raises InputError once another process has taken over the run, and `sync` and `close`
    raise OutOfReach when the storage does not answer. In between that is only told to `say`, and tried again.
    """
    if isinstance(workdir, BucketPath):
        return _BucketOutput(workdir, name, content, say)
    return Output(workdir / name, content)


class Output:
    """A file that only this process writes; others see it whole at any time. `sync` makes it survive a crash."""

    def __init__(self, path: Path, content: bytes):
        self._path, self._file = path, None
        self.replace(content, durable=True)

    def append(self, content: bytes) -> None:
        self._file.write(content)
        self._file.flush()

    def replace(self, content: bytes, durable: bool = False) -> None:
        self.close()
        with replacement(self._path) as temporary:
            self._file = open(temporary, "ab")  # which stays open under its new name
            self.append(content)
            if durable:
                self.sync()

    def sync(self) -> None:
        os.fsync(self._file.fileno())

    def close(self) -> None:
        if self._file:
            self._file.close()


class _BucketOutput(Output):
    """Objects cannot be appended to, so the whole is sent: at `sync`, and in between while other things go on.

    A file of records stays far smaller than the checkpoints that are sent at the same time.
    """

    def __init__(self, workdir: BucketPath, name: str, content: bytes, say: Callable[[str], None]):
        self._workdir, self._path, self._say = workdir, workdir / name, say
        self._content, self._sent = bytearray(content), None
        self._generation: int | None = None  # any: what the run has left there before
        self._pool, self._under_way = ThreadPoolExecutor(1), None
        self._failed = False
        try:
            self.sync()
        except BaseException:
            self._pool.shutdown()
            raise

    def append(self, content: bytes) -> None:
        self._content += content
        self._send_soon()

    def replace(self, content: bytes) -> None:
        self._content = bytearray(content)
        self._send_soon()

    def _send_soon(self) -> None:
        self._failed = True
        if time.monotonic() >= self._due and (self._under_way is None or self._under_way.done()):
            self._wait()
            self._under_way = self._pool.submit(self._send, self._snapshot())
        self._failed = False

    def _snapshot(self) -> bytes:
        self._due = time.monotonic() + max(EVERY_S, len(self._content) / _BYTES_PER_S)
        return bytes(self._content)

    def _wait(self) -> None:
        """Raises what the sending under way raises, unless the storage does not answer."""
        under_way, self._under_way = self._under_way, None
        try:
            if under_way:
                under_way.result()
        except OutOfReach as error:
            self._say(f"note: {error.reason}; it is sent later")

    def _send(self, content: bytes) -> None:
        require_owner(self._workdir)
        if content == self._sent:
            return
        try:
            self._generation = bucket.put(self._path, content, self._generation)
        except FileExistsError:  # what was sent before has arrived though no answer came, or another process wrote
            found = bucket.look(self._path)
            require_owner(self._workdir)  # asked last: what a new owner writes is another object than the one found
            self._generation = bucket.put(self._path, content, int(found["generation"]) if found else 0)
        self._sent = content

    def sync(self) -> None:
        self._failed = True
        self._wait()
        self._send(self._snapshot())
        self._failed = False

    def close(self) -> None:
        try:
            if not self._failed:  # else there is nothing to be gained by trying again
                self.sync()
        finally:
            self._pool.shutdown()
