"""What a person sees while a run goes on: a bar with the time left on a terminal, a line a minute in a log."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trm_jax.errors import StoppedEarly


def duration(seconds: float) -> str:
    """'1:02:03' or '2:03'."""
    seconds = int(seconds)
    hours, minutes = divmod(seconds // 60, 60)
    return f"{hours}:{minutes:02}:{seconds % 60:02}" if hours else f"{minutes}:{seconds % 60:02}"


class Progress:
    """Progress of a run of `total` steps."""

    def __init__(
        self,
        name: str,
        total: int,
        headline: str = "",
        *,
        held_out: int = 0,
        scored: str = "held-out",
        stream=None,
        line_every_s: float = 60.0,
        quiet: bool = False,
    ):
        """headline: the score shown; held_out: puzzles of the last evaluation, of which others may score the first
        ones only; scored: what they are; `quiet`: show nothing; another process does."""
        self._held_out, self._scored = held_out, scored
        self._quiet, self._headline, self._total, self._line_every_s = quiet, headline, total, line_every_s
        self._stream, self._latest, self._bar = stream or sys.stderr, "", None
        if self._stream.isatty() and not quiet:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as Bar
            from rich.table import Column

            columns = (
                TextColumn("{task.description}"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(table_column=Column(min_width=2 * len(str(total)) + 1)),
                TimeElapsedColumn(),
            )
            left = TextColumn("left"), TimeRemainingColumn(elapsed_when_finished=False)
            numbers = TextColumn("{task.fields[numbers]}")
            self._bar = Bar(*columns, *left, numbers, console=Console(file=self._stream))
            self._task = self._bar.add_task(name, total=total, numbers="compiling")
            self._bar.start()
        self.start(0)

    def start(self, step: int) -> None:
        """The run begins (or goes on) at `step`; the time left is counted from here."""
        self._first = step
        self._began = self._last_line = time.monotonic()
        if self._bar:
            self._bar.reset(self._task, completed=step)

    def say(self, line: str) -> None:
        """A line of its own, above the bar."""
        if self._quiet:
            return
        if self._bar:
            self._bar.console.print(line, highlight=False, markup=False)
        else:
            self._stream.write(f"{line}\n")  # at once: print sends the end alone where Python is told not to buffer
            self._stream.flush()

    def record(self, record: dict | None) -> None:
        """Take note of a record for the bar's or line's numbers; evaluations get a line of their own."""
        if record is None:
            return
        if record["kind"] == "eval":
            score, name, n = record.get(self._headline), self._headline.replace("_", " "), record["count"]
            if score is None:
                self.say(f"step {record['step']}: answered; there is no score, for the answers are not known")
                return
            on = f"{n} puzzles"
            if n < self._held_out:
                on = f"the first {n} of {self._held_out} puzzles"
                if 0 <= score <= 1:  # of a share, as if each puzzle were drawn
                    on += f", standard error {math.sqrt(score * (1 - score) / n):.4f}"
            self.say(f"step {record['step']}: {self._scored} {name} {score:.4f} on {on}")
        else:
            headline = self._headline.replace("_", " ") + " {:.3f}"
            shown = {"loss": "loss {:.3f}", self._headline: headline, "steps": "steps {:.1f}"}
            self._latest = "  ".join(form.format(record[name]) for name, form in shown.items() if name in record)

    def step(self, step: int, numbers: str = "") -> None:
        """Called after every step; cheap. numbers: what is shown behind it from now on, unless `record` says so."""
        self._latest = numbers or self._latest
        if self._bar:
            self._bar.update(self._task, completed=step, numbers=self._latest)
            return
        now = time.monotonic()
        if now - self._last_line >= self._line_every_s:
            self._last_line = now
            rate = (step - self._first) / (now - self._began)
            left = duration((self._total - step) / rate) if rate else "unknown"
            self.say(f"step {step}/{self._total}  {rate:.2f} steps/s  left {left}  {self._latest}")

    def close(self) -> None:
        if self._bar:
            self._bar.stop()


@contextmanager
def reading(stop: object = None, **how) -> Iterator[Callable[[int, int], None]]:
    """A callback (done, total) for what reads puzzles, whose bar comes with the first call; how: of `Progress`.

    It raises StoppedEarly once `stop` is true.
    """
    bars: list[Progress] = []

    def progress(done: int, total: int) -> None:
        if stop:
            raise StoppedEarly
        if not bars:
            bars.append(Progress("reading puzzles", total, line_every_s=10.0, **how))
        bars[0].step(done)

    try:
        yield progress
    finally:
        for bar in bars:
            bar.close()
