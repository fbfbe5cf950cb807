"""One process of a sweep: a command with a log and a lifeline, and how it ended."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from trm_jax.sweep.run import DIVERGED, DONE, FAILED, REFUSED, STOPPED

# A process that was asked to stop before it could listen dies of the signal: nothing was lost either.
ENDS = {0: DONE, 1: DIVERGED, 2: REFUSED, 75: STOPPED, -signal.SIGTERM: STOPPED}
LONGEST_LINE = 500


def now() -> str:
    """The time of day in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Process(subprocess.Popen):
    """A started command, whose output is appended to `log` below a line with `header`. Raises OSError without a log.

    environ: variables besides those of this process. Its standard input is a pipe whose other end only this process
    holds: it ends when this process does, in whatever way, and the program has to stop then.
    """

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], log: Path, header: str):
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with open(log, "ab", buffering=0) as file:
            file.write(f"--- {now()} {header}\n".encode())
            self._from = file.tell()
            super().__init__(
                command,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=file,
                env={**os.environ, "PYTHONUNBUFFERED": "1", "TRM_ALONE": "1", **environ},
                start_new_session=True,  # Ctrl-C in a terminal is for the sweep, which asks each process once
            )

    def outcome(self) -> tuple[str, str]:
        """(state, error line) of the run whose process this was; it has ended."""
        code, words = self.returncode, self._last_words()
        state = ENDS.get(code, FAILED)
        if state in (DONE, STOPPED):
            return state, ""
        how = f"exit code {code}" if code >= 0 else f"killed by {signal.Signals(-code).name}"
        if code == -signal.SIGKILL:
            how += " (out of memory?)"  # who dies of that has said nothing of it
        if state == FAILED:
            return state, f"{how}: {words}" if words else how
        return state, words or f"{how}; its log could not be written"

    def _last_words(self) -> str:
        """The last line of the log that begins with `error:`, else the last one; empty when it said nothing."""
        said = [""]
        with suppress(OSError):
            said += filter(
                None, map(str.strip, self._log.read_bytes()[self._from :].decode(errors="replace").split("\n"))
            )
        errors = [line.removeprefix("error:").strip() for line in said if line.startswith("error:")]
        return (errors or said)[-1][:LONGEST_LINE]
