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

from trm_jax.sweep.run import BAD_ENDS, DONE, RUNNING, STOPPED, WAITING, Run
from trm_jax.train.progress import duration

STYLES = {DONE: "green", RUNNING: "cyan", STOPPED: "yellow", **dict.fromkeys(BAD_ENDS, "bold red")}
IMPORTANCE = (RUNNING, *BAD_ENDS, STOPPED, WAITING, DONE)  # a terminal that is too small loses the last ones


class Display:
    """Shows the runs of a sweep on `stream`: a table that is kept up to date on a terminal, else lines.

    A stream that takes no more (its disk is full) is no reason to end a sweep: what cannot be shown is dropped.
    """

    def __init__(self, runs: Sequence[Run], stream, *, line_every_s: float = 60.0):
        self._runs, self._stream, self._last = runs, stream, time.monotonic()
        self._every_s, self._live = line_every_s, None
        if stream.isatty():
            self._every_s, console = 1.0, Console(file=stream)
            self._live = Live(console=console, auto_refresh=False, transient=True, get_renderable=self._picture)
            self._live.start()

    def say(self, line: str) -> None:
        """A line of its own, above the table."""
        with suppress(OSError):
            if self._live:
                self._live.console.print(Text(line), soft_wrap=True)
                self._live.refresh()
            else:
                print(f"{datetime.now():%H:%M:%S} {line}", file=self._stream, flush=True)

    def refresh(self) -> None:
        """Look at the runs again if it is time; cheap otherwise."""
        if time.monotonic() - self._last < self._every_s:
            return
        self._last = time.monotonic()
        running = [run for run in self._runs if run.state == RUNNING]
        for run in running:
            run.look()
        if self._live:
            with suppress(OSError):
                self._live.refresh()
            return
        said = [
            ", ".join(filter(None, (f"{run.label} step {_steps(run)}", run.score_words, _left(run)))) for run in running
        ]
        self.say("; ".join([counts(self._runs), *said]))

    def close(self) -> None:
        """Leave the lines and take the table away."""
        if self._live:
            with suppress(OSError):
                self._live.stop()

    def _picture(self) -> Group:
        by_importance = sorted(self._runs, key=lambda run: IMPORTANCE.index(run.state))
        return Group(Text(counts(self._runs)), table(by_importance))


def counts(runs: Sequence[Run]) -> str:
    """'3 of 10 done, 1 running, 6 waiting'."""
    found = Counter(run.state for run in runs)
    others = [f"{found[name]} {name}" for name in IMPORTANCE if name != DONE and found[name]]
    return ", ".join([f"{found[DONE]} of {len(runs)} done", *others])


def _steps(run: Run) -> str:
    return f"{run.step}/{run.total_steps}" if run.total_steps else ""


def _left(run: Run) -> str:
    return f"{duration(run.left_s)} left" if run.state == RUNNING and run.left_s is not None else ""


def table(runs: Sequence[Run]) -> Table:
    """A row for each run, with the time that is left to it or what went wrong."""
    found = Table(box=box.SIMPLE_HEAD)
    for name in ("run", "seed", "state", "step", "score"):
        found.add_column(name, justify="right" if name in ("seed", "step") else "left", no_wrap=True)
    found.add_column(overflow="fold")
    for run in runs:
        state, seed = Text(run.state, STYLES.get(run.state, "")), "" if run.seed is None else str(run.seed)
        found.add_row(run.label, seed, state, _steps(run), run.score_words, Text(run.error or _left(run)))
    return found
