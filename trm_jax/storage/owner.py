"""Whose a run in a bucket is: that of the process which claimed it last.

A lock would not do. A process that was killed cannot give it back, and nobody can tell it from one that is slow. So
each that comes takes the run over, and the one before finds that out before it writes again.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from datetime import UTC, datetime
from functools import cache

from trm_jax.errors import InputError
from trm_jax.storage.paths import BucketPath

OWNER_FILE = ".owner"


@cache
def _own_id() -> str:
    return uuid.uuid4().hex


def take_over(workdir: BucketPath) -> None:
    """Make this process the owner of the run in `workdir`."""
    since = datetime.now(UTC).isoformat(timespec="seconds")
    who = {"id": _own_id(), "host": socket.gethostname(), "process": os.getpid(), "since": since}
    (workdir / OWNER_FILE).write_text(json.dumps(who) + "\n")


def require_owner(workdir: BucketPath) -> None:
    """Raise InputError when another process has taken over the run in `workdir` from this one."""
    try:
        who = json.loads((workdir / OWNER_FILE).read_text())
    except FileNotFoundError:
        return  # nobody has claimed it
    if who["id"] != _own_id():
        raise InputError(
            f"another process took over {workdir} (process {who['process']} of {who['host']}, {who['since']}); this "
            "one stops and leaves the run to it; let one process at a time work there"
        )
