"""Compiled results on the disk, so that no program is compiled twice.

A result belongs to a program and the compiler's version; beside it lies, for each run's settings, which program is
theirs, so that a plan finds it without tracing anything.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import tempfile
from functools import cache
from pathlib import Path

import trm_jax
from trm_jax.configs.resolve import flatten

FORMAT = 1  # of a result; another one is not read
# What a program is traced from, and settings that it does not depend on.
_SOURCES = ("models", "train", "evals", "losses.py", "metrics.py", "optim.py", "sharding.py", "compiler.py")
_NOT_IN_PROGRAMS = ("name", "seed", "checkpoint.", "log.")


def folder() -> Path:
    """Where results are kept unless a person names another place."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "trm_jax" / "compiled"


def libtpu_version() -> str | None:
    """None where libtpu is not installed."""
    try:
        return importlib.metadata.version("libtpu")
    except importlib.metadata.PackageNotFoundError:
        return None


def compiler_versions() -> dict[str, str | None]:
    """What decides how a program is compiled: versions, and flags where there are any."""
    versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")} | {"libtpu": libtpu_version()}
    return versions | {name: os.environ[name] for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS") if os.environ.get(name)}


@cache
def _source() -> str:
    package, content = Path(trm_jax.__file__).parent, hashlib.sha256()
    for part in _SOURCES:
        for file in sorted([package / part] if part.endswith(".py") else (package / part).rglob("*.py")):
            content.update(file.relative_to(package).as_posix().encode() + b"\0" + file.read_bytes())
    return content.hexdigest()


def _digest(content) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def settings_key(config, topology: str, program) -> str:
    """The name under which a run's `programs.Program` is kept: its settings, this source and these versions."""
    settings = {k: v for k, v in flatten(config).items() if not k.startswith(_NOT_IN_PROGRAMS)}
    return _digest([FORMAT, settings, topology, program.kind, program.cycles, compiler_versions(), _source()])


def program_key(text: str, topology: str) -> str:
    """The name under which a program's result is kept; text: the lowered module."""
    return _digest([FORMAT, text, topology, compiler_versions()])


def _read(path: Path) -> dict | None:
    """None for what is not there or was not written to its end."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def _write(path: Path, content: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False) as file:
        json.dump(content, file, indent=1)
    os.replace(file.name, path)


def result(root: Path, program: str) -> dict | None:
    """The result of a program, None where it was not compiled yet."""
    return _read(root / "programs" / f"{program}.json")


def result_of_settings(root: Path, settings: str) -> dict | None:
    """The result for a run's settings, None where there is none yet."""
    link = _read(root / "settings" / f"{settings}.json")
    return result(root, link["program"]) if link else None


def keep(root: Path, program: str, found: dict) -> None:
    _write(root / "programs" / f"{program}.json", found)


def link(root: Path, settings: str, program: str, said: dict) -> None:
    """Note that the settings' program is this one; `said` tells a person which they are."""
    _write(root / "settings" / f"{settings}.json", {"program": program, **said})
