"""Commands that are asked, or only written down."""

from __future__ import annotations

import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

TIMEOUT_S = 120.0


@dataclass(frozen=True)
class Answer:
    """What a command printed, without blank space around it; `code`: its exit code, 124 when it took too long."""

    code: int
    out: str
    err: str = ""

    @property
    def reason(self) -> str:
        """The line that says why it failed: gcloud's with ERROR, else the last one."""
        lines = [line.strip() for line in self.err.splitlines() if line.strip()]
        return next((line for line in lines if "ERROR" in line), lines[-1] if lines else f"exit code {self.code}")


class Shell:
    """Asks programs that are found under `environ`. A rehearsal asks nothing that leaves this machine.

    `said`: the commands, as lines for a shell.
    """

    def __init__(self, environ: Mapping[str, str], *, rehearsal: bool = False):
        self.environ, self.rehearsal = environ, rehearsal
        self.said: list[str] = []

    def has(self, program: str) -> bool:
        return shutil.which(program, path=self.environ.get("PATH")) is not None

    def ask(self, *command: str, presumed: str = "", stdin: str = "", timeout_s: float = TIMEOUT_S) -> Answer:
        """The answer of a command; a rehearsal writes it down and takes `presumed` for what it prints."""
        self.said.append(shlex.join(command))
        return Answer(0, presumed) if self.rehearsal else self.run(*command, stdin=stdin, timeout_s=timeout_s)

    def run(self, *command: str, stdin: str = "", timeout_s: float = TIMEOUT_S) -> Answer:
        """The answer of a command, also in a rehearsal."""
        program = shutil.which(command[0], path=self.environ.get("PATH"))
        if program is None:
            return Answer(127, "", f"there is no {command[0]}")
        how = {"env": dict(self.environ), "capture_output": True, "text": True}
        try:
            done = subprocess.run([program, *command[1:]], input=stdin, timeout=timeout_s, **how)
        except subprocess.TimeoutExpired:
            return Answer(124, "", f"no answer within {timeout_s:g} s")
        return Answer(done.returncode, done.stdout.strip(), done.stderr.strip())
