"""What a report is made of, before it becomes Markdown, HTML or pictures."""

from collections.abc import Sequence
from typing import NamedTuple


class Table(NamedTuple):
    """Cells are text as it is shown; the first column names the row."""

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str


class Series(NamedTuple):
    """Points of one colour: means with standard deviations `error` (None for n = 1), or a curve."""

    label: str  # in the legend; without one it is not there
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float | None] = ()
    names: Sequence[str] = ()  # written beside the points
    style: str = "points"  # points | joined | line | dashed | faint
    color: int = 0


class Panel(NamedTuple):
    """A diagram. `ticks` names positions on x."""

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_scale: str = "linear"  # linear | log | log2
    y_scale: str = "linear"  # linear | log
    ticks: tuple[tuple[float, str], ...] = ()


class Section(NamedTuple):
    """One analysis: what it found in a sentence, the table and the diagrams behind it, and what to know of them.

    name: ends the name of the picture, in which the panels stand side by side.
    """

    title: str
    sentence: str
    table: Table | None = None
    name: str = ""
    panels: tuple[Panel, ...] = ()
    notes: tuple[str, ...] = ()


def unanswered(title: str, why: str) -> Section:
    """The section of an analysis for which something is missing."""
    return Section(title, f"Not answered: {why}.")


class Report(NamedTuple):
    """A page: its answer comes first, in one sentence."""

    name: str
    question: str
    answer: str
    about: tuple[tuple[str, str], ...]  # data, command, device, versions, ...
    warnings: tuple[str, ...]
    sections: tuple[Section, ...]
    csv: dict[str, list[dict]]  # name of the file -> rows of raw numbers
