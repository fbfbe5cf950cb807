"""Runs units to their end, whatever happens on the way."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from trm_jax.configs.workdir import LOG_FILE
from trm_jax.storage.owner import taken
from trm_jax.sweep import pack
from trm_jax.sweep.plan import Run, Unit, shown
from trm_jax.sweep.process import Process, describe, end_of
from trm_jax.sweep.progress import done, look
from trm_jax.sweep.slots import Slot
from trm_jax.sweep.state import DONE, FAILED, REFUSED, RUNNING, STOPPED, WAITING, State, now

POLL_S = 0.1
LONGEST_PAUSE_S = 64.0


@dataclass
class _Child:
    unit: Unit
    process: Process


class Runner:
    """One process for each slot, until no unit is left or `stop` is true.

    A unit that dies is tried again `retries` times, after pauses that grow from `pause_s` seconds; others go on
    meanwhile. Bad input, a full disk and divergence are final. Being stopped from outside counts for nothing.
    A workdir in which another process is at work is waited for, `patience_s` seconds at most.
    launch: how a process is started (see `Process`); say: takes a line for the person who watches.
    """

    def __init__(
        self,
        root: Path,
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
        self._root, self._state, self._slots, self._launch = root, state, slots, launch
        self._retries, self._stop, self._say = retries, stop, say
        self._pause_s, self._patience_s = pause_s, patience_s
        self._waiting: list[Unit] = []
        self._running: dict[int, _Child] = {}  # by the number of the slot
        self._trouble = ""

    def run(self, units: Sequence[Unit], refresh: Callable[[], None]) -> None:
        """Run them all; `refresh` is called several times a second."""
        self._waiting = list(units)
        self._save()
        asked = False
        try:
            while self._running or self._waiting and not self._stop:
                if not self._stop:
                    self._start()
                elif not asked:
                    asked = True
                    self._say(f"{self._stop.name}: the runs save and stop")
                    for child in self._running.values():
                        child.process.ask_to_stop()
                self._collect()
                refresh()
                time.sleep(POLL_S)
        finally:  # a second Ctrl-C: nobody may train on without a sweep
            codes = [child.process.kill() for child in self._running.values()]
            for child, code in zip(self._running.values(), codes, strict=True):
                child.process.close()
                for run in child.unit.runs:
                    self._state.of(run).exit_codes.append(code)
                    self._end(run, STOPPED, "killed with the sweep")
            self._save()

    def _save(self) -> None:
        trouble = self._state.write()
        if trouble and trouble != self._trouble:
            self._say(f"warning: {trouble}")
        self._trouble = trouble

    def _start(self) -> None:
        for number, slot in enumerate(self._slots):
            while number not in self._running:
                unit = next((unit for unit in self._waiting if unit.not_before <= time.monotonic()), None)
                if unit is None:
                    return
                self._begin(unit, number, slot)

    def _begin(self, unit: Unit, number: int, slot: Slot) -> None:
        """Start the unit in the slot, or put it off, or find that it cannot be started."""
        busy = [run for run in unit.runs if taken(run.folder)]
        if busy:
            return self._put_off(unit, busy)
        self._waiting.remove(unit)
        unit.attempts += 1
        unit.blocked_since = None
        try:
            process = self._launch_process(unit, slot)
        except OSError as error:
            for run in unit.runs:
                self._end(run, REFUSED, f"{error.filename or run.folder}: {error.strerror}")
        else:
            self._running[number] = _Child(unit, process)
            for run in unit.runs:
                entry = self._state.of(run)
                entry.state, entry.error, entry.ended = RUNNING, "", ""
                entry.attempts += 1
                entry.started = entry.started or now()
                entry.command = shown(pack.arguments(unit, self._root))
            self._say(f"{unit.label}: started" + (f", attempt {unit.attempts}" if unit.attempts > 1 else ""))
        self._save()

    def _launch_process(self, unit: Unit, slot: Slot) -> Process:
        arguments = pack.arguments(unit, self._root)
        log = unit.runs[0].folder / LOG_FILE
        if len(unit.runs) > 1:
            log = pack.log(unit, self._root)
            pack.write(unit, self._root)
            for run in unit.runs:
                run.folder.mkdir(parents=True, exist_ok=True)
                with open(run.folder / LOG_FILE, "a") as file:
                    file.write(f"--- {now()} {shown(arguments)}\n--- its output is in {log}\n")
        return Process(self._launch, slot, arguments, log, shown(arguments))

    def _put_off(self, unit: Unit, busy: Sequence[Run]) -> None:
        moment = time.monotonic()
        if unit.blocked_since is None:
            unit.blocked_since = moment
            self._say(f"{busy[0].label}: another process is at work in it; waiting up to {self._patience_s:.0f} s")
        unit.not_before = moment + self._pause_s
        if moment - unit.blocked_since > self._patience_s:
            for run in busy:
                self._end(run, REFUSED, f"another process is at work in {run.folder}; wait for it or stop it")
                unit.runs.remove(run)
            unit.blocked_since, unit.not_before = None, 0.0
            if not unit.runs:
                self._waiting.remove(unit)
            self._save()

    def _collect(self) -> None:
        for number, child in list(self._running.items()):
            code = child.process.code()
            if code is not None:
                self._settle(number, child, code)

    def _settle(self, number: int, child: _Child, code: int) -> None:
        """Write down how a process has ended and line up what is to be tried again."""
        del self._running[number]
        child.process.close()
        unit, words = child.unit, child.process.last_words()
        stopped, failed, suspects = [], [], []
        for run in unit.runs:
            state, error = _outcome(run, unit, code, words)
            self._state.of(run).exit_codes.append(code)
            if state == REFUSED and len(unit.runs) > 1 and not pack.outcome(run):
                suspects.append(run)  # the whole pack was refused, for one of them
                continue
            self._end(run, state, error)
            {STOPPED: stopped, FAILED: failed}.get(state, []).append(run)
        if suspects:
            self._say(f"{unit.label}: not together: {words}")
            self._again([Unit([run]) for run in suspects], 0.0, "next on its own")
        if not self._stop:
            pause_s = min(self._pause_s * 2 ** (unit.attempts - 1), LONGEST_PAUSE_S)
            if failed and unit.failures < self._retries:
                failures = unit.failures + 1
                # The last try of a pack: if it is too large for the memory, its runs by themselves may not be.
                parts = [[run] for run in failed] if failures == self._retries else _as_far(failed)
                again = [Unit(part, unit.attempts, failures) for part in parts]
                self._again(again, pause_s, f"again in {pause_s:g} s, retry {failures} of {self._retries}")
            if stopped:
                again = [Unit(part, unit.attempts, unit.failures) for part in _as_far(stopped)]
                self._again(again, pause_s, f"again in {pause_s:g} s")
        self._save()

    def _again(self, units: list[Unit], pause_s: float, how: str) -> None:
        for unit in units:
            unit.not_before = time.monotonic() + pause_s
            for run in unit.runs:
                self._state.of(run).state = WAITING
            self._say(f"{unit.label}: {how}")
        self._waiting = units + self._waiting

    def _end(self, run: Run, state: str, error: str) -> None:
        entry = self._state.of(run)
        entry.state, entry.error, entry.ended = state, error, now()
        entry.exact_accuracy = look(run).exact_accuracy
        score = "" if state != DONE or entry.exact_accuracy is None else f"exact accuracy {entry.exact_accuracy:.4f}"
        self._say(": ".join([run.label, ", ".join(part for part in (state, score, error) if part)]))


def _as_far(runs: list[Run]) -> list[list[Run]]:
    """The runs of a pack, those together that have come equally far: one that diverged holds no other back."""
    return [unit.runs for unit in pack.units(runs, len(runs))]


def _failure(code: int, words: str) -> tuple[str, str]:
    told = words and code != -signal.SIGKILL  # who dies of that has said nothing of it
    return FAILED, f"{describe(code)}: {words}" if told else describe(code)


def _outcome(run: Run, unit: Unit, code: int, words: str) -> tuple[str, str]:
    """(state, error line) of a run whose process has ended with `code` and `words`."""
    if len(unit.runs) > 1:
        said = pack.outcome(run)
        if said or done(run):
            return said or (DONE, "")
        if end_of(code) not in (REFUSED, STOPPED):
            return _failure(code, words)
    state = end_of(code)
    if state in (DONE, STOPPED):
        return state, ""
    if state == FAILED:
        return _failure(code, words)
    return state, words or f"{describe(code)} without a word: its log could not be written"
