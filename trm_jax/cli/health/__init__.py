"""What `trm doctor` looks at: small functions that give `Check`s, each with its remedy."""

from __future__ import annotations

import shlex
import sys
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from typing import Literal


@dataclass(frozen=True)
class Check:
    """One finding; `remedy` is the command (or the one thing to do) that mends it, empty when all is well."""

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    remedy: str = ""


def failed(name: str, error: Exception, otherwise: str) -> Check:
    """What cannot be used at all; the remedy is what the error's line says behind its semicolon, if anything."""
    detail, _, remedy = str(error).partition("; ")
    return Check(name, "fail", detail, remedy or otherwise)


def pip_install(requirement: str) -> str:
    return f"{shlex.quote(sys.executable)} -m pip install {requirement}"


def installed_version(distribution: str) -> str | None:
    with suppress(metadata.PackageNotFoundError):
        return metadata.version(distribution)
