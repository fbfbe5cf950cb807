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


class Process(subprocess.Popen):
    """A started command, whose output is appended to a log. Raises OSError when that cannot be written.

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
            super().__init__(
                [*launch, ",".join(map(str, slot.cores)), *arguments],
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "TRM_ALONE": "1", **slot.environ},
                start_new_session=True,  # Ctrl-C in a terminal is for the sweep, which asks each process once
            )

    def outcome(self) -> tuple[str, str]:
        """(state, error line) of the run whose process this was; it has ended."""
        code, words = self.returncode, self._last_words()
        state = ENDS.get(code, FAILED)
        if state in (DONE, STOPPED):
            return state, ""
        if state != FAILED:
            return state, words or f"exit code {code} without a word: its log could not be written"
        if code == -signal.SIGKILL:  # who dies of that has said nothing of it; the kernel's way to get memory back
            return state, "killed by SIGKILL (out of memory?)"
        how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        return state, f"{how}: {words}" if words else how

    def _last_words(self) -> str:
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
