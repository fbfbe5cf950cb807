"""What a person sees of a sweep: a live table on a terminal, lines in a log, a table at the end."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trm_jax.sweep.plan import Run
from trm_jax.sweep.progress import Progress, look, score_words
from trm_jax.sweep.state import BAD_ENDS, DONE, RUNNING, STOPPED, WAITING, State
from trm_jax.train.progress import duration

STYLES = {DONE: "green", RUNNING: "cyan", STOPPED: "yellow", **dict.fromkeys(BAD_ENDS, "bold red")}
# When not all rows fit, those further back go first.
IMPORTANCE = (RUNNING, *BAD_ENDS, STOPPED, WAITING, DONE)
ROOM_FOR_OTHERS = 8  # lines of a terminal that the table leaves free


class Display:
    """Shows the runs of a sweep on `stream`: a table that is kept up to date on a terminal, else lines.

    A stream that takes no more (its reader has left, its disk is full) is no reason to end a sweep: what cannot be
    shown is dropped.
    """

    def __init__(self, runs: Sequence[Run], state: State, stream, *, line_every_s: float = 60.0):
        self._runs, self._state, self._stream = runs, state, stream
        self._console, self._last = Console(file=stream), time.monotonic()
        self._every_s, self._live = line_every_s, None
        if stream.isatty():
            self._every_s = 1.0
            self._live = Live(self._picture(), console=self._console, auto_refresh=False, transient=True)
            self._live.start()

    def say(self, line: str) -> None:
        """A line of its own, above the table."""
        with suppress(OSError):
            if self._live:
                self._console.print(Text(line), soft_wrap=True)
                self._live.update(self._picture(), refresh=True)
            else:
                print(f"{datetime.now():%H:%M:%S} {line}", file=self._stream, flush=True)

    def refresh(self) -> None:
        """Look at the runs again if it is time; cheap otherwise."""
        if time.monotonic() - self._last < self._every_s:
            return
        self._last = time.monotonic()
        if self._live:
            with suppress(OSError):
                self._live.update(self._picture(), refresh=True)
            return
        said = [counts(self._runs, self._state)]
        for run in self._runs:
            if self._state.of(run).state == RUNNING:
                seen = look(run)
                said.append(f"{run.label} step {_steps(seen)}, {score_words(seen.score)}, left {_left(seen) or '-'}")
        self.say("; ".join(said))

    def close(self) -> None:
        if self._live:
            with suppress(OSError):
                self._live.stop()

    def _picture(self) -> Group:
        room = max(self._console.height - ROOM_FOR_OTHERS, 3)
        by_importance = sorted(self._runs, key=lambda run: IMPORTANCE.index(self._state.of(run).state))
        shown = {run.label for run in by_importance[:room]}
        rows = table([run for run in self._runs if run.label in shown], self._state)
        return Group(rows, Text(counts(self._runs, self._state)))


def counts(runs: Sequence[Run], state: State) -> str:
    """'3 of 10 done, 1 running, 6 waiting'."""
    found = Counter(state.of(run).state for run in runs)
    others = [f"{found[name]} {name}" for name in IMPORTANCE if name != DONE and found[name]]
    return ", ".join([f"{found[DONE]} of {len(runs)} done", *others])


def _steps(seen: Progress) -> str:
    return f"{seen.step}/{seen.total_steps}" if seen.total_steps else ""


def _left(seen: Progress) -> str:
    return "" if seen.left_s is None else duration(seen.left_s)


def table(runs: Sequence[Run], state: State, *, over: bool = False) -> Table:
    """A row for each run. Steps and time left are read while it runs; when all is `over`, what went wrong instead."""
    found = Table(box=box.SIMPLE_HEAD)
    for name in ("run", "seed", "state", "step", "score"):
        found.add_column(name, justify="right" if name in ("seed", "step") else "left", no_wrap=True)
    found.add_column("what went wrong" if over else "left", overflow="fold")
    for run in runs:
        entry = state.of(run)
        seen = look(run) if over or entry.state == RUNNING else Progress(score=entry.score)
        found.add_row(
            run.label,
            "" if entry.seed is None else str(entry.seed),
            Text(entry.state, STYLES.get(entry.state, "")),
            _steps(seen),
            "" if seen.score is None else score_words(seen.score),
            Text(entry.error if over else _left(seen)),
        )
    return found
