"""Compiling a run's programs for a TPU that is not here, each in a process of its own: a failed check of the compiler
ends the process that it happens in."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

from trm_jax.aot import store
from trm_jax.aot.programs import Program
from trm_jax.aot.topologies import Topology
from trm_jax.errors import InputError

COMMAND = (sys.executable, "-m", "trm_jax.aot.child")  # compiles one program
_SHOWN_LINES = 3
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([BKMGT]?)"
_OVERFLOWS = (
    re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
    re.compile(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
)


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes of one chip. Aliased ones are counted in the arguments and in the outputs."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    code: int

    @property
    def total(self) -> int:
        return self.arguments + self.outputs - self.aliased + self.temporaries + self.code


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What became of a program: its memory and what it moves, or why there is none.

    overflow: (bytes needed, bytes there are) of a chip that is too small. crash: how the compiler died.
    """

    memory: Memory | None = None
    collectives: tuple[dict, ...] = ()  # fields of `collectives.Collective`
    traffic_bytes: int = 0  # between a chip and its memory, of one execution
    unknown_loops: bool = False  # a loop of unknown length was counted once
    lower_seconds: float = 0.0
    compile_seconds: float = 0.0
    overflow: tuple[int, int] | None = None
    crash: str = ""
    cached: bool = False

    @classmethod
    def from_result(cls, found: dict, cached: bool) -> Compiled:
        memory = Memory(**found["memory"]) if found.get("memory") else None
        overflow = tuple(found["overflow"]) if found.get("overflow") else None
        rest = {"memory": memory, "overflow": overflow, "collectives": tuple(found.get("collectives", ()))}
        return cls(**{**found, **rest, "cached": cached})


def overflow(message: str) -> tuple[int, int] | None:
    """(bytes needed, bytes there are) from what the compiler says of memory that is too small; None for another one."""
    for pattern in _OVERFLOWS:
        if found := pattern.search(message):
            needed, unit, there, other = found.groups()
            return int(float(needed) * _UNITS[unit]), int(float(there) * _UNITS[other])
    return None


def check_installed() -> None:
    """Raise InputError where there is no libtpu to compile with."""
    if store.libtpu_version() is None:
        raise InputError(
            "the TPU's compiler, libtpu, is not installed (there is one for Linux on x86-64 only); install it with "
            f"{sys.executable} -m pip install 'jax[tpu]'"
        )


def find(config, topology: Topology, program: Program, root: Path) -> Compiled | None:
    """What was found before for a run's program, by this source and these versions; None when nothing was."""
    if store.libtpu_version() is None:
        return None
    found = store.result_of_settings(root, store.settings_key(config, topology.name, program))
    return Compiled.from_result(found, cached=True) if found else None


def environment(topology: Topology) -> dict[str, str]:
    """Of a process that compiles for a TPU without taking one that may be here, and beside others that do so."""
    return {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_ACCELERATOR_TYPE": topology.name,
        "TPU_STDERR_LOG_LEVEL": "3",
        "TPU_LOG_DIR": "disabled",
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }


def compile_program(config, topology: Topology, program: Program, root: Path) -> Compiled:
    """Compile one program of a run, or find what became of it before.

    config: the run's ConfigDict. What crashed is tried again the next time; memory that was too small stays too small.
    Raises InputError where libtpu is not installed.
    """
    check_installed()
    if found := find(config, topology, program, root):
        return found
    request = {
        **dataclasses.asdict(program),
        "config": config.to_dict(),
        "topology": topology.name,
        "root": str(root),
        "settings": store.settings_key(config, topology.name, program),
    }
    done = subprocess.run(
        COMMAND,
        input=json.dumps(request),
        capture_output=True,
        text=True,
        env=environment(topology),
    )
    found = find(config, topology, program, root)
    if done.returncode == 0 and found:
        return dataclasses.replace(found, cached=json.loads(done.stdout.splitlines()[-1])["cached"])
    return Compiled(crash=_how_it_died(done))


def _how_it_died(done: subprocess.CompletedProcess) -> str:
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    failed = [line for line in said if "Check failed" in line or "RET_CHECK" in line]
    lines = failed[:1] or said[-1 if any(line.startswith("Traceback") for line in said) else -_SHOWN_LINES :]
    if done.returncode < 0:
        how = f"the compiler was killed by {signal.Signals(-done.returncode).name}"
    else:
        how = f"the compiler ended with code {done.returncode}"
    return f"{how}: {' / '.join(lines)}" if lines else how
