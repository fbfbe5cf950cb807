"""Compiling a run's programs for a TPU that is not here, and keeping what was found, so that none is compiled twice.

Each program is compiled in a process of its own (`python -m trm_jax.aot.compile`): a failed check of the compiler ends
the process that it happens in. A result belongs to a program's text; beside it lies, for each run's settings, which
program is theirs, so that a plan finds it without tracing anything.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jax
from ml_collections import ConfigDict

import trm_jax
from trm_jax.aot import hlo, programs, topologies
from trm_jax.aot.programs import Program
from trm_jax.configs import resolve
from trm_jax.errors import InputError
from trm_jax.planning import Device
from trm_jax.storage.paths import write_whole

COMMAND = (sys.executable, "-m", "trm_jax.aot.compile")  # compiles one program
PACKAGE = Path(trm_jax.__file__).parent
# Of the package: what no program is traced from; what reads a compiled program. Settings that no program depends on.
_NOT_TRACED = ("cli", "reports", "sweep", "storage")
_READERS = ("aot/hlo.py", "aot/compile.py")
_NOT_IN_PROGRAMS = ("name", "seed", "checkpoint.", "log.")
_SHOWN_LINES = 3
_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
_SIZE = r"([\d.]+)([BKMGT]?)"
_OVERFLOWS = (
    re.compile(rf"Used {_SIZE} of {_SIZE} hbm"),
    re.compile(rf"\({_SIZE}\) exceeds available HBM \({_SIZE}\)"),
)


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What became of a program: the memory of one chip and what it moves, or why there is none.

    memory_bytes: "arguments", "outputs", "aliased" (counted in both), "temporaries", "code" and their "total".
    overflow_bytes: (needed, there are) of a chip that is too small. crash: how the compiler died.
    """

    memory_bytes: dict[str, int] | None = None
    collectives_by_kind: dict[str, dict] = dataclasses.field(default_factory=dict)  # as of `hlo.collectives`
    traffic_bytes: int = 0  # between a chip and its memory, of one execution
    unknown_loops: bool = False  # a loop of unknown length was counted once
    lower_seconds: float = 0.0
    compile_seconds: float = 0.0
    overflow_bytes: Sequence[int] | None = None
    crash: str = ""
    cached: bool = False


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


def versions() -> dict[str, str | None]:
    """What decides how a program is compiled: versions, and flags where there are any."""
    found = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib")} | {"libtpu": libtpu_version()}
    return found | {name: os.environ[name] for name in ("XLA_FLAGS", "LIBTPU_INIT_ARGS") if os.environ.get(name)}


def check_installed() -> None:
    """Raise InputError where there is no libtpu to compile with."""
    if libtpu_version() is None:
        raise InputError(
            "the TPU's compiler, libtpu, is not installed (there is one for Linux on x86-64 only); install it with "
            f"{sys.executable} -m pip install 'jax[tpu]'"
        )


@cache
def source_digest(package: Path, *names: str) -> str:
    """A digest of these files of the package; without names of all that a program may be traced from."""
    content = hashlib.sha256()
    for file in sorted(map(package.joinpath, names) if names else package.rglob("*.py")):
        name = file.relative_to(package)
        if name.parts[0] not in _NOT_TRACED:
            content.update(name.as_posix().encode() + b"\0" + file.read_bytes())
    return content.hexdigest()


def _key(*content) -> str:
    return hashlib.sha256(json.dumps([*content, versions()], sort_keys=True).encode()).hexdigest()[:32]


def settings_key(config, topology: str, program: Program) -> str:
    """The name under which a run's program is kept: its settings, the sources and the compiler's version."""
    settings = {k: v for k, v in resolve.flatten(config).items() if not k.startswith(_NOT_IN_PROGRAMS)}
    return _key(settings, topology, dataclasses.astuple(program), source_digest(PACKAGE))


def program_key(text: str, topology: str) -> str:
    """The name under which a result is kept: the lowered module, what reads it once compiled, and the compiler."""
    return _key(text, topology, source_digest(PACKAGE, *_READERS))


def _read(path: Path) -> dict | None:
    """None for what is not there or was not written to its end."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None


def keep(root: Path, settings: str, program: str, found: dict | None = None, **said) -> None:
    """Note that the settings' program is this one, and what was found of it; `said` tells a person which they are."""
    if found:
        write_whole(root / "programs" / f"{program}.json", json.dumps(found, indent=1).encode())
    write_whole(root / "settings" / f"{settings}.json", json.dumps({"program": program, **said}, indent=1).encode())


