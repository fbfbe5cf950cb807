"""Room and write access where a run puts its files, and the data set that it is to read."""

from __future__ import annotations

import csv
import os
import re
import shlex
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from trm_jax.cli.health.check import GIB, Check, Subject, gib
from trm_jax.errors import InputError, OutOfReach
from trm_jax.storage.paths import AnyPath, BucketPath, as_path, require_access

MINIMUM_FREE_BYTES, COMFORTABLE_FREE_BYTES = GIB // 4, 4 * GIB
NO_DATA = (OSError, ValueError, EOFError, csv.Error)  # what a data set that is not one raises
UNUSABLE = (InputError, OutOfReach)
ARRAYS = ("inputs", "labels", "puzzle_identifiers", "puzzle_indices", "group_indices")


def workdir(subject: Subject) -> Iterator[Check]:
    """Free space and write access where a run would put its files; the folder itself is not created."""
    if "://" in subject.workdir:
        yield _write_remote("workdir", subject.workdir)
        return
    place = _nearest_existing(subject.workdir)
    if not place.is_dir():
        yield Check("workdir", "fail", f"{place} is not a directory", "trm doctor --workdir OTHER_DIR")
        return
    free = shutil.disk_usage(place).free
    largest = f"du -xh {shlex.quote(str(place))} | sort -h | tail   # what takes the space"
    detail = f"{gib(free)} free at {place}"
    if free < MINIMUM_FREE_BYTES:
        yield Check("disk", "fail", f"{detail}: too little for checkpoints", largest)
    else:
        enough = free >= COMFORTABLE_FREE_BYTES
        yield Check("disk", "ok" if enough else "warn", detail, "" if enough else largest)
    yield _write_local("workdir", place)


def _nearest_existing(path: str) -> Path:
    place = Path(path).expanduser().absolute()
    return next(candidate for candidate in (place, *place.parents) if candidate.exists())


def _write_local(name: str, place: Path) -> Check:
    """Writes 1 MiB, forces it to the disk and deletes it: permissions, quotas and full disks show only so."""
    try:
        with tempfile.TemporaryFile(dir=place, prefix=".trm_doctor_") as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        quoted = shlex.quote(str(place))
        remedy = f"df -h {quoted}; ls -ld {quoted}   # then make room, change the rights or go elsewhere"
        return Check(name, "fail", f"cannot write to {place}: {error.strerror}", remedy)
    return Check(name, "ok", f"{place} takes files")


def _write_remote(name: str, url: str) -> Check:
    """Asks for all that a run needs to be allowed in a bucket, with the credentials that a run here would use."""
    try:
        require_access(url, write=True)
    except UNUSABLE as error:
        return unusable(name, error)
    return Check(name, "ok", f"{url} takes objects and gives them up again")


def unusable(name: str, error: Exception) -> Check:
    """A place that cannot be used at all: the error's line ends with the remedy."""
    detail, _, remedy = str(error).partition("; ")
    return Check(name, "fail", detail, remedy or f"trm doctor --{name} gs://BUCKET/FOLDER")


def bucket_folder(text: str) -> BucketPath:
    """gs://BUCKET/FOLDER, as the launcher takes it: gs:// may be left out. Raises InputError."""
    name = text.removeprefix("gs://")
    if not re.match(r"[a-z0-9][a-z0-9_.-]+(/|$)", name):
        raise InputError(f"{text!r} names no bucket; write gs://BUCKET/FOLDER")
    return as_path(f"gs://{name}")


def bucket(subject: Subject) -> Iterator[Check]:
    """Whether a run may use the bucket that the user names."""
    if subject.bucket is not None:
        yield _write_remote("bucket", subject.bucket)


def compiler_cache(subject: Subject) -> Iterator[Check]:
    """Where JAX keeps compiled programs; worth having on accelerators, where compiling takes minutes."""
    folder = subject.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    if folder and "://" not in folder:
        yield _write_local("compiler cache", _nearest_existing(folder))
    elif folder:
        yield Check("compiler cache", "ok", folder)
    elif {device.platform for device in subject.probe.devices} - {"cpu"}:
        remedy = "export JAX_COMPILATION_CACHE_DIR=$HOME/.cache/trm_jax"
        yield Check("compiler cache", "warn", "off: every start compiles anew", remedy)
    else:
        yield Check("compiler cache", "ok", "off (compiling for CPU takes seconds)")


def data(subject: Subject) -> Iterator[Check]:
    """Whether the data set that the user names is there and of a known form; its puzzles are not judged."""
    if subject.data is None:
        return
    try:
        path = as_path(subject.data).expanduser()
    except InputError as error:
        yield unusable("data", error)
        return
    try:
        yield Check("data", "ok", f"{path}: {describe_data(path)}")
    except UNUSABLE as error:
        yield unusable("data", error)
    except NO_DATA as error:
        named = isinstance(error, OSError) and error.filename
        detail = f"{error.filename}: {error.strerror}" if named else f"{path}: {error}"
        folder = path.parent if path.suffix == ".csv" else path
        remedy = f"trm data sudoku build --output-dir {shlex.quote(str(folder))}"
        yield Check("data", "fail", detail, remedy)


def describe_data(path: AnyPath) -> str:
    """A CSV file, a folder of them, or the official arrays; those in a bucket are listed and not read, which would
    take a while. Raises what looking at them raises."""
    remote = isinstance(path, BucketPath)
    if not path.is_dir():
        if remote and not path.is_file():
            raise FileNotFoundError(2, "No such object", str(path))
        return "CSV (not read)" if remote else f"CSV, {_count_rows(path)} puzzles"
    inside = sorted(path.iterdir())
    tables = [file for file in inside if file.suffix == ".csv"]
    splits = [folder for folder in inside if (folder / "dataset.json").is_file()]
    if not tables and not splits:
        raise ValueError("neither CSV files nor SPLIT/dataset.json in this folder")
    if remote:
        return ", ".join([file.name for file in tables] + [f"{split.name} arrays" for split in splits]) + " (not read)"
    return "; ".join(
        [f"{table.name} {_count_rows(table)} puzzles" for table in tables]
        + [f"{split.name} arrays, {_count_examples(split)} examples" for split in splits]
    )


def _count_rows(path: Path) -> int:
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file)
        missing = {"question", "answer"} - set(rows.fieldnames or ())
        if missing:
            raise ValueError(f"no column {' and '.join(sorted(missing))} in the first line of {path.name}")
        return sum(1 for _ in rows)


def _count_examples(split: Path) -> int:
    """Opens every array of a split, so that one that is missing or cut short is noticed."""
    import numpy as np

    arrays = {name: np.load(split / f"all__{name}.npy", mmap_mode="r") for name in ARRAYS}
    strange = [name for name, values in arrays.items() if not isinstance(values, np.ndarray) or not values.ndim]
    if strange:
        raise ValueError(f"all__{strange[0]}.npy of {split.name} holds no list of numbers")
    if arrays["inputs"].shape != arrays["labels"].shape:
        raise ValueError(f"inputs and labels of {split.name} differ in shape")
    return len(arrays["inputs"])
