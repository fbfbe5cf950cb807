"""What a report is made of, before it becomes Markdown, HTML or pictures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """Cells are text as it is shown; the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""


@dataclass(frozen=True)
class Series:
    """Points of one colour: means with standard deviations `error` (None for n = 1), single runs as `dots`,
    or a curve, a fitted one with half its confidence `band`."""

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float | None] = ()
    names: Sequence[str] = ()  # written beside the points
    band: Sequence[float] = ()
    style: str = "points"  # points | joined | line | dashed | dots
    color: int = 0


@dataclass(frozen=True)
class Panel:
    """A diagram. `ticks` names positions on x; a `level` is a horizontal line with its name."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_scale: str = "linear"  # linear | log | log2
    y_scale: str = "linear"  # linear | log
    ticks: tuple[tuple[float, str], ...] = ()
    levels: tuple[tuple[float, str], ...] = ()


@dataclass(frozen=True)
class Plot:
    """Panels side by side in one picture; `name` ends its file's name, `alt` says what it shows."""

    name: str
    alt: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True)
class Section:
    """One analysis: what it found in a sentence, the table and the plot behind it, and what to know of them."""

    title: str
    sentence: str
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """A page: its answer comes first, in one sentence."""

    name: str
    question: str
    answer: str
    about: tuple[tuple[str, str], ...]  # data, command, device, versions, ...
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    csv: dict[str, Table]  # name of the file -> raw numbers
