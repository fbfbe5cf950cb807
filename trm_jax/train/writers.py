"""Where a run's records go: JSONL is the truth, TensorBoard and Weights & Biases are views of it."""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Protocol

from trm_jax.errors import InputError

METRICS_FILE = "metrics.jsonl"
RUN_FILE = "run.json"


class Writer(Protocol):
    def write(self, record: dict) -> None:
        """Take one record: {"kind": "train" | "eval" | ..., "step": int, name: number, ...}."""

    def sync(self) -> None:
        """Make what was written survive a crash."""

    def close(self) -> None: ...


def read_jsonl(path: Path) -> list[dict]:
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
    scored = record["kind"] != "eval" or isinstance(record.get("exact_accuracy"), int | float)
    return scored and isinstance(record.get("clock", {}), dict)


class JsonlWriter:
    """One JSON object a line. Records after `resume_step` belong to a future that was lost and are cut off."""

    def __init__(self, path: Path, resume_step: int = 0):
        kept = [r for r in read_jsonl(path) if r["step"] <= resume_step]
        replacement = path.with_suffix(".tmp")
        with open(replacement, "w") as file:
            file.writelines(json.dumps(record) + "\n" for record in kept)
            file.flush()
            os.fsync(file.fileno())
        replacement.replace(path)
        self._file = open(path, "a")

    def write(self, record: dict) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def _scalars(record: dict) -> dict[str, float]:
    return {
        f"{record['kind']}/{name}": value
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }


class TensorboardWriter:
    """Scalars as `train/loss`, `eval/exact_accuracy`, ... in the folder `tensorboard` of the workdir.

    tensorboardX gives the format; not its SummaryWriter, whose thread and exit hook report a full disk with tracebacks
    of their own after the run's line.
    """

    def __init__(self, folder: Path, resume_step: int = 0):
        from tensorboardX.proto import event_pb2
        from tensorboardX.record_writer import RecordWriter

        folder.mkdir(parents=True, exist_ok=True)
        self._event = event_pb2.Event
        # Named so that files sort by time, two of one second included.
        self._file = RecordWriter(str(folder / f"events.out.tfevents.{time.time_ns()}.{socket.gethostname()}"))
        self._add(file_version="brain.Event:2")
        if resume_step:  # what an earlier life wrote from here on is void
            self._add(step=resume_step + 1, session_log={"status": 1})

    def _add(self, **event) -> None:
        self._file.write(self._event(wall_time=time.time(), **event).SerializeToString())

    def write(self, record: dict) -> None:
        values = [{"tag": name, "simple_value": value} for name, value in _scalars(record).items()]
        self._add(step=record["step"], summary={"value": values})

    def sync(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


class WandbWriter:
    """Weights & Biases (the `wandb` extra); the run continues under the id kept in the workdir."""

    def __init__(self, workdir: Path, project: str, name: str, config: dict):
        try:
            import wandb
        except ModuleNotFoundError:
            raise InputError(
                "log.wandb_project is set but wandb is not installed; pip install 'trm_jax[wandb]'"
            ) from None
        id_file = workdir / "wandb_id"
        if not id_file.exists():
            id_file.write_text(wandb.util.generate_id())
        self._run = wandb.init(
            project=project, name=name, id=id_file.read_text(), resume="allow", config=config, dir=str(workdir)
        )

    def write(self, record: dict) -> None:
        self._run.log({**_scalars(record), "step": record["step"]})

    def sync(self) -> None:
        """W&B uploads from a process of its own; nothing to do."""

    def close(self) -> None:
        self._run.finish()


class Writers:
    """Several writers as one."""

    def __init__(self, writers: list[Writer]):
        self._writers = writers

    def write(self, record: dict) -> None:
        for writer in self._writers:
            writer.write(record)

    def sync(self) -> None:
        for writer in self._writers:
            writer.sync()

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