def find(config, topology: Device, program: Program, root: Path) -> Compiled | None:
    """What was found before for a run's program, by this source and these versions; None when nothing was."""
    if libtpu_version() is None:
        return None
    link = _read(root / "settings" / f"{settings_key(config, topology.name, program)}.json")
    found = link and _read(root / "programs" / f"{link['program']}.json")
    return Compiled(**found, cached=True) if found else None


def environment(topology: Device) -> dict[str, str]:
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


def compile_program(config, topology: Device, program: Program, root: Path) -> Compiled:
    """Compile one program of a run, or find what became of it before.

    config: the run's ConfigDict. What crashed is tried again the next time; memory that was too small stays too small.
    Raises InputError where libtpu is not installed.
    """
    check_installed()
    if found := find(config, topology, program, root):
        return found
    request = {
        "config": config.to_dict(),
        "topology": topology.name,
        "program": dataclasses.astuple(program),
        "root": str(root),
        "settings": settings_key(config, topology.name, program),
    }
    given, environ = json.dumps(request), environment(topology)
    done = subprocess.run(COMMAND, input=given, capture_output=True, text=True, env=environ)
    found = find(config, topology, program, root)
    if done.returncode == 0 and found:
        return dataclasses.replace(found, cached=json.loads(done.stdout.splitlines()[-1])["cached"])
    return Compiled(crash=_how_it_died(done))


def _how_it_died(done: subprocess.CompletedProcess) -> str:
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    failed = [line for line in said if "Check failed" in line or "RET_CHECK" in line]
    lines = failed[:1] or said[-1 if any(line.startswith("Traceback") for line in said) else -_SHOWN_LINES :]
    killed = done.returncode < 0
    how = f"was killed by {signal.Signals(-done.returncode).name}" if killed else f"ended with code {done.returncode}"
    return f"the compiler {how}" + (f": {' / '.join(lines)}" if lines else "")


def overflow(message: str) -> tuple[int, int] | None:
    """(bytes needed, bytes there are) from what the compiler says of memory that is too small; None for another one."""
    for pattern in _OVERFLOWS:
        if found := pattern.search(message):
            needed, unit, there, other = found.groups()
            return int(float(needed) * _UNITS[unit]), int(float(there) * _UNITS[other])
    return None


def _compile(lowered: jax.stages.Lowered) -> dict:
    """Fields of `Compiled`."""
    begin = time.monotonic()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if sizes := overflow(str(error)):
            return {"overflow_bytes": sizes, "compile_seconds": time.monotonic() - begin}
        raise
    seconds, stats, module = time.monotonic() - begin, compiled.memory_analysis(), hlo.parse(compiled.as_text())
    memory = {
        "arguments": stats.argument_size_in_bytes,
        "outputs": stats.output_size_in_bytes,
        "aliased": stats.alias_size_in_bytes,
        "temporaries": stats.temp_size_in_bytes,
        "code": stats.generated_code_size_in_bytes,
    }
    return {
        "memory_bytes": memory | {"total": sum(memory.values()) - 2 * memory["aliased"]},
        "collectives_by_kind": hlo.collectives(module),
        "traffic_bytes": hlo.memory_traffic(module),
        "unknown_loops": not all(run.known for run in module.executions()),
        "compile_seconds": seconds,
    }


def main() -> None:
    """Compile what `compile_program` asks for on standard input; print {"cached": whether the same program had been
    compiled before, for other settings}."""
    request = json.load(sys.stdin)
    topology, root = topologies.find(request["topology"]), Path(request["root"])
    config, (kind, cycles) = ConfigDict(request["config"]), request["program"]
    program, begin = Program(kind, tuple(cycles)), time.monotonic()
    lowered = programs.lower(resolve.freeze(config), program, topologies.devices(topology))
    key, seconds = program_key(lowered.as_text(), topology.name), time.monotonic() - begin
    cached = _read(root / "programs" / f"{key}.json") is not None
    found = None if cached else {**_compile(lowered), "lower_seconds": seconds}
    said = {"name": config.name, "topology": topology.name, **dataclasses.asdict(program)}
    keep(root, request["settings"], key, found, **said)
    print(json.dumps({"cached": cached}))


if __name__ == "__main__":
    main()
