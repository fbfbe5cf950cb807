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
from trm_jax.sweep.progress import Progress, look
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
        self._seen = {run.label: (state.of(run).state, look(run)) for run in runs}
        self._console = Console(file=stream)
        self._live = None
        self._every_s = line_every_s
        if stream.isatty():
            self._every_s = 1.0
            self._live = Live(self._picture(), console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        self._last = time.monotonic()

    def say(self, line: str) -> None:
        """A line of its own, above the table."""
        with suppress(OSError):
            if self._live:
                self._live.console.print(Text(line), soft_wrap=True)
                self._live.update(self._picture(), refresh=True)
            else:
                print(f"{datetime.now():%H:%M:%S} {line}", file=self._stream, flush=True)

    def refresh(self) -> None:
        """Look at the runs again if it is time; cheap otherwise."""
        if time.monotonic() - self._last < self._every_s:
            return
        if self._live:
            with suppress(OSError):
                self._live.update(self._picture(), refresh=True)
        else:
            self.say(self._line())
        self._last = time.monotonic()

    def close(self) -> None:
        if self._live:
            with suppress(OSError):
                self._live.stop()

    def _look(self, run: Run) -> Progress:
        state = self._state.of(run).state
        if state == RUNNING or state != self._seen[run.label][0]:
            self._seen[run.label] = state, look(run)
        return self._seen[run.label][1]

    def _picture(self) -> Group:
        room = max(self._console.height - ROOM_FOR_OTHERS, 3)
        by_importance = sorted(self._runs, key=lambda run: IMPORTANCE.index(self._state.of(run).state))
        shown = {run.label for run in by_importance[:room]}
        rows = table([run for run in self._runs if run.label in shown], self._state, self._look)
        return Group(rows, Text(counts(self._runs, self._state)))

    def _line(self) -> str:
        running = []
        for run in self._runs:
            if self._state.of(run).state == RUNNING:
                name, *rest = _cells(run, self._state, self._look(run))
                running.append(f"{name} step {rest[2]}, exact accuracy {rest[3] or '-'}, left {rest[4] or '-'}")
        return "; ".join([counts(self._runs, self._state), *running])


def counts(runs: Sequence[Run], state: State) -> str:
    """'3 of 10 done, 1 running, 6 waiting'."""
    found = Counter(state.of(run).state for run in runs)
    others = [f"{found[name]} {name}" for name in IMPORTANCE if name != DONE and found[name]]
    return ", ".join([f"{found[DONE]} of {len(runs)} done", *others])


def _cells(run: Run, state: State, progress: Progress) -> list[str]:
    """Name, seed, state, step of all, exact accuracy, time left."""
    entry = state.of(run)
    return [
        run.label,
        "" if entry.seed is None else str(entry.seed),
        entry.state,
        f"{progress.step}/{progress.total_steps}" if progress.total_steps else "",
        "" if progress.exact_accuracy is None else f"{progress.exact_accuracy:.4f}",
        duration(progress.left_s) if entry.state == RUNNING and progress.left_s is not None else "",
    ]


def table(runs: Sequence[Run], state: State, progress_of, *, errors: bool = False) -> Table:
    """A row for each run; with `errors` what went wrong instead of the time left."""
    found = Table(box=box.SIMPLE_HEAD)
    found.add_column("run", no_wrap=True)
    for name in ("seed", "state", "step", "exact accuracy"):
        found.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    found.add_column("what went wrong" if errors else "left", overflow="fold")
    for run in runs:
        *cells, left = _cells(run, state, progress_of(run))
        cells[2] = Text(cells[2], STYLES.get(cells[2], ""))
        found.add_row(*cells, Text(state.of(run).error) if errors else left)
    return found
