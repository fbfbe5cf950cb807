"""Compiled results without a compiler: those of 4x4 runs, written into a store as the process that compiles does."""

import pytest

from tests import tiny
from trm_jax.aot import compile as aot
from trm_jax.aot import topologies
from trm_jax.aot.programs import programs_of
from trm_jax.configs import resolve

RESULT = {
    "memory_bytes": {
        "arguments": 3_000, "outputs": 2_000, "aliased": 1_500, "temporaries": 10_000, "code": 500, "total": 14_000
    },
    "collectives_by_kind": {
        "all-reduce": {"count": 2, "bytes": 8_000_000, "sent_bytes": 12_000_000.0, "bytes_in_loops": 8_000_000},
        "all-gather": {"count": 1, "bytes": 1_000_000, "sent_bytes": 6e5, "bytes_in_loops": 0},
    },
    "traffic_bytes": 2_400_000_000,
    "unknown_loops": False,
    "lower_seconds": 1.0,
    "compile_seconds": 20.0,
}  # fmt: skip


def overflow(needed: int, there: int) -> dict:
    """The result of a program that needs more bytes than there are."""
    return {"overflow_bytes": (needed, there), "compile_seconds": 20.0}


@pytest.fixture(autouse=True)
def versions(monkeypatch):
    """As if libtpu were installed, which none of these tests loads."""
    monkeypatch.setattr(aot, "libtpu_version", lambda: "0.0.1")
    for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def remember(tmp_path):
    """Write results of a tiny run into `tmp_path`: one for each of its programs, or one for all."""

    def write(*results, changes=None, topology="v4-8", all_stages=False):
        config = tiny.page(changes)
        programs = programs_of(resolve.freeze(config), all_stages)
        for place, program in enumerate(programs):
            key = aot.settings_key(config, topologies.find(topology).name, program)
            aot.keep(tmp_path, key, f"program{place}", results[min(place, len(results) - 1)], name=config.name)
        return config

    return write
