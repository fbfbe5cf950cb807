"""What must be the same at all processes of a run: the program, its settings, its folder."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import secrets
from collections.abc import Mapping
from pathlib import Path

import trm_jax
from trm_jax.distributed.process_group import ProcessGroup
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath

PACKAGES = ("jax", "jaxlib", "libtpu", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
_SETTINGS = ("XLA_FLAGS", "JAX_PLATFORMS", "JAX_ENABLE_X64", "JAX_DEFAULT_MATMUL_PRECISION")


def source_digest() -> str:
    """Hash of the sources of this package, by which two checkouts differ that share a version."""
    content = hashlib.sha256()
    root = Path(trm_jax.__file__).parent
    for file in sorted(root.rglob("*.py")):
        content.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return content.hexdigest()[:12]


def program_facts(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What must be the same at every process: the code, the versions of what it stands on."""
    facts = {
        "commit": environ.get("TRM_COMMIT", ""),
        "sources": source_digest(),
        "python": ".".join(platform.python_version_tuple()[:2]),
        **{name: environ.get(name, "") for name in _SETTINGS},
    }
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            facts[package] = "none"
    return facts


def require_same(group: ProcessGroup, facts: Mapping[str, object], remedy: str) -> None:
    """Raise InputError, at every process, unless all have the same `facts`; it names who has which."""
    everyone = group.gather(dict(facts))
    for name in facts:
        values = [str(of[name]) for of in everyone]
        if len(set(values)) > 1:
            common = max(values, key=values.count)
            other = next(i for i, value in enumerate(values) if value != common)
            raise InputError(
                f"the processes differ in {name}: {values[other] or 'none'} at {group.name(other)}, "
                f"{common or 'none'} at {group.name(values.index(common))}; {remedy}"
            )


def require_one_folder(group: ProcessGroup, workdir: AnyPath) -> None:
    """Raise InputError, at every process, unless `workdir` is the same folder for all of them."""
    if group.count == 1:
        return

    def write() -> str:
        file = (
            workdir / f".processes-{secrets.token_hex(8)}"
        )  # a new name, of which no host has cached that it is not there
        file.write_text("Can every process see this file?")
        return file.name

    file = workdir / group.share(write)
    everyone = group.gather(file.exists())
    if group.first:
        file.unlink(missing_ok=True)  # in a bucket the answer to a first request may have been lost
    if not all(everyone):
        raise InputError(
            f"{workdir} of {group.name(everyone.index(False))} is not that of process 0; give a folder on a file "
            "system that all hosts share, or gs://BUCKET/..."
        )
