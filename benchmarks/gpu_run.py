"""What the phases of `benchmarks.gpu` share: their time, and where their figures go."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import time
from collections.abc import Iterator

from benchmarks.gpu import write

SMALL = {
    "model.hidden_size": 64,
    "model.num_heads": 2,
    "model.puzzle_emb_ndim": 64,
    "model.puzzle_emb_len": 1,
    "model.L_layers": 1,
    "model.H_cycles": 2,
    "model.L_cycles": 1,
    "model.halt_max_steps": 4,
    "train.batch_size": 8,
    "eval.batch_size": 8,
}


@dataclasses.dataclass
class Run:
    """One phase under way: what it was told, the time it has, and where its figures go."""

    args: argparse.Namespace
    ends: float
    found: dict = dataclasses.field(default_factory=dict)

    @property
    def tiny(self) -> bool:
        return self.args.tiny

    def left(self) -> float:
        """Seconds."""
        return self.ends - time.monotonic()

    def say(self, *path: str, **figures) -> None:
        """Keep figures under the place that `path` names, and write all of them."""
        place = self.found
        for name in path:
            place = place.setdefault(name, {})
        place.update(figures)
        write(self.args.json, self.found)

    @contextlib.contextmanager
    def part(self, *path: str, needs: float = 0.0) -> Iterator[bool]:
        """A part whose failure is written down and loses no other; yields whether there are `needs` seconds for it."""
        enough, began = self.left() > needs, time.monotonic()
        try:
            yield enough
        except Exception as error:  # noqa: BLE001 - of any kind: it is what this phase is to find out
            self.say(*path, error=f"{type(error).__name__}: {error}"[:1500])
        self.say(*path, **({"took_s": round(time.monotonic() - began, 1)} if enough else {"skipped": "no time left"}))


def settings(run: Run) -> dict:
    """Changes to an experiment: those of tiny shapes."""
    return dict(SMALL) if run.tiny else {}
