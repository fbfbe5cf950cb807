"""Training curves as one PNG, drawn from the records of the metrics file."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from trm_jax.errors import InputError
from trm_jax.reports.content import Panel, Series
from trm_jax.reports.pictures import panels_png
from trm_jax.reports.units import digits
from trm_jax.storage.paths import AnyPath
from trm_jax.tasks.pictures import write_picture

Runs = Mapping[str, Sequence[Mapping[str, Any]]]
KINDS = {"train": "train", "eval": "held out"}
# A train line of this many points is drawn faint under its moving mean, which spans a thirtieth of it.
SMOOTH_FROM, SMOOTH_PARTS = 60, 30


def curve_png(path: str | AnyPath, runs: Runs, headlines: Sequence[str], title: str = "") -> None:
    """Write loss, headline scores and mean supervision steps against the step as PNG; InputError for a run without any.

    runs: name of a run -> its records, each with `kind` ("train" or "eval"), `step` and some of the keys. In train
    records scores and steps are over the sequences that halted; eval records are of held-out puzzles, with EMA weights.
    """
    for name, records in runs.items():
        if not curve_panels({name: records}, headlines):
            raise InputError(f"run {name!r} has no figures yet: train to its first log line or leave it out")
    write_picture(path, ".png", panels_png(curve_panels(runs, headlines), title))


def curve_panels(runs: Runs, headlines: Sequence[str]) -> list[Panel]:
    """The diagrams of `curve_png`, those left out for which no run has figures.

    A record that lacks a key, or has no finite number there, gives no point; a step recorded twice (a run that went on
    from a checkpoint) counts as recorded last.
    """
    panels = []
    for key in dict.fromkeys(("loss", *headlines, "steps")):
        series = [one for number, run in enumerate(runs) for one in _series(runs, run, key, number)]
        log = key == "loss" and all(value > 0 for one in series for value in one.y)
        title = key.replace("_", " ") + " (train: when halted)" * (key != "loss")
        x_label = "step" if len(runs) == 1 else "step (dashed: held out)"
        panels += [Panel(title, x_label, "", tuple(series), y_scale="log" if log else "linear")] * bool(series)
    return panels


def _series(runs: Runs, run: str, key: str, number: int) -> Iterator[Series]:
    """One run: a colour for each kind. Several: a colour for each run, and held-out figures dashed."""
    for color, (kind, words) in enumerate(KINDS.items()):
        records = [record for record in runs[run] if record.get("kind") == kind]
        points = {r["step"]: r[key] for r in records if _is_finite(r.get("step")) and _is_finite(r.get(key))}
        if not points:
            continue
        x, y = np.array(sorted(points.items()), np.float64).T
        held_out = kind == "eval"
        label, style = (f"{words}, last {digits(y[-1])}", "joined") if held_out else (words, "line")
        if len(runs) > 1:
            color, label, style = (number, "", "dashed") if held_out else (number, run, "line")
        if not held_out and x.size >= SMOOTH_FROM:
            yield Series("", x, y, style="faint", color=color)
            window = np.full(x.size // SMOOTH_PARTS, 1 / (x.size // SMOOTH_PARTS))
            x, y = (np.convolve(values, window, mode="valid") for values in (x, y))
        yield Series(label, x, y, style=style, color=color)


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
