"""Python, packages, processor, memory and the environment variables that change a run."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

from trm_jax.cli.health.check import GIB, Check, Subject, gib, installed_version, pip_install

# The distributions of setup.py's install_requires, jax's compiled half besides.
REQUIRED = tuple(
    "jax jaxlib flax optax orbax-checkpoint chex einops grain tensorboardX etils gcsfs ml-collections "
    "numpy scipy numba pillow matplotlib rich safetensors".split()
)
OPTIONAL = {
    "huggingface_hub": ("puzzles from the Hugging Face hub", "huggingface_hub"),
    "wandb": ("metrics to Weights & Biases", "wandb"),
    "torch": ("official checkpoints", "torch --index-url https://download.pytorch.org/whl/cpu"),
}
TESTED_PYTHONS = ((3, 11), (3, 13))
COMFORTABLE_MEMORY_BYTES = 2 * GIB
HARMFUL_SWITCHES = {
    "JAX_ENABLE_X64": "makes float64 the default: more memory, other numbers",
    "JAX_DISABLE_JIT": "runs every operation by itself: training is hundreds of times slower",
    "NUMBA_DISABLE_JIT": "runs puzzle generator and augmentation uncompiled: hundreds of times slower",
}


def python(subject: Subject) -> Iterator[Check]:
    version = ".".join(map(str, sys.version_info[:3]))
    oldest, newest = (".".join(map(str, tested)) for tested in TESTED_PYTHONS)
    if sys.version_info < TESTED_PYTHONS[0]:
        yield Check("python", "fail", f"{version} is older than {oldest}", f"python{newest} -m venv .venv")
    elif sys.version_info[:2] > TESTED_PYTHONS[1]:
        detail = f"{version} is newer than {newest}, the last one tested"
        yield Check("python", "warn", detail, f"python{newest} -m venv .venv")
    else:
        yield Check("python", "ok", f"{version} at {sys.executable}")


def packages(subject: Subject) -> Iterator[Check]:
    """The required packages in one row, and a row for each that is missing."""
    versions = {name: installed_version(name) for name in REQUIRED}
    present = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    yield Check("packages", "ok", present or "none")
    for name, version in versions.items():
        if version is None:
            yield Check(name, "fail", "required and not installed", pip_install(name))


def extras(subject: Subject) -> Iterator[Check]:
    for name, (purpose, requirement) in OPTIONAL.items():
        version = installed_version(name)
        if version:
            yield Check(name, "ok", f"{version} ({purpose})")
        else:
            yield Check(name, "warn", f"optional, not installed: {purpose}", pip_install(requirement))


def processor(subject: Subject) -> Iterator[Check]:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    yield Check("cpu", "ok", f"{cores} core{'s' * (cores != 1)} usable")


def total_memory(root: Path) -> tuple[int, str]:
    """RAM in bytes of the machine, or of the container where its limit is lower and a note says so."""
    total, note = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), ""
    for limit_file in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        path = root / limit_file
        limit = path.read_text().strip() if path.is_file() else "max"
        if limit != "max" and int(limit) < total:
            total, note = int(limit), " (limit of the container)"
    return total, note


def memory(subject: Subject) -> Iterator[Check]:
    total, note = total_memory(subject.root)
    if total < COMFORTABLE_MEMORY_BYTES:
        yield Check("memory", "warn", f"{gib(total)}{note}: small for training", "trm train demo --local")
    else:
        yield Check("memory", "ok", f"{gib(total)}{note}")


def environment(subject: Subject) -> Iterator[Check]:
    """Environment variables under which everything runs, but not as meant."""
    harmful = {name: why for name, why in HARMFUL_SWITCHES.items() if _is_on(subject.environ.get(name, ""))}
    for name, why in harmful.items():
        yield Check("environment", "warn", f"{name}={subject.environ[name]} {why}", f"unset {name}")
    if not harmful:
        yield Check("environment", "ok", "no variable that slows or changes a run")


def _is_on(value: str) -> bool:
    return value.strip().lower() in {"1", "true", "t", "yes", "y", "on"}
