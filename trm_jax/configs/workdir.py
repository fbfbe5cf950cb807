"""A run's folder: its config, its lock, and how to open it again."""

from __future__ import annotations

import fcntl
import json
from contextlib import contextmanager
from pathlib import Path

from ml_collections import ConfigDict

from trm_jax.configs.defaults import defaults
from trm_jax.configs.resolve import changed_since, flatten, override, to_json
from trm_jax.errors import InputError
from trm_jax.storage.owner import OWNER_FILE, require_owner, take_over
from trm_jax.storage.paths import AnyPath, BucketPath, require_access, write_whole

CONFIG_FILE = "config.json"
LOG_FILE = "log.txt"  # what a run printed, where a sweep has started it
_LOCK_FILE = ".lock"
_NOT_OF_THE_RUN = {LOG_FILE, _LOCK_FILE, OWNER_FILE}


def _read(workdir: AnyPath) -> dict:
    content = (workdir / CONFIG_FILE).read_bytes()
    try:
        saved = json.loads(content)
    except ValueError as error:  # not JSON, or not even text
        raise InputError(f"{workdir / CONFIG_FILE} is not JSON ({error}); restore it or use another workdir") from None
    if not isinstance(saved, dict):
        raise InputError(f"{workdir / CONFIG_FILE} holds no settings; restore it or use another workdir")
    return saved


def load_config(workdir: AnyPath) -> ConfigDict:
    """The config of the run in `workdir`."""
    if not (workdir / CONFIG_FILE).exists():
        raise InputError(
            f"{workdir} is not a run (it has no {CONFIG_FILE}); make one: trm train demo --workdir {workdir}"
        )
    try:
        return override(defaults(), flatten(_read(workdir)))
    except InputError as error:
        place = workdir / CONFIG_FILE
        raise error if str(place) in str(error) else InputError(f"{place}: {error}") from None


@contextmanager
def claim(workdir: AnyPath, config: ConfigDict, *, write_last: bool = False):
    """Make `workdir` the folder of a run of `config`, alone, for as long as the context lasts.

    Raises InputError when it holds a run of another config, or another process works in it; in a bucket this process
    takes it over from that one, which stops. A run that fails before it leaves anything behind (its data set is
    missing, say) does not keep the folder. `write_last` makes it a run only when the context ends well: nobody then
    takes a half-made one for a new one.
    """
    with (_owned if isinstance(workdir, BucketPath) else _locked)(workdir, config):
        _require_same(workdir, config)
        new = not (workdir / CONFIG_FILE).exists()

        def still_ours():
            if isinstance(workdir, BucketPath):
                require_owner(workdir)

        def write():
            still_ours()
            write_whole(workdir / CONFIG_FILE, to_json(config).encode() + b"\n")

        if not write_last:
            write()
        try:
            yield
            if write_last:
                write()
        except Exception:
            if new and {entry.name for entry in workdir.iterdir()} - _NOT_OF_THE_RUN == {CONFIG_FILE}:
                still_ours()
                (workdir / CONFIG_FILE).unlink()
            raise


def _require_same(workdir: AnyPath, config: ConfigDict) -> None:
    """Raise InputError when `workdir` holds a run of another config."""
    if not (workdir / CONFIG_FILE).exists():
        return
    changes = changed_since(config, _read(workdir))
    if changes:
        listed = ", ".join(f"{k} is {old!r} there and {new!r} here" for k, (old, new) in list(changes.items())[:5])
        raise InputError(f"{workdir} holds another run: {listed}; use another --workdir or remove that one")


@contextmanager
def _locked(workdir: Path, config: ConfigDict):
    if workdir.exists() and not workdir.is_dir():
        raise InputError(f"{workdir} is a file; --workdir wants a folder")
    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / _LOCK_FILE, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"another process is working in {workdir}; wait for it or use another --workdir") from None
        yield


@contextmanager
def _owned(workdir: BucketPath, config: ConfigDict):
    require_access(workdir, write=True)
    if workdir.is_file():
        raise InputError(f"{workdir} is a file; --workdir wants a folder")
    _require_same(workdir, config)  # a command that is wrong must not stop the run that it means
    take_over(workdir)
    yield


def taken(workdir: Path) -> bool:
    """Whether a process is at work in `workdir`."""
    if not (workdir / _LOCK_FILE).exists():
        return False
    with open(workdir / _LOCK_FILE, "r+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
