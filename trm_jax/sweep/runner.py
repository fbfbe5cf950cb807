"""Runs a sweep's runs to their end, whatever happens on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from trm_jax.configs.workdir import LOG_FILE
from trm_jax.storage.output import taken
from trm_jax.sweep.run import DIVERGED, DONE, FAILED, REFUSED, RUNNING, STATE_FILE, STOPPED, WAITING, Run, State, news
from trm_jax.train.stopping import StopRequest

POLL_S, LONGEST_PAUSE_S, NEWS_EVERY_S = 0.1, 64.0, 60.0
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


@dataclass
class Runner:
    """One process for each slot, until no run is left or `stop` is true.

    A run that dies is tried again `retries` times, after pauses that grow from `pause_s` seconds; others go on
    meanwhile. Bad input, a full disk and divergence are final. Being stopped from outside counts for nothing.
    A workdir in which another process is at work is waited for.
    slots: environment variables of each process; launch: the words of a command before a run's arguments;
    say: takes a line for the person who watches.
    """

    state: State
    slots: Sequence[Mapping[str, str]]
    launch: Sequence[str]
    retries: int
    stop: StopRequest
    say: Callable[[str], None]
    pause_s: float = 1.0
    _waiting: list[Run] = field(default_factory=list)
    _running: dict[int, tuple[Run, Process]] = field(default_factory=dict)  # by the number of the slot
    _not_before: Counter = field(default_factory=Counter)  # by label, on the clock time.monotonic()
    _failures: Counter = field(default_factory=Counter)  # by label: those that count as retries
    _told: set[str] = field(default_factory=set)  # what need not be said again

    def run(self, runs: Sequence[Run]) -> None:
        """Run those that are neither done nor refused."""
        self._waiting = [run for run in runs if run.state in (WAITING, STOPPED)]
        self._save()
        asked, last = False, time.monotonic()
        try:
            while self._running or self._waiting and not self.stop:
                if not self.stop:
                    self._start()
                elif not asked:
                    asked = True
                    self.say(f"{self.stop.name}: the runs save and stop")
                    for _, process in self._running.values():
                        process.terminate()
                self._collect()
                if time.monotonic() - last >= NEWS_EVERY_S:
                    last = time.monotonic()
                    self.say(news(runs))
                time.sleep(POLL_S)
        finally:  # a second Ctrl-C: nobody may train on without a sweep
            for _, process in self._running.values():
                process.kill()
            for run, process in self._running.values():
                self._end(run, STOPPED, "killed with the sweep", process.wait())
                process.stdin.close()
            self._save()

    def _start(self) -> None:
        """Fill the empty slots with runs whose time has come."""
        for number, environ in enumerate(self.slots):
            while number not in self._running and (run := self._next()):
                self._waiting.remove(run)
                try:
                    command = [*self.launch, *run.arguments]
                    process = Process(command, environ, run.folder / LOG_FILE, run.command)
                except OSError as error:
                    self._end(run, REFUSED, f"{error.filename or run.folder}: {error.strerror}")
                else:
                    self._running[number] = run, process
                    run.state, run.error, run.started, run.ended = RUNNING, "", run.started or now(), ""
                    self.say(f"{run.label}: started")
                self._save()

    def _next(self) -> Run | None:
        """The first run whose pause is over and in whose folder nobody is at work."""
        moment = time.monotonic()
        for run in self._waiting:
            if self._not_before[run.label] > moment:
                continue
            if not taken(run.folder):
                return run
            self._not_before[run.label] = moment + self.pause_s
            self._say_once(f"{run.label}: another process is at work in {run.folder}; waiting for it")
        return None

    def _collect(self) -> None:
        """Write down how processes have ended, and line up again what is to be tried again."""
        for number, (run, process) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[number]
            process.stdin.close()
            self._end(run, *process.outcome(), code)
            failures = self._failures[run.label]
            retry = run.state == FAILED and failures < self.retries
            if (retry or run.state == STOPPED) and not self.stop:
                pause_s = min(self.pause_s * 2**failures, LONGEST_PAUSE_S)
                self._failures[run.label] += retry
                self._not_before[run.label] = time.monotonic() + pause_s
                run.state = WAITING
                self._waiting.insert(0, run)
                which = f", retry {failures + 1} of {self.retries}" if retry else ""
                self.say(f"{run.label}: again in {pause_s:g} s{which}")
            self._save()

    def _end(self, run: Run, state: str, error: str, code: int | None = None) -> None:
        run.look()
        run.state, run.error, run.ended = state, error, now()
        run.exit_codes += [] if code is None else [code]
        words = run.score_words if state == DONE else error
        self.say(f"{run.label}: {state}" + (f", {words}" if words else ""))

    def _save(self) -> None:
        try:
            self.state.write()
        except OSError as error:
            self._say_once(f"warning: {STATE_FILE} was not written ({error.strerror}); the one before stays")

    def _say_once(self, line: str) -> None:
        if line not in self._told:
            self._told.add(line)
            self.say(line)
