"""A run's folder: its config, its lock, and how to open it again."""

from __future__ import annotations

import json
from contextlib import contextmanager

from ml_collections import ConfigDict

from trm_jax.configs.defaults import defaults
from trm_jax.configs.resolve import changed_since, flatten, override, to_json
from trm_jax.errors import InputError
from trm_jax.storage.output import LOCK_FILE, OWNER_FILE, owned, require_owner
from trm_jax.storage.paths import AnyPath, require_utf8, write_whole
from trm_jax.train.clock import GOODPUT_FILE
from trm_jax.train.writers import CHECKPOINTS, METRICS_FILE, RUN_FILE

CONFIG_FILE = "config.json"
LOG_FILE = "log.txt"  # what a run printed, where a sweep has started it
_NOT_OF_THE_RUN = {LOG_FILE, LOCK_FILE, OWNER_FILE}
_REPLACED_BY_A_RUN = {METRICS_FILE, RUN_FILE, GOODPUT_FILE, "curve.png", "tensorboard"}


def _read(workdir: AnyPath) -> dict:
    content = (workdir / CONFIG_FILE).read_bytes()
    try:
        saved = json.loads(content)
    except ValueError as error:  # not JSON, or not even text
        raise InputError(f"{workdir / CONFIG_FILE} is not JSON ({error}); restore it or use another workdir") from None
    if not isinstance(saved, dict) or not isinstance(saved.get("model"), dict):
        raise InputError(f"{workdir / CONFIG_FILE} is no config of a run; restore it or use another workdir")
    return saved


def load_config(workdir: AnyPath) -> ConfigDict:
    """The config of the run in `workdir`."""
    require_utf8(workdir.resolve())
    if not (workdir / CONFIG_FILE).exists():
        depth = 1 if workdir.parts[:1] == ("gs:",) else -1  # above a bucket there is nothing
        above = [parent for parent in workdir.parents if len(parent.parts) > depth]
        run = next((parent for parent in above if (parent / CONFIG_FILE).exists()), None)
        mend = f"it lies in one, name that folder: {run}" if run else "make one: trm train demo --workdir FOLDER"
        raise InputError(f"{workdir} is not a run (it has no {CONFIG_FILE}); {mend}")
    saved = flatten(_read(workdir))
    try:
        return override(defaults(), saved)
    except InputError as error:
        raise InputError(f"{workdir / CONFIG_FILE}: {error}") from None


@contextmanager
def claim(workdir: AnyPath, config: ConfigDict, *, write_last: bool = False):
    """Make `workdir` the folder of a run of `config`, alone, for as long as the context lasts.

    Raises InputError when it holds a run of another config or of none, or another process works in it; in a bucket
    this process takes it over from that one, which stops. A run that fails before it leaves anything behind (its data
    set is missing, say) does not keep the folder. `write_last` makes it a run only when the context ends well: nobody
    then takes a half-made one for a new one.
    """
    require_utf8(workdir.resolve())
    with owned(workdir, lambda: _require_same(workdir, config)):
        new = not (workdir / CONFIG_FILE).exists()

        def write():
            require_owner(workdir)
            write_whole(workdir / CONFIG_FILE, to_json(config).encode() + b"\n")

        if not write_last:
            write()
        try:
            yield
            if write_last:
                write()
        except Exception:
            if new and {entry.name for entry in workdir.iterdir()} - _NOT_OF_THE_RUN == {CONFIG_FILE}:
                require_owner(workdir)
                (workdir / CONFIG_FILE).unlink()
            raise


def _require_same(workdir: AnyPath, config: ConfigDict) -> None:
    """Raise InputError when `workdir` holds a run of another config, or what a run would take for its own.

    A run writes its config before all else, an import after its checkpoint.
    """
    if not (workdir / CONFIG_FILE).exists():
        names = {entry.name for entry in workdir.iterdir()}
        found = sorted(names & _REPLACED_BY_A_RUN)
        # A checkpoint that is half written has another name; it is cleared away by the next.
        if CHECKPOINTS in names and any(entry.name.isdigit() for entry in (workdir / CHECKPOINTS).iterdir()):
            found.append(CHECKPOINTS)
        if found:
            said = f"{workdir} holds {', '.join(found)} but no {CONFIG_FILE}"
            raise InputError(f"{said}; restore it or choose another --workdir")
        return
    changes = changed_since(config, _read(workdir))
    if changes:
        listed = ", ".join(f"{k} is {old!r} there and {new!r} here" for k, (old, new) in list(changes.items())[:5])
        raise InputError(f"{workdir} holds another run: {listed}; use another --workdir or remove that one")
