"""TensorBoard's view of a run's records: event files, in the workdir or sent to a bucket in segments."""

from __future__ import annotations

import re
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from trm_jax.storage import bucket
from trm_jax.storage.beside import Beside
from trm_jax.storage.owner import require_owner
from trm_jax.storage.paths import AnyPath, BucketPath
from trm_jax.train.writers import METRICS_FILE, Writer, read_jsonl, scalars


class EventFile:
    """A TensorBoard file of scalars: `train/loss`, `eval/exact_accuracy`, ...

    tensorboardX gives the format; not its SummaryWriter, whose thread and exit hook report a full disk with tracebacks
    of their own after the run's line, and which sends a file to a bucket anew at each flush.
    """

    def __init__(self, folder: Path):
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._event = event_pb2.Event
        # Named so that files sort by time, two of one second included.
        self.path = folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._file = RecordWriter(str(self.path))
        self.last_step = 0
        self._add(file_version="brain.Event:2")

    def _add(self, **event) -> None:
        self._file.write(self._event(wall_time=time.time(), **event).SerializeToString())

    def go_on_after(self, step: int) -> None:
        """What earlier files say of later steps is void."""
        self._add(step=step + 1, session_log={"status": 1})

    def write(self, record: dict) -> None:
        values = [{"tag": name, "simple_value": value} for name, value in scalars(record).items()]
        self._add(step=record["step"], summary={"value": values})
        self.last_step = record["step"]

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class TensorboardWriter:
    """An `EventFile` in the folder `tensorboard` of the workdir."""

    def __init__(self, folder: Path, resume_step: int = 0):
        self._events = EventFile(folder)
        if resume_step:
            self._events.go_on_after(resume_step)

    def write(self, record: dict) -> None:
        self._events.write(record)

    def sync(self) -> None:
        self._events.flush()

    def close(self) -> None:
        self._events.close()


class BucketTensorboardWriter:
    """The same in a bucket, in segments: each is written on this machine and sent once, every five minutes and at the
    end.

    A segment's name ends with its last step. What a killed process had not sent yet is taken from the metrics file.
    """

    EVERY_S = 300.0

    def __init__(self, folder: BucketPath, resume_step: int = 0, say: Callable[[str], None] = print):
        self._folder, self._scratch = folder, tempfile.TemporaryDirectory(prefix="trm_")
        self._segment: EventFile | None = None
        self._ready: list[Path] = []  # whole segments, to be sent
        self._beside, self._sent_at = Beside(say), time.monotonic()
        sent = bucket.children(folder)[1]
        self._void_after = resume_step if sent else None
        ends = [re.search(r"-to-(\d+)$", name) for name in sent]
        shown = max((int(end[1]) for end in ends), default=0) if all(ends) else resume_step
        for record in read_jsonl(folder.parent / METRICS_FILE):
            if shown < record["step"] <= resume_step:
                self._begun().write(record)

    def _begun(self) -> EventFile:
        if self._segment is None:
            self._segment = EventFile(Path(self._scratch.name))
            if self._void_after is not None:
                self._segment.go_on_after(self._void_after)
                self._void_after = None
        return self._segment

    def _end_segment(self) -> None:
        if self._segment:
            self._segment.close()
            path = self._segment.path
            self._ready.append(path.rename(f"{path}-to-{self._segment.last_step}"))
            self._segment = None

    def _send(self) -> None:
        if self._ready:
            require_owner(self._folder.parent)
        while self._ready:
            bucket.upload(self._ready[0], self._folder / self._ready[0].name)
            self._ready.pop(0).unlink()

    def write(self, record: dict) -> None:
        self._begun().write(record)
        if time.monotonic() - self._sent_at >= self.EVERY_S:
            self._sent_at = time.monotonic()
            self._end_segment()
            self._beside.start(self._send)

    def sync(self) -> None:
        """It is a view of what `BucketJsonlWriter` keeps: nothing to do."""

    def close(self) -> None:
        try:
            self._end_segment()
            self._beside.wait()
            self._send()
        finally:
            self._beside.close()
            self._scratch.cleanup()


def tensorboard_writer(folder: AnyPath, resume_step: int = 0, say: Callable[[str], None] = print) -> Writer:
    """To be opened after the metrics file, whose records it shows. say: takes lines that a person should see."""
    if isinstance(folder, BucketPath):
        return BucketTensorboardWriter(folder, resume_step, say)
    return TensorboardWriter(folder, resume_step)
