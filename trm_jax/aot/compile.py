"""Compiling programs for a device that is not at hand, and keeping what was found: none is compiled twice.

Each program is traced and compiled in a process of its own (`python -m trm_jax.aot.compile`): a failed check of the
compiler ends the process that it happens in. A result belongs to the program's text, the code that reads the compiled
program and the compiler's version.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import jax
from ml_collections import ConfigDict

from trm_jax.aot import gpu, hlo, programs
from trm_jax.configs import resolve
from trm_jax.planning import Device, hardware
from trm_jax.storage.paths import write_whole

COMMAND = (sys.executable, "-m", "trm_jax.aot.compile")  # compiles one program
# What becomes of a program. memory_bytes, of one chip: "arguments", "outputs", "aliased" (counted in both),
# "temporaries", "code" and their "total". traffic_bytes: between a chip and its memory, of one execution.
# unknown_loops: a loop of unknown length was counted once. overflow_bytes: (needed, there are) of a chip that is too
# small. crash: how the compiler died.
NOTHING = {"memory_bytes": None, "collectives_by_kind": {}, "traffic_bytes": 0, "unknown_loops": False}
NOTHING |= {"overflow_bytes": None, "crash": ""}
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([BKMGT]?)"
_OVERFLOW = re.compile(rf"(?:Used {_SIZE} of {_SIZE} hbm|\({_SIZE}\) exceeds available HBM \({_SIZE}\))")


def versions() -> dict[str, str]:
    """What decides how a program is compiled: versions, and flags where there are any."""
    installed = {}
    for name in ("jax", "jaxlib", "libtpu", "jax-cuda12-pjrt", "jax-cuda13-pjrt"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            installed[name] = importlib.metadata.version(name)
    return installed | {name: os.environ[name] for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS") if os.environ.get(name)}


def environment(topology: Device) -> dict[str, str]:
    """Of a process that compiles for a device without taking one that may be here, and beside others that do so."""
    flags = {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {gpu.FLAGS}"} if topology.name in hardware.GPUS else {}
    return {
        **os.environ,
        **flags,
        "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
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


def compile_program(config, topology: Device, number: int, root: Path) -> dict:
    """Compile program `number` of `programs_of` a run, or find in `root` what became of it; what `NOTHING` lists.

    config: the run's ConfigDict. What crashed is tried again the next time; memory that was too small stays too small.
    """
    return apart(COMMAND, {"config": config.to_dict(), "number": number}, topology, root)


def apart(command: Sequence[str], request: dict, topology: Device, root: Path) -> dict:
    """What a process of its own finds of a program, as `NOTHING` lists it."""
    request = request | {"topology": topology.name, "root": str(root)}
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, env=environment(topology))
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    return {**NOTHING, "crash": _how_it_died(done)}


def _how_it_died(done: subprocess.CompletedProcess) -> str:
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    failed = [line for line in said if "Check failed" in line or "RET_CHECK" in line]
    why = "".join(f": {line}" for line in failed[:1] or said[-1:])
    killed = done.returncode < 0
    how = f"was killed by {signal.Signals(-done.returncode).name}" if killed else f"ended with code {done.returncode}"
    return f"the compiler {how}{why}"


def overflow(message: str) -> list[int] | None:
    """[bytes needed, bytes there are] from what the compiler says of memory that is too small; None for another one."""
    if not (found := _OVERFLOW.search(message)):
        return None
    needed, unit, there, other = (part for part in found.groups() if part is not None)
    return [int(float(needed) * _UNITS[unit]), int(float(there) * _UNITS[other])]


def compile_lowered(lowered: jax.stages.Lowered, topology: Device, root: Path) -> dict:
    """What becomes of a traced program, as `NOTHING` lists it; kept in `root`."""
    readers = [Path(file).read_text() for file in (hlo.__file__, __file__)]
    key = hashlib.sha256(json.dumps([lowered.as_text(), topology.name, versions(), readers]).encode()).hexdigest()[:32]
    file = root / f"{key}.json"
    try:
        return json.loads(file.read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # not there, or not written to its end
        found = {**NOTHING, **_compile(lowered)}
        write_whole(file, json.dumps(found, indent=1).encode())
        return found


def _compile(lowered: jax.stages.Lowered) -> dict:
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if sizes := overflow(str(error)):
            return {"overflow_bytes": sizes}
        raise
    stats, module = compiled.memory_analysis(), hlo.parse(compiled.as_text())
    parts = {"arguments": "argument", "outputs": "output", "aliased": "alias", "temporaries": "temp"}
    parts["code"] = "generated_code"
    memory = {name: getattr(stats, f"{part}_size_in_bytes") for name, part in parts.items()}
    return {
        "memory_bytes": memory | {"total": sum(memory.values()) - 2 * memory["aliased"]},
        "collectives_by_kind": hlo.collectives(module),
        "traffic_bytes": hlo.memory_traffic(module),
        "unknown_loops": not all(run.known for run in module.executions()),
    }


def main() -> None:
    """Compile what `compile_program` asks for on standard input; print what becomes of it as JSON."""
    request = json.load(sys.stdin)
    topology, cfg = hardware.find_slice(request["topology"]), resolve.freeze(ConfigDict(request["config"]))
    program = programs.programs_of(cfg)[request["number"]]
    lowered = programs.lower(cfg, program, programs.devices(topology), topology.usable_bytes)
    print(json.dumps(compile_lowered(lowered, topology, Path(request["root"]))))


if __name__ == "__main__":
    main()
