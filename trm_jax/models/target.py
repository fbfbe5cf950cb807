"""The platform that programs are made for: the default backend's, or that of devices that are not here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import jax

_given: ContextVar[str | None] = ContextVar("platform", default=None)


def platform() -> str:
    """'cpu', 'gpu' or 'tpu'."""
    return _given.get() or jax.default_backend()


@contextmanager
def made_for(name: str) -> Iterator[None]:
    """What is traced inside is for platform `name`, whatever this machine has."""
    token = _given.set(name)
    try:
        yield
    finally:
        _given.reset(token)
