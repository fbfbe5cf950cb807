"""Two results of `trm bench`: what became faster or slower by more than both of them scatter."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from trm_jax.errors import InputError


class Change(NamedTuple):
    """Of one figure: seconds then and now; verdict: "faster", "slower", or "" where the difference may be chance."""

    run: str
    kind: str
    before: float
    now: float
    verdict: str


def read(path: Path) -> dict:
    """Results that `--json` wrote. Raises InputError for another file."""
    try:
        found = json.loads(path.read_text())
        found["runs"], found["device"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{path} is not a result of trm bench; make one: trm bench --json {path}") from None
    return found


def changes(now: dict, before: dict) -> Iterator[Change]:
    """The figures that both results have; a verdict needs medians further apart than either's quartiles are."""
    for run, kinds in now["runs"].items():
        for kind, figure in kinds.items():
            other = before["runs"].get(run, {}).get(kind, {}).get("seconds")
            if other is None or "seconds" not in figure:
                continue
            this = figure["seconds"]
            scatter = max(one["q3"] - one["q1"] for one in (this, other))
            sure = abs(this["median"] - other["median"]) > scatter and min(this["n"], other["n"]) >= 3
            verdict = ("faster" if this["median"] < other["median"] else "slower") if sure else ""
            yield Change(run, kind, other["median"], this["median"], verdict)
