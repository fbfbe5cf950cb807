"""Compiled results without a compiler."""

import importlib.metadata

import pytest

from trm_jax.aot import compile as aot

VERSION = importlib.metadata.version
RESULT = {
    **aot.NOTHING,
    "memory_bytes": {
        "arguments": 3_000, "outputs": 2_000, "aliased": 1_500, "temporaries": 10_000, "code": 500, "total": 14_000
    },
    "collectives_by_kind": {
        "all-reduce": {"count": 2, "bytes": 8_000_000, "sent_bytes": 12_000_000.0, "bytes_in_loops": 8_000_000},
        "all-gather": {"count": 1, "bytes": 1_000_000, "sent_bytes": 6e5, "bytes_in_loops": 0},
    },
    "traffic_bytes": 2_400_000_000,
}  # fmt: skip


def overflow(needed: int, there: int) -> dict:
    """The result of a program that needs more bytes than there are."""
    return {**aot.NOTHING, "overflow_bytes": [needed, there]}


@pytest.fixture(autouse=True)
def versions(monkeypatch):
    """As if libtpu were installed, which none of these tests loads."""
    pretend_libtpu(monkeypatch, "0.0.1")
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        monkeypatch.delenv(name, raising=False)


def pretend_libtpu(monkeypatch, version: str | None):
    """As if this version were installed; None: as if none were."""

    def find(name: str) -> str:
        if name == "libtpu" and version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version if name == "libtpu" else VERSION(name)

    monkeypatch.setattr(importlib.metadata, "version", find)
