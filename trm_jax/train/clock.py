"""Where a run's time goes, over all its lives: what trained, and what did not (goodput).

Seconds by kind: `train` (steps that count), `compile`, `data` (waiting for a batch), `evaluation`, `checkpoint` (what
it holds up, not what it does besides), `setup` (restoring, first states), `lost` (steps made again after a crash, and
all else since the checkpoint that was gone back to) and `down` (between two lives).
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import jax

GOODPUT_FILE = "goodput.json"
SPENT = ("train", "compile", "data", "evaluation", "checkpoint", "setup")
_compiled_s = 0.0  # by XLA in this process


def _count_compilation(event: str, duration_s: float, **_) -> None:
    global _compiled_s
    if event == "/jax/core/compile/backend_compile_duration":
        _compiled_s += duration_s


jax.monitoring.register_event_duration_secs_listener(_count_compilation)


class Clock:
    """Adds up the seconds of one process from now on; one thing is done at a time."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        self._now = now
        self._seconds = dict.fromkeys(SPENT, 0.0)
        self._doing, self._since, self._compiled = "setup", now(), _compiled_s

    def _settle(self) -> None:
        now = self._now()
        compiled = min(_compiled_s - self._compiled, now - self._since)
        self._seconds["compile"] += compiled
        self._seconds[self._doing] += now - self._since - compiled
        self._since, self._compiled = now, _compiled_s

    def go_on_with(self, what: str) -> None:
        """From now on the time is that of `what`."""
        self._settle()
        self._doing = what

    @contextmanager
    def doing(self, what: str) -> Iterator[None]:
        """For as long as the context lasts the time is that of `what`."""
        before = self._doing
        self.go_on_with(what)
        try:
            yield
        finally:
            self.go_on_with(before)

    def seconds(self) -> dict[str, float]:
        """Seconds so far by kind."""
        self._settle()
        return dict(self._seconds)


def resumed(saved: Mapping[str, float], before: Mapping, now_unix_s: float) -> dict[str, float]:
    """What a new life begins with: the seconds `saved` in the checkpoint it goes on from, and what is lost since.

    before: the content of GOODPUT_FILE, {} when there is none.
    """
    if not before:
        return {**dict.fromkeys(SPENT, 0.0), **saved, "lost": 0.0, "down": 0.0}
    earlier = before["seconds"]
    spent = sum(earlier[kind] for kind in (*SPENT, "lost"))
    base = {kind: saved.get(kind, 0.0) for kind in SPENT}
    return {
        **base,
        "lost": max(spent - sum(base.values()), 0.0),
        "down": earlier["down"] + max(now_unix_s - before["updated_unix_s"], 0.0),
    }


def goodput(seconds: Mapping[str, float]) -> float:
    """The share of the time that trained, of all but that between two lives."""
    spent = sum(value for kind, value in seconds.items() if kind != "down")
    return seconds["train"] / spent if spent else 0.0


def to_json(seconds: Mapping[str, float], lives: int, updated_unix_s: float) -> str:
    """The content of GOODPUT_FILE."""
    rounded = {kind: round(value, 3) for kind, value in seconds.items()}
    content = {"goodput": goodput(seconds), "lives": lives, "seconds": rounded, "updated_unix_s": updated_unix_s}
    return json.dumps(content, indent=2) + "\n"
