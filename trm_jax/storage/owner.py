"""Whose the folder of a run is.

On this machine a lock says it. In a bucket a lock would not do: a process that was killed cannot give it back, and
nobody can tell it from one that is slow. There each process that comes takes the run over, and the one before finds
that out before it writes again.
"""

from __future__ import annotations

import fcntl
import json
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, BucketPath, making, require_access

LOCK_FILE, OWNER_FILE = ".lock", ".owner"


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
