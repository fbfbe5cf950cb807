"""What must be the same at all processes of a run: the program, its settings, its folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import trm_jax
from trm_jax.distributed.process_group import ProcessGroup
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath

_PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_SETTINGS = ("TRM_COMMIT", "XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")


def program_facts() -> dict[str, str]:
    """What must be the same at every process: the code, the versions of what it stands on, what changes programs."""
    root, sources = Path(trm_jax.__file__).parent, hashlib.sha256()
    for file in sorted(root.rglob("*.py")):
        sources.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    facts = {name: os.environ.get(name, "") for name in _SETTINGS} | dict.fromkeys(_PACKAGES, "none")
    facts |= {"sources": sources.hexdigest()[:12], "python": ".".join(platform.python_version_tuple()[:2])}
    for package in _PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = importlib.metadata.version(package)
    return facts


def require_same(group: ProcessGroup, facts: Mapping[str, object], remedy: str) -> None:
    """Raise InputError, at every process, unless all have the same `facts`; it names who has which."""
    everyone = group.gather(dict(facts))
    for name in facts:
        values = [str(of[name]) for of in everyone]
        if len(set(values)) > 1:
            common = max(values, key=values.count)
            other = next(i for i, value in enumerate(values) if value != common)
            said = [f"{values[i] or 'none'} at {group.name(i)}" for i in (other, values.index(common))]
            raise InputError(f"the processes differ in {name}: {', '.join(said)}; {remedy}")


def require_one_folder(group: ProcessGroup, workdir: AnyPath) -> None:
    """Raise InputError, at every process, unless `workdir` is the same folder for all of them."""
    if group.count == 1:
        return
    # A new name, of which no host has cached that it is not there.
    file = workdir / group.share(lambda: f".processes-{secrets.token_hex(8)}")
    group.share(lambda: file.write_text("Can every process see this file?"))
    everyone = group.gather(file.exists())
    if group.first:
        file.unlink(missing_ok=True)  # in a bucket the answer to a first request may have been lost
    if not all(everyone):
        wrong = f"{workdir} of {group.name(everyone.index(False))} is not that of process 0"
        raise InputError(f"{wrong}; give a folder on a file system that all hosts share, or gs://BUCKET/...")
