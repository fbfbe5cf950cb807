"""TensorBoard's view of a run's records: one event file of scalars, made anew from the metrics file at each start."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Sequence

from trm_jax.storage.output import open_output
from trm_jax.storage.paths import AnyPath
from trm_jax.train.writers import scalars


class TensorboardWriter:
    """The folder `tensorboard` of the workdir, with one file that holds the records `kept` and those that follow.

    tensorboardX gives the format; not its SummaryWriter, whose thread and exit hook report a full disk with tracebacks
    of their own after the run's line.
    """

    def __init__(self, workdir: AnyPath, kept: Sequence[dict], say: Callable[[str], None] = print):
        folder = workdir / "tensorboard"
        earlier = [path for path in folder.iterdir() if ".tfevents." in path.name] if folder.is_dir() else []
        self._began = time.time() - max((_elapsed_s(record) for record in kept), default=0.0)
        # A TensorBoard that is open forgets at a start what it has read of later steps, which here is all.
        events = [_event(self._began, file_version="brain.Event:2"), _event(self._began, session_log={"status": 1})]
        content = b"".join([*events, *map(self._summary, kept)])
        # Named so that files sort by time, two of one second included.
        name = f"tensorboard/events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._file = open_output(workdir, name, content, say)
        for path in earlier:
            path.unlink(missing_ok=True)

    def _summary(self, record: dict) -> bytes:
        values = [{"tag": name, "simple_value": value} for name, value in scalars(record).items()]
        return _event(self._began + _elapsed_s(record), step=record["step"], summary={"value": values})

    def write(self, record: dict) -> None:
        self._file.append(self._summary(record))

    def close(self) -> None:
        self._file.close()


def _elapsed_s(record: dict) -> float:
    return record.get("clock", {}).get("elapsed_s", 0.0)


def _event(wall_time: float, **fields) -> bytes:
    """An event as a record of the file: its length and content, each with a checksum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content = Event(wall_time=wall_time, **fields).SerializeToString()
    length = struct.pack("<Q", len(content))
    sums = [struct.pack("<I", masked_crc32c(part)) for part in (length, content)]
    return length + sums[0] + content + sums[1]
