"""One process of a sweep: a command with a log and a lifeline, and how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from trm_jax.sweep.slots import Slot
from trm_jax.sweep.state import DIVERGED, DONE, FAILED, REFUSED, STOPPED, now

# A process that was asked to stop before it could listen dies of the signal: nothing was lost either.
ENDS = {0: DONE, 1: DIVERGED, 2: REFUSED, 75: STOPPED, -signal.SIGTERM: STOPPED}
LONGEST_TAIL, LONGEST_LINE = 65536, 500


def end_of(code: int) -> str:
    """The state of a run whose process ended with this exit code (negative: the signal that killed it)."""
    return ENDS.get(code, FAILED)


def describe(code: int) -> str:
    """'exit code 3', 'killed by SIGKILL (out of memory?)'."""
    if code >= 0:
        return f"exit code {code}"
    # The kernel's way to get memory back, and the only one who kills so unless a person does.
    return f"killed by {signal.Signals(-code).name}" + " (out of memory?)" * (code == -signal.SIGKILL)


class Process:
    """A started command. Raises OSError when its log cannot be written.

    launch: the program and its first arguments; the slot's cores (as 0,1,...; may be empty) and `arguments` follow.
    Its standard input is a pipe whose other end only this process holds: it ends when this process does, in whatever
    way, and the program has to stop then.
    """

    def __init__(self, launch: Sequence[str], slot: Slot, arguments: Sequence[str], log: Path, header: str):
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with open(log, "ab", buffering=0) as file:
            file.write(f"--- {now()} {header}\n".encode())
            self._from = file.tell()
            self._process = subprocess.Popen(
                [*launch, ",".join(map(str, slot.cores)), *arguments],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "TRM_ALONE": "1", **slot.environ},
                start_new_session=True,  # Ctrl-C in a terminal is for the sweep, which asks each process once
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._process.poll()

    def ask_to_stop(self) -> None:
        self._process.terminate()

    def kill(self) -> int:
        """End it at once; its exit code."""
        self._process.kill()
        return self._process.wait()

    def close(self) -> None:
        self._process.stdin.close()

    def last_words(self) -> str:
        """The last line of the log that begins with `error:`, else the last one; empty when it said nothing."""
        try:
            with open(self._log, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(self._from, size - LONGEST_TAIL))
                lines = file.read().decode(errors="replace").split("\n")
        except OSError:
            return ""
        said = [line.strip() for line in lines if line.strip()]
        errors = [line.removeprefix("error:").strip() for line in said if line.startswith("error:")]
        return (errors or said or [""])[-1][:LONGEST_LINE]
