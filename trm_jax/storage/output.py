"""Files that a run writes bit by bit while it goes on, on this machine or in a bucket."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from trm_jax.errors import OutOfReach
from trm_jax.storage import bucket
from trm_jax.storage.owner import require_owner
from trm_jax.storage.paths import AnyPath, BucketPath, replacement

EVERY_S = 60.0  # how often a file is sent to a bucket while it changes
_BYTES_PER_S = 50_000  # what sending may take on average: one that has grown large is sent less often


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
