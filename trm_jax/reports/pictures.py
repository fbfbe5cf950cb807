"""Diagrams as PNG: the same bytes for the same figures, in colours that the colour-blind tell apart."""

import io
import math
from collections.abc import Sequence

import numpy as np

from trm_jax.reports.content import Panel, Series
from trm_jax.reports.units import compact

# Okabe and Ito's colours, which the colour-blind tell apart too.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
# Arms cycle through the colours, then through dashes as well.
DASHES = ("-", "--", ":")
WIDTH, HEIGHT, DPI = 5.2, 4.2, 110  # of a panel, in inches
PER_ROW = 3


def panels_png(panels: Sequence[Panel], title: str = "") -> bytes:
    """The panels, up to three in a row, as PNG."""
    import matplotlib.figure
    import matplotlib.style

    columns = min(len(panels), PER_ROW)
    rows = math.ceil(len(panels) / columns)
    # A style file of the user's must not change the picture.
    with matplotlib.style.context("default"):
        size = (max(WIDTH * columns, 6.4), HEIGHT * rows)
        figure = matplotlib.figure.Figure(figsize=size, layout="constrained", dpi=DPI)
        grid = figure.subplots(rows, columns, squeeze=False).ravel()
        for axes, panel in zip(grid, panels, strict=False):
            _draw(axes, panel)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        if title:
            figure.suptitle(title)
        for text in figure.findobj(matplotlib.text.Text):
            text.set_parse_math(False)  # a $ in a name is a $
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()


def _draw(axes, panel: Panel) -> None:
    for series in panel.series:
        _draw_series(axes, series)
    axes.set_title(panel.title, fontsize=11, loc="left")
    axes.set_xlabel(panel.x_label)
    axes.set_ylabel(panel.y_label)
    axes.grid(color="#e4e8ec", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.08, y=0.1)
    _scale(axes, panel)
    labels = [series.label for series in panel.series if series.label]
    if len(labels) > 1:  # below, where it hides nothing
        columns = max(1, min(3, 60 // max(map(len, labels))))
        axes.legend(fontsize=8, frameon=False, ncols=columns, loc="upper center", bbox_to_anchor=(0.5, -0.17))


def _draw_series(axes, series: Series) -> None:
    x, y = np.asarray(series.x, np.float64), np.asarray(series.y, np.float64)
    color = COLORS[series.color % len(COLORS)]
    dashes = DASHES[series.color // len(COLORS) % len(DASHES)]
    # Matplotlib hides a label that begins with an underscore, which a name may.
    look = {"label": f" {series.label}" if series.label else None, "linestyle": dashes, "linewidth": 1.5, "zorder": 4}
    look |= {"marker": MARKERS[series.color % len(MARKERS)], "markersize": 5}
    if series.style in ("line", "dashed") and x.size > 1:  # a line of one point has no length
        look["marker"] = ""
    look |= {
        "points": {"linestyle": "none"},
        "dashed": {"linestyle": "--"},
        "faint": {"marker": "", "linewidth": 0.8, "alpha": 0.3, "zorder": 2},
    }.get(series.style, {})
    axes.plot(x, y, color=color, **look)
    if known := [i for i, error in enumerate(series.error) if error is not None]:
        errors = [series.error[i] for i in known]
        axes.errorbar(x[known], y[known], yerr=errors, fmt="none", ecolor=color, elinewidth=1.2, capsize=3, zorder=3)
    for place, name in zip(zip(x, y, strict=True), series.names, strict=False):
        axes.annotate(name, place, xytext=(5, 5), textcoords="offset points", fontsize=8, color=color)


def _scale(axes, panel: Panel) -> None:
    """Linear, log or log2, with ticks at round numbers that are written out, or at the named places."""
    import matplotlib.ticker as ticker

    for axis, scale in ((axes.xaxis, panel.x_scale), (axes.yaxis, panel.y_scale)):
        if scale != "linear":
            base = 2 if scale == "log2" else 10
            (axes.set_xscale if axis is axes.xaxis else axes.set_yscale)("log", base=base)
            low, high = axis.get_view_interval()
            # Few decades have too few powers of ten, less than one too few round numbers.
            powers = ticker.LogLocator(base, subs=(1,) if base == 2 or high / low > 1000 else (1, 2, 5))
            axis.set_major_locator(powers if high / low > 8 else ticker.MaxNLocator(6))
            axis.set_minor_locator(ticker.NullLocator())
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: compact(float(f"{value:.6g}"))))
    if panel.ticks:
        places, names = zip(*panel.ticks, strict=True)
        axes.set_xticks(places, names, fontsize=8)
        if sum(map(len, names)) > 60:
            axes.tick_params("x", rotation=35)
