"""Running programs that nobody has read, in a process that is kept from much and ended in time.

This is no security boundary: one that means harm, and knows how, may get out. Every layer that this machine gives is
used, and `Sandbox.layers` says which those are: namespaces of users, network and processes, Landlock, seccomp, an audit
hook of Python, and limits on processor time, memory, files and what is written.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from trm_jax.errors import InputError
from trm_jax.language.remote import one_line
from trm_jax.tasks.arc.files import read_grid

INSIDE = Path(__file__).with_name("inside.py")
PACKAGES = Path(np.__file__).resolve().parents[1]
KEPT_BYTES = 65536  # of what a program prints
MOST_BYTES = 2**22  # of its answers
GRACE_S = 0.5  # after its time, until it is ended from here


@dataclass(frozen=True)
class Ran:
    """What became of a program: for each input a grid [H, W] uint8, or None and why."""

    grids: tuple[np.ndarray | None, ...]
    errors: tuple[str | None, ...]
    printed: str  # the first KEPT_BYTES of it
    seconds: float
    layers: Mapping[str, bool]

    @property
    def timeout(self) -> bool:
        return any((error or "").startswith("timeout") for error in self.errors)


@dataclass(frozen=True)
class Sandbox:
    """seconds: of a program, on all its inputs; megabytes: of its address space; without: layers that are left out, as
    on a machine that does not have them ("namespaces", "Landlock", "seccomp", "audit hook"; the last not where
    nothing else keeps programs from the processes of others)."""

    seconds: float = 10.0
    megabytes: int = 1024
    without: Collection[str] = field(default=())

    @cached_property
    def layers(self) -> dict[str, bool]:
        """Which layers work here. Raises InputError where not even a harmless program runs."""
        ran = self.run("def transform(grid):\n    return grid\n", [np.zeros((1, 1), np.uint8)])
        if ran.errors[0]:
            raise InputError(
                f"programs cannot be run here: {ran.errors[0]}; give them more --program-seconds or --program-megabytes"
            )
        return dict(ran.layers)

    @property
    def closed(self) -> dict[str, bool]:
        """What programs are kept from, whatever they do within Python."""
        on = self.layers
        return {
            "files": on["Landlock"],
            "network": on["network namespace"] or on["seccomp"],
            "processes": on["process namespace"] or on["seccomp"],
        }

    def run(self, code: str, inputs: Sequence[np.ndarray]) -> Ran:
        """What transform(grid) of a program makes of each input [H, W]; it never raises for what a program does."""
        began = time.monotonic()
        with tempfile.TemporaryDirectory(prefix="sandbox_", ignore_cleanup_errors=True) as folder:
            answers, printed, late = self._sent(code, inputs, folder)
        return _ran(answers, printed, late, len(inputs), time.monotonic() - began)

    def _sent(self, code: str, inputs: Sequence[np.ndarray], folder: str) -> tuple[bytes, bytes, str | None]:
        """(what came by the pipe of answers, what was printed, why it was ended from here)."""
        read, write = os.pipe()
        request = {"code": code, "inputs": [grid.tolist() for grid in inputs], "seconds": self.seconds}
        request |= {"bytes": self.megabytes << 20, "answers": write, "parent": os.getpid()}
        request |= {"packages": str(PACKAGES), "without": list(self.without)}
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-X", "utf8", "-c", INSIDE.read_text()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=folder,
            env={"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "LANG": "C.UTF-8"},
            start_new_session=True,
            pass_fds=(write,),
        )
        try:
            os.close(write)
            with suppress(BrokenPipeError), process.stdin:
                process.stdin.write(json.dumps(request).encode())
            return self._heard(read, process.stdout.fileno())
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # before it is waited for, so that its number is still its own
            process.wait()
            process.stdout.close()
            os.close(read)

    def _heard(self, answers: int, printed: int) -> tuple[bytes, bytes, str | None]:
        until = time.monotonic() + self.seconds + GRACE_S
        heard, most = {answers: b"", printed: b""}, {answers: MOST_BYTES, printed: KEPT_BYTES}
        with selectors.DefaultSelector() as pipes:
            for pipe in heard:
                pipes.register(pipe, selectors.EVENT_READ)
            while pipes.get_map():
                ready = pipes.select(max(0.0, until - time.monotonic()))
                if time.monotonic() > until:
                    return heard[answers], heard[printed], "timeout"
                for key, _ in ready:
                    piece = os.read(key.fd, 2**16)
                    if not piece:
                        pipes.unregister(key.fd)
                    heard[key.fd] += piece[: max(0, most[key.fd] - len(heard[key.fd]))]
                if len(heard[answers]) >= MOST_BYTES:
                    return heard[answers], heard[printed], "it wrote too much to the pipe of answers"
        return heard[answers], heard[printed], None


def _ran(answers: bytes, printed: bytes, late: str | None, count: int, seconds: float) -> Ran:
    """What the lines on the pipe of answers say; a program may write there what it likes."""
    said = [one for one in map(_read, answers.splitlines()) if isinstance(one, dict)]
    layers = next((one["layers"] for one in said if isinstance(one.get("layers"), dict)), {})
    by_input: dict[int, dict] = {}
    for one in said:
        if type(one.get("input")) is int:
            by_input.setdefault(one["input"], one)
    end = said[-1] if said and "end" in said[-1] and not late else {"end": late or "it ended without a word"}
    grids, errors = [], []
    for number in range(count):
        one = by_input.get(number)
        grid, error = (None, _end(end)) if one is None else _answer(one)
        grids.append(grid)
        errors.append(error and one_line(error, 500))
    return Ran(tuple(grids), tuple(errors), printed.decode("utf-8", "replace"), seconds, layers)


def _read(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _end(end: Mapping) -> str:
    """Why there is no answer."""
    number = end.get("number")
    if end["end"] == "timeout" or end["end"] == "signal" and number == signal.SIGXCPU:
        return "timeout: it was ended when its time was over"
    if end["end"] == "signal":
        name = next((one.name for one in signal.Signals if one == number), number)
        return f"ended by {name} before it answered"
    return f"it exited with code {number} before it answered" if end["end"] == "exit" else str(end["end"])


def _answer(said: Mapping) -> tuple[np.ndarray | None, str | None]:
    """(grid, None) or (None, why there is none)."""
    if "answer" in said:
        return grid_of(said["answer"])
    return None, str(said.get("error") or "no answer")


def grid_of(value: Any) -> tuple[np.ndarray | None, str | None]:
    """A program's answer as a grid [H, W] uint8, or why it is none: lists of equal length, 1 to 30, of int 0 to 9."""
    try:
        grid = read_grid("not a grid", value)
    except InputError as error:
        return None, str(error)[:200]
    except RecursionError:  # lists that are just not too deep to be read, and too deep to be shown
        return None, "not a grid: its lists are too deep"
    return grid, "not a grid: the answer is None" if grid is None else None
