"""Packages, and what a run reaches: its folder or bucket, process 0."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator

from trm_jax.cli.health import Check, failed, installed_version, pip_install
from trm_jax.errors import InputError, OutOfReach
from trm_jax.storage.paths import AnyPath, BucketPath, require_access

# The distributions of setup.py's install_requires, jax's compiled half besides.
REQUIRED = tuple(
    "jax jaxlib flax optax orbax-checkpoint chex einops grain tensorboardX etils gcsfs ml-collections "
    "numpy scipy numba pillow matplotlib rich markdown-it-py safetensors".split()
)
OPTIONAL = {
    "huggingface_hub": ("puzzles from the Hugging Face hub", "huggingface_hub"),
    "tokenizers": ("text of language models", "'trm_jax[language]'"),
    "jinja2": ("chats with language models", "'trm_jax[language]'"),
    "gguf": ("language models in GGUF files", "'trm_jax[gguf]'"),
    "wandb": ("metrics to Weights & Biases", "wandb"),
    "torch": ("official checkpoints", "torch --index-url https://download.pytorch.org/whl/cpu"),
}
SMALL_DISK, TINY_DISK = 2**32, 2**28  # bytes
PATIENCE_S = 5.0  # with process 0


def packages() -> Iterator[Check]:
    """Python and the required packages in one row, and a row for each that is missing or optional."""
    versions = {name: installed_version(name) for name in (*REQUIRED, *OPTIONAL)}
    present = [f"{name} {versions[name]}" for name in REQUIRED if versions[name]]
    yield Check("packages", "ok", ", ".join([f"Python {sys.version.split()[0]}", *present]))
    for name, version in versions.items():
        purpose, requirement = OPTIONAL.get(name, ("", name))
        if not version:
            detail = f"optional, not installed: {purpose}" if purpose else "required and not installed"
            yield Check(name, "warn" if purpose else "fail", detail, pip_install(requirement))


def place(name: str, path: AnyPath) -> Check:
    """Whether a run may write to a folder of this machine, which has room, or of a bucket; it is not made."""
    if isinstance(path, BucketPath):
        try:
            require_access(path, write=True)
        except (InputError, OutOfReach) as error:
            return failed(name, error, f"trm doctor --{name} gs://BUCKET/FOLDER")
        return Check(name, "ok", f"{path} takes objects and gives them up again")
    path = path.expanduser().absolute()
    path = next(candidate for candidate in (path, *path.parents) if candidate.exists())
    quoted = shlex.quote(str(path))
    try:
        # Permissions, quotas and full disks show only when something is written and forced to the disk.
        with tempfile.TemporaryFile(dir=path, prefix=".trm_doctor_") as file:
            file.write(bytes(2**20))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        remedy = f"df -h {quoted}; ls -ld {quoted}   # then make room, change the rights or go elsewhere"
        return Check(name, "fail", f"cannot write to {path}: {error.strerror}", remedy)
    free = shutil.disk_usage(path).free
    status = "fail" if free < TINY_DISK else "warn" if free < SMALL_DISK else "ok"
    remedy = "" if status == "ok" else f"du -xh {quoted} | sort -h | tail   # what takes the space"
    return Check(name, status, f"{path} takes files, {free / 2**30:.1f} GiB are free", remedy)


def coordinator(host: str, port: int) -> Check:
    """Whether process 0 of several hosts is reached."""
    try:
        socket.create_connection((host, port), timeout=PATIENCE_S).close()
    except ConnectionRefusedError:
        start = f"trm train NAME --coordinator {host}:{port} --processes N --process 0   # on {host}"
        return Check("coordinator", "warn", f"{host} is reached and nobody listens at {port} yet", start)
    except OSError as error:
        remedy = f"nc -vz -w {PATIENCE_S:g} {host} {port}   # see to the name, or to the firewall between the hosts"
        return Check("coordinator", "fail", f"{host}:{port} cannot be reached: {error.strerror or error}", remedy)
    return Check("coordinator", "ok", f"{host}:{port} answers")
