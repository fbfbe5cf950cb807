"""Runs a sweep's runs to their end, whatever happens on the way."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trm_jax.configs.workdir import LOG_FILE
from trm_jax.storage.output import taken
from trm_jax.sweep.plan import Run
from trm_jax.sweep.process import Process
from trm_jax.sweep.progress import look, score_words
from trm_jax.sweep.slots import Slot
from trm_jax.sweep.state import DONE, FAILED, REFUSED, RUNNING, STOPPED, WAITING, State, now

POLL_S = 0.1
LONGEST_PAUSE_S = 64.0


@dataclass
class _Job:
    """A run that is to be done, and how that has gone: `failures` are the attempts that count as retries."""

    run: Run
    attempts: int = 0
    failures: int = 0
    not_before: float = 0.0  # on the clock time.monotonic()
    blocked_since: float | None = None  # another process has been working in the workdir since then


class Runner:
    """One process for each slot, until no run is left or `stop` is true.

    A run that dies is tried again `retries` times, after pauses that grow from `pause_s` seconds; others go on
    meanwhile. Bad input, a full disk and divergence are final. Being stopped from outside counts for nothing.
    A workdir in which another process is at work is waited for, `patience_s` seconds at most.
    launch: how a process is started (see `Process`); say: takes a line for the person who watches.
    """

    def __init__(
        self,
        state: State,
        slots: Sequence[Slot],
        launch: Sequence[str],
        *,
        retries: int,
        stop,
        say: Callable[[str], None],
        pause_s: float = 1.0,
        patience_s: float = 120.0,
    ):
        self._state, self._slots, self._launch = state, slots, launch
        self._retries, self._stop, self._say = retries, stop, say
        self._pause_s, self._patience_s = pause_s, patience_s
        self._waiting: list[_Job] = []
        self._running: dict[int, tuple[_Job, Process]] = {}  # by the number of the slot
        self._trouble = ""

    def run(self, runs: Sequence[Run], refresh: Callable[[], None]) -> None:
        """Run them all; `refresh` is called several times a second."""
        self._waiting = [_Job(run) for run in runs]
        self._save()
        asked = False
        try:
            while self._running or self._waiting and not self._stop:
                if not self._stop:
                    self._start()
                elif not asked:
                    asked = True
                    self._say(f"{self._stop.name}: the runs save and stop")
                    for _, process in self._running.values():
                        process.terminate()
                self._collect()
                refresh()
                time.sleep(POLL_S)
        finally:  # a second Ctrl-C: nobody may train on without a sweep
            for _, process in self._running.values():
                process.kill()
            for job, process in self._running.values():
                self._end(job.run, STOPPED, "killed with the sweep", process.wait())
                process.stdin.close()
            self._save()

    def _start(self) -> None:
        """Fill the empty slots with jobs whose time has come."""
        for number, slot in enumerate(self._slots):
            while number not in self._running:
                moment = time.monotonic()
                job = next((job for job in self._waiting if job.not_before <= moment), None)
                if job is None:
                    return
                if taken(job.run.folder):
                    self._put_off(job, moment)
                else:
                    self._begin(job, number, slot)

    def _put_off(self, job: _Job, moment: float) -> None:
        run, job.not_before = job.run, moment + self._pause_s
        if job.blocked_since is None:
            job.blocked_since = moment
            self._say(f"{run.label}: another process is at work in it; waiting up to {self._patience_s:.0f} s")
        if moment - job.blocked_since > self._patience_s:
            self._waiting.remove(job)
            self._end(run, REFUSED, f"another process is at work in {run.folder}; wait for it or stop it")
            self._save()

    def _begin(self, job: _Job, number: int, slot: Slot) -> None:
        """Start the run in the slot, or find that it cannot be started."""
        self._waiting.remove(job)
        job.attempts, job.blocked_since = job.attempts + 1, None
        run, entry = job.run, self._state.of(job.run)
        try:
            process = Process(self._launch, slot, run.arguments, run.folder / LOG_FILE, run.command)
        except OSError as error:
            self._end(run, REFUSED, f"{error.filename or run.folder}: {error.strerror}")
        else:
            self._running[number] = job, process
            entry.state, entry.error, entry.ended = RUNNING, "", ""
            entry.attempts, entry.started, entry.command = entry.attempts + 1, entry.started or now(), run.command
            self._say(f"{run.label}: started" + (f", attempt {job.attempts}" if job.attempts > 1 else ""))
        self._save()

    def _collect(self) -> None:
        """Write down how processes have ended, and line up again what is to be tried again."""
        for number, (job, process) in list(self._running.items()):
            code = process.poll()
            if code is None:
                continue
            del self._running[number]
            process.stdin.close()
            state, error = process.outcome()
            self._end(job.run, state, error, code)
            retry = state == FAILED and job.failures < self._retries
            if (retry or state == STOPPED) and not self._stop:
                pause_s = min(self._pause_s * 2 ** (job.attempts - 1), LONGEST_PAUSE_S)
                job.failures, job.not_before = job.failures + retry, time.monotonic() + pause_s
                self._state.of(job.run).state = WAITING
                self._waiting.insert(0, job)
                which = f", retry {job.failures} of {self._retries}" if retry else ""
                self._say(f"{job.run.label}: again in {pause_s:g} s{which}")
            self._save()

    def _end(self, run: Run, state: str, error: str, code: int | None = None) -> None:
        entry, score = self._state.of(run), look(run).score
        entry.state, entry.error, entry.ended, entry.score = state, error, now(), score
        entry.exit_codes += [] if code is None else [code]
        words = score_words(score) if state == DONE and score is not None else error
        self._say(f"{run.label}: {state}" + (f", {words}" if words else ""))

    def _save(self) -> None:
        trouble = self._state.write()
        if trouble and trouble != self._trouble:
            self._say(f"warning: {trouble}")
        self._trouble = trouble
