"""Paths that a person gives: of this machine (pathlib.Path) or in a bucket (BucketPath), used alike."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

from trm_jax.errors import InputError
from trm_jax.storage import bucket
from trm_jax.storage.bucket import SCHEME, BucketPath

AnyPath = Path | BucketPath


def as_path(text: str | os.PathLike) -> AnyPath:
    """The path that `text` names. Raises InputError for no path, for other places and for names not in UTF-8."""
    if isinstance(text, BucketPath):
        return text
    text = os.fspath(text)
    if not text:
        raise InputError("the path is empty")
    require_utf8(text)
    if "://" not in text:
        return Path(text)
    if not text.startswith(SCHEME):
        raise InputError(f"{text} is neither a path of this machine nor gs://BUCKET/...; copy it to one of them")
    path = BucketPath(text)
    if len(path.parts) < 2:
        raise InputError(f"{text} names no bucket; write gs://BUCKET/...")
    return path


def cache_folder() -> Path:
    """Where what takes long to make is kept: trm_jax in the user's cache folder ($XDG_CACHE_HOME or ~/.cache)."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "trm_jax"


def require_utf8(path: str | os.PathLike) -> None:
    """Raise InputError for a name whose bytes are not UTF-8: it cannot be printed, and checkpoints refuse it."""
    text = os.fspath(path)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        shown = text.encode("utf-8", "backslashreplace").decode()
        raise InputError(f"{shown}: the name is not UTF-8; choose another, or set LC_ALL=C.UTF-8") from None


def require_access(folder: str | os.PathLike, *, write: bool) -> None:
    """Raise NoAccess unless the bucket of `folder` (gs://...) is there and lets us in; to write, also unless it takes
    an object in `folder` and gives it up again.

    Asks for the permissions that checkpoints need: storage.buckets.get, storage.objects.create and .delete.
    """
    folder = as_path(str(folder))
    bucket.require_bucket(folder)
    if write:
        probe = folder / ".access"
        try:
            probe.write_bytes(b"may a run write here and delete?")
            probe.unlink(missing_ok=True)  # another process may ask as well, or the first answer have been lost
        except bucket.NoAccess as error:
            raise bucket.NoAccess(str(error).replace("/.access", "")) from None


def folders_with(root: AnyPath, name: str) -> list[AnyPath]:
    """Folders in or under `root` that hold a file `name`, in the order of their paths; they are searched no further."""
    found, level = [], [root]
    if isinstance(root, BucketPath):
        with ThreadPoolExecutor(16) as pool:  # the folders of a level at once: each takes the storage some time to list
            while level:
                listed = list(zip(level, pool.map(bucket.children, level), strict=True))
                found += [folder for folder, (_, files) in listed if name in files]
                level = [folder / one for folder, (inner, files) in listed if name not in files for one in inner]
        return sorted(found)
    for folder, inner, files in os.walk(root):
        if name in files:
            inner.clear()
            found.append(Path(folder))
    return sorted(found)


@contextmanager
def local_copy(path: AnyPath) -> Iterator[Path]:
    """The file at `path` as one of this machine, for as long as the context lasts. Raises FileNotFoundError."""
    if isinstance(path, Path):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="trm_") as folder:
        copy = Path(folder) / path.name
        with copy.open("wb") as file:
            file.writelines(bucket.get_parts(path))
        yield copy


@contextmanager
def making(path: Path) -> Iterator[None]:
    """Where a file or folder of this machine is made. Raises InputError in a folder that takes none, such as /proc,
    which says that nothing is there; other errors of the operating system pass."""
    try:
        yield
    except FileNotFoundError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another place") from None


@contextmanager
def replacement(path: AnyPath) -> Iterator[Path]:
    """A file of this machine to be written: once the context ends well it stands at `path`, in one step.

    Makes the folder of `path`. Raises InputError as `making` does.
    """
    if isinstance(path, BucketPath):
        with tempfile.TemporaryDirectory(prefix="trm_") as folder:
            written = Path(folder) / path.name
            yield written
            bucket.upload(written, path)
        return
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with making(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(path: AnyPath, content: bytes) -> None:
    """Put `content` at `path` in one step, making its folder."""
    with nullcontext(path) if isinstance(path, BucketPath) else replacement(path) as file:
        file.write_bytes(content)


def json_lines(path: AnyPath) -> list[tuple[int, Any]]:
    """(number from 1, content) of the lines of a file of JSON lines, which need not be there; what a kill has cut, and
    so is no JSON, is left out."""
    found = []
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        with suppress(ValueError):
            found.append((number, json.loads(line)))
    return found


def append_line(path: AnyPath, line: str) -> None:
    """Add a line to a short text file, which is made when it is not there; a line that a kill has cut stays alone."""
    while isinstance(path, BucketPath):
        try:
            before, generation = bucket.get(path)
        except FileNotFoundError:
            before, generation = b"", 0
        with suppress(FileExistsError):  # when another process has added a line meanwhile
            bucket.put(path, before + line.encode() + b"\n", if_generation=generation)
            return
    with path.open("ab+") as file:
        end = file.seek(0, 2)
        file.seek(max(0, end - 1))
        cut = file.read() not in (b"", b"\n")
        file.write(b"\n" * cut + line.encode() + b"\n")
