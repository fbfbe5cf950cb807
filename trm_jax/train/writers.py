"""Where a run's records go: JSONL is the truth, TensorBoard and Weights & Biases are views that are made from it."""

from __future__ import annotations

import importlib.util
import json
import socket
import struct
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack

from trm_jax.errors import InputError
from trm_jax.storage.output import Output, open_output
from trm_jax.storage.paths import AnyPath, BucketPath

METRICS_FILE = "metrics.jsonl"
PREDICTIONS = "predictions.jsonl"  # the answers of the last evaluation, where the task collects them
DIAGNOSTICS = "diagnostics.json"  # of `trm eval --diagnose`
RUN_FILE = "run.json"
CHECKPOINTS = "checkpoints"  # the folder of them; named here, where Orbax need not be imported for it


def open_writers(workdir: AnyPath, resume_step: int, cfg, say) -> Writers:
    """The writers of a run that goes on at `resume_step`: records of later steps belong to a future that was lost.

    cfg: the `RunConfig`, whose `log` says which. say: takes lines that a person should see while it goes on.
    Raises InputError for a metrics file that is none.
    """
    kept = [record for record in read_jsonl(workdir / METRICS_FILE) if record["step"] <= resume_step]
    views = []
    writers = Writers(open_output(workdir, METRICS_FILE, b"".join(map(_line, kept)), say), views)
    with ExitStack() as unless_done:
        unless_done.callback(writers.close)
        if cfg.log.tensorboard:
            views.append(TensorboardWriter(workdir, kept, say))
        if cfg.log.wandb_project:
            views.append(WandbWriter(workdir, kept, cfg.log.wandb_project, cfg.name, cfg.page))
        unless_done.pop_all()
    return writers


class Writers:
    """METRICS_FILE, one JSON object a line, and views of it; without a file (not process 0) they write nothing.

    A view has `write` and `close`; what it may lose in a crash is made again from the metrics file.
    """

    def __init__(self, file: Output | None = None, views: Sequence = ()):
        self._file, self._views = file, views

    def write(self, record: dict) -> None:
        """Take one record: {"kind": "train" | "eval" | ..., "step": int, name: number, ...}."""
        if self._file:
            self._file.append(_line(record))
        for view in self._views:
            view.write(record)

    def sync(self) -> None:
        """Make what was written survive a crash."""
        if self._file:
            self._file.sync()

    def close(self) -> None:
        """Close all, the views first; raises what the file or else the first view that failed has raised."""
        with ExitStack() as closing:
            for one in filter(None, (self._file, *self._views)):
                closing.callback(one.close)


def _line(record: dict) -> bytes:
    return json.dumps(record).encode() + b"\n"


def read_jsonl(path: AnyPath) -> list[dict]:
    """Records of a metrics file; a last line torn by a crash is left out."""
    try:
        lines = path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []
    except IsADirectoryError:
        raise InputError(f"{path} is a folder where a run keeps its records; move it away") from None
    records = []
    for number, line in enumerate(lines, 1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines):
                break
            record = None
        if not _is_record(record):
            raise InputError(f"{path} line {number} is no record; restore the file or start in another workdir")
        records.append(record)
    return records


def _is_record(record) -> bool:
    if not (isinstance(record, dict) and isinstance(record.get("kind"), str) and type(record.get("step")) is int):
        return False
    scored = record["kind"] != "eval" or isinstance(record.get("count"), int)
    return scored and isinstance(record.get("clock", {}), dict)


def scalars(record: dict) -> dict[str, float]:
    """The numbers of a record as `train/loss`, `eval/exact_accuracy`, ..."""
    values = {name: value for name, value in record.items() if name != "step" and not isinstance(value, bool)}
    return {f"{record['kind']}/{name}": value for name, value in values.items() if isinstance(value, int | float)}


class TensorboardWriter:
    """The folder `tensorboard` of the workdir: one event file, made anew at each start from the records `kept`.

    tensorboardX gives the format; not its SummaryWriter, whose thread and exit hook report a full disk with tracebacks
    of their own after the run's line.
    """

    def __init__(self, workdir: AnyPath, kept: Sequence[dict], say: Callable[[str], None]):
        folder = workdir / "tensorboard"
        earlier = [path for path in folder.iterdir() if ".tfevents." in path.name] if folder.is_dir() else []
        self._began = time.time() - max(map(_elapsed_s, kept), default=0.0)
        # A TensorBoard that is open forgets at a start what it has read of later steps, which here is all.
        events = [_event(self._began, file_version="brain.Event:2"), _event(self._began, session_log={"status": 1})]
        content = b"".join([*events, *map(self._summary, kept)])
        # Named so that files sort by time, two of one second included.
        name = f"tensorboard/events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"
        self._file = open_output(workdir, name, content, say)
        self.close = self._file.close
        for path in earlier:
            path.unlink(missing_ok=True)

    def _summary(self, record: dict) -> bytes:
        values = [{"tag": name, "simple_value": value} for name, value in scalars(record).items()]
        return _event(self._began + _elapsed_s(record), step=record["step"], summary={"value": values})

    def write(self, record: dict) -> None:
        self._file.append(self._summary(record))


def _elapsed_s(record: dict) -> float:
    return record.get("clock", {}).get("elapsed_s", 0.0)


def _event(wall_time: float, **fields) -> bytes:
    """An event as a record of the file: its length and content, each with a checksum."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import masked_crc32c

    content = Event(wall_time=wall_time, **fields).SerializeToString()
    parts = struct.pack("<Q", len(content)), content
    return b"".join(part + struct.pack("<I", masked_crc32c(part)) for part in parts)


def require_wandb(project: str) -> None:
    """Raise InputError when there is a `project` to write to and the `wandb` extra is missing."""
    if project and importlib.util.find_spec("wandb") is None:
        raise InputError("log.wandb_project is set but wandb is not installed; pip install 'trm_jax[wandb]'")


class WandbWriter:
    """Weights & Biases (the `wandb` extra); the run continues under the id kept in the workdir.

    Each step is sent once: of the records `kept` and of those made again after a crash only what is not there yet.
    """

    def __init__(self, workdir: AnyPath, kept: Iterable[dict], project: str, name: str, settings: Mapping):
        require_wandb(project)
        import wandb

        id_file = workdir / "wandb_id"
        if not id_file.exists():
            id_file.write_text(wandb.util.generate_id())
        folder = tempfile.mkdtemp(prefix="trm_") if isinstance(workdir, BucketPath) else str(workdir)
        how = {"id": id_file.read_text(), "resume": "allow", "dir": folder}
        self._run = wandb.init(project=project, name=name, config=dict(settings), **how)
        self.close = self._run.finish
        # W&B's is the one after the last that it has; up to 0.1.0 a row's step was one of its values.
        self._first_new_step = max(self._run.step, self._run.summary.get("step", -1) + 1)
        for record in kept:
            self.write(record)

    def write(self, record: dict) -> None:
        if record["step"] >= self._first_new_step:
            self._run.log(scalars(record), step=record["step"])
