"""Plots as PNG: the same bytes for the same figures, in colours that the colour-blind tell apart."""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np

from trm_jax.evals.curves import COLORS
from trm_jax.reports.content import Panel, Plot, Series
from trm_jax.reports.units import compact

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Arms cycle through the colours, then through dashes as well.
DASHES = ("-", "--", ":")
WIDTH, HEIGHT, DPI = 5.2, 4.2, 110  # of a panel, in inches
PER_ROW = 3
SOFT = "#6e7781"


def plot_png(plot: Plot) -> bytes:
    """The panels of a plot, up to three in a row, as PNG."""
    import matplotlib.figure
    import matplotlib.style

    columns = min(len(plot.panels), PER_ROW)
    rows = math.ceil(len(plot.panels) / columns)
    # A style file of the user's must not change the picture.
    with matplotlib.style.context("default"):
        size = (max(WIDTH * columns, 6.4), HEIGHT * rows)
        figure = matplotlib.figure.Figure(figsize=size, layout="constrained", dpi=DPI)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(grid, plot.panels, strict=False):
            _draw(axes, panel)
        for axes in grid[len(plot.panels) :]:
            axes.set_axis_off()
        for text in figure.findobj(matplotlib.text.Text):
            text.set_parse_math(False)  # a $ in a name is a $
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes: Axes, panel: Panel) -> None:
    for series in panel.series:
        _draw_series(axes, series)
    for y, name in panel.levels:
        axes.axhline(y, color=SOFT, linewidth=1, linestyle=":", zorder=1)
        axes.annotate(name, (1, y), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=8, color=SOFT)
    _style(axes, panel)
    named = sum(series.style != "dots" for series in panel.series)
    if named > 3:  # below, where it hides nothing
        axes.legend(fontsize=8, frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.17))
    elif named > 1:
        axes.legend(fontsize=8, frameon=False)


def _draw_series(axes: Axes, series: Series) -> None:
    x, y = np.asarray(series.x, np.float64), np.asarray(series.y, np.float64)
    color, marker = COLORS[series.color % len(COLORS)], MARKERS[series.color % len(MARKERS)]
    # Matplotlib hides a label that begins with an underscore, which a name may.
    label = f" {series.label}" if series.label.startswith("_") else series.label
    if series.style == "dots":
        axes.plot(x, y, ".", color=color, alpha=0.45, markersize=5, zorder=2)
        return
    if series.style in ("line", "dashed"):
        dashes = "--" if series.style == "dashed" else DASHES[series.color // len(COLORS) % len(DASHES)]
        axes.plot(x, y, color=color, linestyle=dashes, linewidth=1.6, label=label, zorder=3)
    else:
        dashes = DASHES[series.color // len(COLORS) % len(DASHES)] if series.style == "joined" else "none"
        axes.plot(
            x, y, color=color, marker=marker, linestyle=dashes, linewidth=1.4, markersize=5, label=label, zorder=4
        )
    if any(series.error):
        known = [i for i, error in enumerate(series.error) if error is not None]
        errors = [series.error[i] for i in known]
        axes.errorbar(x[known], y[known], yerr=errors, fmt="none", ecolor=color, elinewidth=1.2, capsize=3, zorder=3)
    if len(series.band):
        band = np.asarray(series.band)
        axes.fill_between(x, y - band, y + band, color=color, alpha=0.15, linewidth=0, zorder=1)
    for place, name in zip(zip(x, y, strict=True), series.names, strict=False):
        axes.annotate(name, place, xytext=(5, 5), textcoords="offset points", fontsize=8, color=color)


def _style(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, fontsize=11, loc="left")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(color="#e4e8ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08, y=0.1)
    for axis, scale in ((axes.xaxis, panel.x_scale), (axes.yaxis, panel.y_scale)):
        _scale(axes, axis, scale, panel)
    if panel.ticks:
        _name_ticks(axes, panel)


def _scale(axes: Axes, axis, scale: str, panel: Panel) -> None:
    """Linear, log or log2, with ticks at round numbers that are written out."""
    import matplotlib.ticker as ticker

    is_x = axis is axes.xaxis
    if scale != "linear":
        values = np.concatenate([np.asarray(series.x if is_x else series.y, np.float64) for series in panel.series])
        low, high = values.min(), values.max()
        if np.isclose(low, high):  # a logarithmic axis needs a width
            (axes.set_xlim if is_x else axes.set_ylim)(low / 2, high * 2)
        (axes.set_xscale if is_x else axes.set_yscale)("log", base=2 if scale == "log2" else 10)
        # Less than a decade has too few round numbers for ticks at 1, 2 and 5.
        steps = (1,) if high / low > 1000 else (1, 2, 5)
        base_ten = ticker.LogLocator(subs=steps) if high / low > 8 else ticker.MaxNLocator(nbins=6)
        axis.set_major_locator(ticker.LogLocator(base=2) if scale == "log2" else base_ten)
        axis.set_minor_locator(ticker.NullLocator())
    elif is_x and all(float(x).is_integer() for series in panel.series for x in series.x):
        axis.set_major_locator(ticker.MaxNLocator(nbins=8, steps=(1, 2, 5, 10), integer=True))
    axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: compact(float(f"{value:.6g}"))))


def _name_ticks(axes: Axes, panel: Panel) -> None:
    import matplotlib.ticker as ticker

    places, names = zip(*panel.ticks, strict=True)
    axes.xaxis.set_major_locator(ticker.FixedLocator(places))
    axes.xaxis.set_minor_locator(ticker.NullLocator())
    axes.xaxis.set_major_formatter(ticker.FixedFormatter(names))
    axes.tick_params(axis="x", labelsize=8)
    if any("\n" in name for name in names):  # names of arms, also of those that have no point here
        axes.set_xlim(places[0] - 0.5, places[-1] + 0.5)
    if max(len(line) for name in names for line in name.split("\n")) * len(names) > 60:
        for text in axes.get_xticklabels():
            text.set(rotation=35, ha="right", rotation_mode="anchor")
