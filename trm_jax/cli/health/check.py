"""What every examination takes and gives: a `Subject` in, `Check`s out."""

from __future__ import annotations

import importlib.metadata
import os
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from trm_jax.cli.health.probe import Probe, run_probe

if TYPE_CHECKING:
    from ml_collections import ConfigDict

GIB = 2**30


@dataclass(frozen=True)
class Check:
    """One finding; `remedy` is the command (or the one thing to do) that mends it, empty when all is well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


@dataclass(frozen=True)
class Subject:
    """What is examined: a machine (its file system under `root`), a working directory, and what else is named.

    experiments: (name, config) of those that are to run here. coordinator: HOST:PORT of several hosts' process 0.
    """

    workdir: str = "runs"
    data: str | None = None
    experiments: tuple[tuple[str, ConfigDict], ...] = ()
    bucket: str | None = None
    coordinator: str | None = None
    environ: Mapping[str, str] = field(default_factory=lambda: dict(os.environ))
    root: Path = Path("/")
    device_timeout_s: float = 120.0

    @cached_property
    def probe(self) -> Probe:
        return run_probe(self.environ, self.device_timeout_s)


def pip_install(requirement: str) -> str:
    return f"{shlex.quote(sys.executable)} -m pip install {requirement}"


def installed_version(distribution: str) -> str | None:
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def gib(count: float) -> str:
    return f"{count / GIB:.1f} GiB"
