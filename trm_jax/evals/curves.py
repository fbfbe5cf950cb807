"""Training curves as one PNG, drawn from the records of the metrics file."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath
from trm_jax.tasks.pictures import write_picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.text import Text

Record = Mapping[str, Any]
Runs = Mapping[str, Sequence[Record]]

PANELS = {
    "loss": "loss",
    "exact_accuracy": "exact accuracy (train: when halted)",
    "steps": "mean steps (train: when halted)",
}
KINDS = {"train": "train", "eval": "held out, EMA weights"}
# Okabe and Ito's colours, which the colour-blind tell apart too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
# A train line of this many points is drawn faint under its moving mean, which spans a thirtieth of it.
SMOOTH_FROM, SMOOTH_PARTS = 60, 30


class Line(NamedTuple):
    """What one run's records of one kind say under one key; steps, values: float64 [n], n > 0, by step."""

    key: str
    run: str
    kind: str
    steps: np.ndarray
    values: np.ndarray


def curve_png(path: str | AnyPath, runs: Runs, *, title: str = "") -> None:
    """Write loss (log scale), exact accuracy and mean supervision steps against the step as PNG.

    runs: name of a run -> its records, each with `kind` ("train" or "eval"), `step` and some of the keys
    `loss`, `exact_accuracy` and `steps`. In train records the last two are over the sequences that halted;
    eval records are of held-out puzzles with EMA weights. A record that lacks a key, or has no finite number
    there, gives that line no point; a step recorded twice (a run that went on from a checkpoint) counts as
    recorded last. A panel for which no run has figures is left out. Raises InputError if a run has nothing to
    draw.
    """
    if not runs:
        raise InputError("no runs to draw curves of: pass the records of at least one metrics file")
    lines = curve_lines(runs)
    for run in runs:
        if run not in {line.run for line in lines}:
            raise InputError(f"run {run!r} has no figures yet: train to its first log line or leave it out")
    keys = list(dict.fromkeys(line.key for line in lines))
    matplotlib = _matplotlib()
    # A style file of the user's must not change the picture.
    with matplotlib.style.context("default"):
        figure = matplotlib.figure.Figure(figsize=(4.6 * len(keys), 4), layout="constrained", dpi=120)
        for axes, key in zip(figure.subplots(1, len(keys), squeeze=False)[0], keys, strict=True):
            _draw_panel(axes, [line for line in lines if line.key == key], list(runs))
        texts = _draw_legend(figure, lines, list(runs))
        if title:
            texts.append(figure.suptitle(title, fontsize=13))
        for text in texts:
            text.set_parse_math(False)  # a $ in a name is a $
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    write_picture(path, ".png", buffer.getvalue())


def curve_lines(runs: Runs) -> list[Line]:
    """The lines that `curve_png` draws: by key, then run, then kind."""
    lines = []
    for key, (run, records), kind in product(PANELS, runs.items(), KINDS):
        found = {
            record["step"]: record[key]
            for record in records
            if record.get("kind") == kind and _is_finite(record.get("step")) and _is_finite(record.get(key))
        }
        if found:
            steps, values = np.array(sorted(found.items()), dtype=np.float64).T
            lines.append(Line(key, run, kind, steps, values))
    return lines


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _style(run: str, kind: str, runs: list[str]) -> dict[str, Any]:
    """One run: a colour for each kind. Several: a colour for each run, and held-out figures dashed."""
    color = COLORS[(runs.index(run) if len(runs) > 1 else list(KINDS).index(kind)) % len(COLORS)]
    held_out = kind == "eval"
    return {"color": color, "linestyle": "--" if held_out else "-", "marker": "o" if held_out else ""}


def _draw_panel(axes: Axes, lines: list[Line], runs: list[str]) -> None:
    for line in lines:
        style = {**_style(line.run, line.kind, runs), "markersize": 4}
        if line.kind == "train" and line.steps.size >= SMOOTH_FROM:
            axes.plot(line.steps, line.values, **style, linewidth=0.8, alpha=0.3)
            window = np.ones(line.steps.size // SMOOTH_PARTS) / (line.steps.size // SMOOTH_PARTS)
            means = [np.convolve(series, window, mode="valid") for series in (line.steps, line.values)]
            axes.plot(*means, **style, linewidth=1.8)
        else:
            if line.steps.size == 1:
                style["marker"] = "o"  # a line of one point has no length
            axes.plot(line.steps, line.values, **style, linewidth=1.6)
        if line.key == "exact_accuracy" and line.kind == "eval" and len(runs) == 1:
            axes.set_title(f"held out {line.values[-1]:.3f}", fontsize=11, loc="right", color=style["color"])
    _style_axes(axes, lines[0].key, np.concatenate([line.values for line in lines]))


def _draw_legend(figure: Figure, lines: list[Line], runs: list[str]) -> list[Text]:
    """Draw what colours and dashes mean below the panels; gives the legend's texts."""
    line2d = _matplotlib().lines.Line2D
    kinds = [kind for kind in KINDS if any(line.kind == kind for line in lines)]
    entries = {KINDS[kind]: _style(runs[0], kind, runs) for kind in kinds}
    if len(runs) > 1:
        # A name may begin with an underscore, which hides a label: no label begins with a name.
        entries = {f"run {run}": {"color": _style(run, "train", runs)["color"]} for run in runs} | {
            words: {**style, "color": "#6e7781"} for words, style in entries.items()
        }
    handles = [line2d([], [], linewidth=1.8, markersize=4, **style) for style in entries.values()]
    legend = figure.legend(handles, list(entries), loc="outside lower center", ncols=5, frameon=False)
    return legend.get_texts()


def _style_axes(axes: Axes, key: str, values: np.ndarray) -> None:
    ticker = _matplotlib().ticker
    axes.set_title(PANELS[key], fontsize=11, loc="left")
    axes.set_xlabel("step")
    axes.grid(color="#e4e8ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(6, steps=[1, 2, 5, 10], integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(ticker.FuncFormatter(lambda step, _: f"{step:,.0f}"))
    if key == "exact_accuracy":
        axes.set_ylim(-0.02, 1.02)
    elif key == "steps":
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_locator(ticker.MaxNLocator(nbins=9, integer=True))
    elif (values > 0).any():
        axes.set_yscale("log", nonpositive="mask")
        positive = values[values > 0]
        # Less than a decade has too few round numbers for ticks at 1, 2 and 5.
        wide = positive.max() / positive.min() > 8
        locator = ticker.LogLocator(subs=(1, 2, 5)) if wide else ticker.MaxNLocator(nbins=6)
        axes.yaxis.set_major_locator(locator)
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda loss, _: f"{loss:g}"))
        axes.yaxis.set_minor_locator(ticker.NullLocator())


def _matplotlib():
    try:
        import matplotlib.figure
        import matplotlib.lines
        import matplotlib.style
        import matplotlib.ticker
    except ImportError as error:
        raise InputError("matplotlib is not installed, curves need it: pip install matplotlib") from error
    return matplotlib
