"""Where a run's time goes, over all its lives: what trained, and what did not (goodput).

Seconds by kind: `train` (steps that count), `compile`, `data` (reading the puzzles, waiting for a batch), `evaluation`,
`checkpoint` (what it holds up, not what it does besides), `setup` (restoring, first states), `lost` (steps made again
after a crash, and all else since the checkpoint that was gone back to) and `down` (from the last moment that is known
of one life to the beginning of the next).
"""

from __future__ import annotations

import functools
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import jax

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath

GOODPUT_FILE = "goodput.json"
SPENT = ("train", "compile", "data", "evaluation", "checkpoint", "setup")
KINDS = (*SPENT, "lost", "down")
_compiled_s = 0.0  # by XLA in this process, since its first clock


@functools.cache
def _count_compilations() -> None:
    """Listen to JAX from now on; not when this is imported, which must change nothing."""

    def count(event: str, duration_s: float, **_) -> None:
        global _compiled_s
        if event == "/jax/core/compile/backend_compile_duration":
            _compiled_s += duration_s

    jax.monitoring.register_event_duration_secs_listener(count)


class Clock:
    """Adds up the seconds of one process from now on; one thing is done at a time."""

    def __init__(self, now: Callable[[], float] = time.monotonic):
        _count_compilations()
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

    def training_s(self) -> float:
        """Seconds so far that went into steps and into waiting for their batches: what a rate of steps is over."""
        self._settle()
        return self._seconds["train"] + self._seconds["data"]


def resumed(saved: Mapping[str, float], before: Mapping, step: int, began_unix_s: float) -> dict[str, float]:
    """What a life begins with that goes on at `step`: the seconds `saved` in the checkpoint, and what is lost since.

    before: the content of GOODPUT_FILE, {} when there is none; began_unix_s: when the new life's clock started. All
    kinds add up to the time from the start of the first life to that moment.
    """
    saved = {kind: saved.get(kind, 0.0) for kind in KINDS}
    if not before:
        return saved
    earlier = before["seconds"]
    if before.get("stopped_at") == step:  # nothing is made again
        saved = earlier
    known, kept = spent(earlier), sum(saved[kind] for kind in SPENT)
    # A kill may fall between a save and the file's update: then the checkpoint knows more.
    later = max(spent(saved) - known, 0.0)
    down = max(began_unix_s - before["updated_unix_s"] - later, 0.0)
    return {**saved, "lost": max(known + later - kept, 0.0), "down": earlier["down"] + down}


def spent(seconds: Mapping[str, float]) -> float:
    """Seconds in which a process was there: all but those between two lives."""
    return sum(value for kind, value in seconds.items() if kind != "down")


def goodput(seconds: Mapping[str, float]) -> float:
    """The share of the time that trained, of all but that between two lives."""
    return seconds["train"] / spent(seconds) if spent(seconds) else 0.0


def to_json(seconds: Mapping[str, float], lives: int, updated_unix_s: float, stopped_at: int | None = None) -> str:
    """The content of GOODPUT_FILE. stopped_at: the step at which the run ended in order."""
    content = {
        "goodput": goodput(seconds),
        "lives": lives,
        "seconds": {kind: round(value, 3) for kind, value in seconds.items()},
        "updated_unix_s": updated_unix_s,
    }
    return json.dumps(content | ({} if stopped_at is None else {"stopped_at": stopped_at}), indent=2) + "\n"


def read_goodput(file: AnyPath) -> dict:
    """What `to_json` has written there; {} when there is no file. Raises InputError for any other content."""
    try:
        content = json.loads(file.read_bytes())
        numbers = [content["updated_unix_s"], *(content["seconds"][kind] for kind in KINDS)]
        # Up to 30,000 years; NaN is in no range.
        if type(content["lives"]) is int and content["lives"] > 0 and all(0 <= n < 1e12 for n in numbers):
            return content
    except FileNotFoundError:
        return {}
    except (ValueError, TypeError, KeyError):
        pass
    raise InputError(f"{file} does not say where a run's time went; only that is lost with it")
