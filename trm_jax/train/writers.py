"""Where a run's records go: JSONL is the truth, TensorBoard and Weights & Biases are views of it."""

from __future__ import annotations

import importlib.util
import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

from trm_jax.errors import InputError
from trm_jax.storage import bucket
from trm_jax.storage.beside import Beside
from trm_jax.storage.owner import require_owner
from trm_jax.storage.paths import AnyPath, BucketPath

METRICS_FILE = "metrics.jsonl"
RUN_FILE = "run.json"
CHECKPOINTS = "checkpoints"  # the folder of them; named here, where Orbax need not be imported for it


class Writer(Protocol):
    def write(self, record: dict) -> None:
        """Take one record: {"kind": "train" | "eval" | ..., "step": int, name: number, ...}."""

    def sync(self) -> None:
        """Make what was written survive a crash."""

    def close(self) -> None: ...


def read_jsonl(path: AnyPath) -> list[dict]:
    """Records of a metrics file; a last line torn by a crash is left out."""
    try:
        return _records(path, path.read_text(errors="replace"))
    except FileNotFoundError:
        return []
    except IsADirectoryError:
        raise InputError(f"{path} is a folder where a run keeps its records; move it away") from None


def _records(path: AnyPath, text: str) -> list[dict]:
    lines = text.splitlines()
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


def _lines(records: Iterable[dict]) -> str:
    return "".join(json.dumps(record) + "\n" for record in records)


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
            file.write(_lines(kept))
            file.flush()
            os.fsync(file.fileno())
        replacement.replace(path)
        self._file = open(path, "a")

    def write(self, record: dict) -> None:
        self._file.write(_lines([record]))
        self._file.flush()

    def sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


class BucketJsonlWriter:
    """`JsonlWriter` for a bucket, whose objects cannot be appended to.

    Lines are gathered; at `sync`, and about once a minute, those that are new become an object that the storage itself
    joins to the file. So what is sent grows with the run and not with its square, and readers always see whole lines.
    Only the owner of the run writes: another one's process ends here with InputError.
    """

    EVERY_S = 60.0

    def __init__(self, path: BucketPath, resume_step: int = 0, say: Callable[[str], None] = print):
        self._path, self._part = path, path.with_name(f"{_part_prefix(path)}{uuid.uuid4().hex}")
        self._new: list[str] = []
        self._cut_off_after(resume_step)
        for left in bucket.children(path.parent)[1]:
            if left.startswith(_part_prefix(path)):  # by a process that was killed
                (path.parent / left).unlink(missing_ok=True)
        self._beside, self._sent_at, self._failed = Beside(say), time.monotonic(), False

    def _cut_off_after(self, step: int) -> None:
        while True:
            require_owner(self._path.parent)
            try:
                before, generation = bucket.get(self._path)
            except FileNotFoundError:
                before, generation = b"", 0
            kept = [r for r in _records(self._path, before.decode(errors="replace")) if r["step"] <= step]
            content = _lines(kept).encode()
            try:
                self._size, self._generation = len(content), bucket.put(self._path, content, generation)
                return
            except FileExistsError:  # the owner before was just adding lines
                continue

    def _send(self) -> None:
        require_owner(self._path.parent)
        count = len(self._new)
        added = "".join(self._new[:count]).encode()
        if not count:
            return
        try:
            self._generation = bucket.append(self._path, self._generation, self._size, self._part, added)
        except (FileExistsError, FileNotFoundError):
            self._part.unlink(missing_ok=True)
            require_owner(self._path.parent)
            raise InputError(
                f"{self._path} was changed or removed by another program; let nothing else write there, then give the "
                "same command again: it goes on from the last checkpoint"
            ) from None
        self._size += len(added)
        del self._new[:count]

    def write(self, record: dict) -> None:
        self._new.append(_lines([record]))
        if time.monotonic() - self._sent_at >= self.EVERY_S:
            self._sent_at, self._failed = time.monotonic(), True
            self._beside.start(self._send)
            self._failed = False

    def sync(self) -> None:
        self._sent_at, self._failed = time.monotonic(), True
        self._beside.wait()
        self._send()
        self._failed = False

    def close(self) -> None:
        try:
            if not self._failed:  # else there is nothing to be gained by trying again
                self.sync()
                self._part.unlink(missing_ok=True)
        finally:
            self._beside.close()


def _part_prefix(path: BucketPath) -> str:
    return f".{path.name}.part-"


def jsonl_writer(path: AnyPath, resume_step: int = 0, say: Callable[[str], None] = print) -> Writer:
    """say: takes lines that a person should see while it goes on."""
    return BucketJsonlWriter(path, resume_step, say) if isinstance(path, BucketPath) else JsonlWriter(path, resume_step)


def scalars(record: dict) -> dict[str, float]:
    """The numbers of a record as `train/loss`, `eval/exact_accuracy`, ..."""
    return {
        f"{record['kind']}/{name}": value
        for name, value in record.items()
        if isinstance(value, int | float) and not isinstance(value, bool) and name != "step"
    }


def require_wandb(project: str) -> None:
    """Raise InputError when there is a `project` to write to and the `wandb` extra is missing."""
    if project and importlib.util.find_spec("wandb") is None:
        raise InputError("log.wandb_project is set but wandb is not installed; pip install 'trm_jax[wandb]'")


class WandbWriter:
    """Weights & Biases (the `wandb` extra); the run continues under the id kept in the workdir."""

    def __init__(self, workdir: AnyPath, project: str, name: str, config: dict):
        require_wandb(project)
        import wandb

        id_file = workdir / "wandb_id"
        if not id_file.exists():
            id_file.write_text(wandb.util.generate_id())
        folder = tempfile.mkdtemp(prefix="trm_wandb_") if isinstance(workdir, BucketPath) else str(workdir)
        self._run = wandb.init(
            project=project, name=name, id=id_file.read_text(), resume="allow", config=config, dir=folder
        )

    def write(self, record: dict) -> None:
        self._run.log({**scalars(record), "step": record["step"]})

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


def open_writers(workdir, resume_step, *, tensorboard, wandb_project, name, settings, say):
    from trm_jax.train.tensorboard import tensorboard_writer

    writers = [jsonl_writer(workdir / METRICS_FILE, resume_step, say)]
    if tensorboard:
        writers.append(tensorboard_writer(workdir / "tensorboard", resume_step, say))
    if wandb_project:
        writers.append(WandbWriter(workdir, wandb_project, name, settings))
    return Writers(writers)
