"""What a person sees of a sweep: a line while it works, a table at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from trm_jax.sweep.run import BAD_ENDS, DONE, RUNNING, STOPPED, WAITING, Run
from trm_jax.train.progress import duration

STYLES = {RUNNING: "cyan", **dict.fromkeys(BAD_ENDS, "bold red"), STOPPED: "yellow", WAITING: "", DONE: "green"}


def counts(runs: Sequence[Run]) -> str:
    """'3 of 10 done, 1 running, 6 waiting'."""
    found = Counter(run.state for run in runs)
    others = [f"{found[name]} {name}" for name in STYLES if name != DONE and found[name]]
    return ", ".join([f"{found[DONE]} of {len(runs)} done", *others])


def news(runs: Sequence[Run]) -> str:
    """The counts, and how far each run is that is at work."""
    said = [counts(runs)]
    for run in runs:
        if run.state == RUNNING:
            run.look()
            left = "" if run.left_s is None else f"{duration(run.left_s)} left"
            said.append(", ".join(filter(None, [f"{run.label} step {_steps(run)}", run.score_words, left])))
    return "; ".join(said)


def _steps(run: Run) -> str:
    return f"{run.step}/{run.total_steps}" if run.total_steps else ""


def table(runs: Sequence[Run]) -> Table:
    """A row for each run."""
    found = Table(box=box.SIMPLE_HEAD)
    for name in ("run", "seed", "state", "step", "score"):
        found.add_column(name, justify="right" if name in ("seed", "step") else "left", no_wrap=True)
    found.add_column("what went wrong", overflow="fold")
    for run in runs:
        seed, state = "" if run.seed is None else str(run.seed), Text(run.state, STYLES[run.state])
        found.add_row(run.label, seed, state, _steps(run), run.score_words, Text(run.error))
    return found
