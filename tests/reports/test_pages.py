"""The files of a report: one page that needs nothing else, Markdown, CSV, pictures that are the same every time."""

import base64
import csv
import html.parser
import io

import matplotlib
import numpy as np
import pytest
from PIL import Image

from trm_jax.errors import InputError
from trm_jax.reports.content import Panel, Report, Section, Series, Table
from trm_jax.reports.pages import csv_text, html_page, markdown, write_report
from trm_jax.reports.pictures import COLORS, panels_png


def small_report(**changes) -> Report:
    panel = Panel("a", "x", "y", (Series("s", [1, 2], [0.1, 0.2]),))
    table = Table(("arm | x", "<y>"), (("a_1 & b", "not run"), ("*c*", "0.5 ± 0.1 (n = 2)")), "of <b>")
    part = Section("First <i>", "It is 1 < 2.", table, "one", (panel,), ("A note_.",))
    fields = {"name": "demo", "question": "Why?", "answer": "Because.", "about": (("command", "trm report x"),)}
    fields |= {
        "warnings": ("mind <this>",),
        "sections": (part,),
        "csv": {"demo.csv": [{"a": 1, "b": "x,y"}]},
    }
    return Report(**{**fields, **changes})


class Checker(html.parser.HTMLParser):
    """Every tag closed, in order."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.text = [], [], ""

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def parsed(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    assert checker.open == []
    return checker


def test_the_page_needs_nothing_else(report_of, tmp_path):
    paths = write_report(report_of("three seeds", "exp07"), tmp_path)
    assert paths[0] == tmp_path / "exp07.html" and all(path.is_file() for path in paths)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in paths}
    page = parsed(paths[0].read_text())
    assert {tag for tag, _ in page.seen} <= set(
        "html head meta title style body h1 h2 p strong em ul li table thead tbody tr th td img".split()
    )
    sources = [attributes["src"] for tag, attributes in page.seen if tag == "img"]
    assert len(sources) == len(list(tmp_path.glob("*.png"))) == 4
    for source in sources:
        kind, data = source.split(",")
        assert kind == "data:image/png;base64"
        assert any(base64.b64decode(data) == path.read_bytes() for path in tmp_path.glob("*.png"))
    assert "http" not in paths[0].read_text() and "url(" not in paths[0].read_text()


def test_the_page_says_how_it_was_made(report_of):
    report = report_of("three seeds", "exp07")
    about = dict(report.about)
    assert about["command"] == "trm report exp07" and about["device"].startswith("1 x cpu")
    assert about["versions"] == "trm_jax 0.1, jax 0.10, jaxlib 0.10, python 3.11"
    assert (
        about["runs"] == "9, of 3 experiments; seeds: 0, 1 and 2" and " of 500 by exact_accuracy" in about["scored on"]
    )
    assert "trm report exp07" in markdown(report) and "bfloat16" in markdown(report)


def test_signs_of_the_formats_stay_text():
    report = small_report()
    page = html_page(report, {"demo_one.png": b"png"})
    assert "First &lt;i&gt;" in page and "1 &lt; 2" in page and "<b>" not in page
    assert "a_1 & b" in parsed(page).text
    text = markdown(report)
    assert "a_1 & b" in text and r"A note\_." in text
    assert r"| arm \| x | \<y\> |" in text and r"| \*c\* | 0.5 ± 0.1 (n = 2) |" in text
    assert "](demo_one.png)" in text


def test_what_stands_on_top_is_not_said_twice():
    report = small_report(answer="It is 1 < 2.")
    assert markdown(report).count(r"It is 1 \< 2.") == 1
    assert html_page(report, {"demo_one.png": b""}).count("It is 1 &lt; 2.") == 1


def test_csv_holds_raw_numbers(report_of):
    text = csv_text(report_of("three seeds", "exp01").csv["exp01.csv"])
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == 18 and {row["seed"] for row in rows if row["experiment"] == "exp01b"} == {"0", "1", "2"}
    assert rows[0]["experiment"] == "exp01a" and rows[0]["exact_accuracy"] == "0.8" and rows[0]["time_to_0.85"] == ""
    assert {row["parameters"] for row in rows if row["experiment"] == "exp01c"} == {"5028866"}
    assert csv_text([{"a": 'x,"y"', "b": None}]) == 'a,b\n"x,""y""",\n'


def test_the_same_runs_give_the_same_bytes_whatever_the_users_style(tmp_path):
    first = write_report(small_report(), tmp_path / "a")
    with matplotlib.rc_context({"axes.facecolor": "black", "lines.linewidth": 9, "savefig.dpi": 30}):
        second = write_report(small_report(), tmp_path / "b")
    assert len(first) == 4 and [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write .*file"):
        write_report(small_report(), tmp_path / "file")
    with pytest.raises(InputError, match="cannot write .*file"):
        write_report(small_report(sections=()), tmp_path / "file")


def pixels(*panels: Panel) -> np.ndarray:
    with Image.open(io.BytesIO(panels_png(panels))) as image:
        return np.asarray(image.convert("RGB"))


def count(image: np.ndarray, color: str) -> int:
    return int((image == [int(color[i : i + 2], 16) for i in (1, 3, 5)]).all(-1).sum())


def panel_of(*series, **panel) -> Panel:
    return Panel("t", "x", "y", series, **panel)


@pytest.mark.parametrize(
    "style, scale", [("points", "linear"), ("joined", "log"), ("line", "log2"), ("dashed", "log"), ("points", "log2")]
)
def test_every_style_draws_its_colour(style, scale):
    series = Series("s", [1, 2, 4, 8], [0.1, 0.2, 0.3, 0.35], [0.01, None, 0.02, None], style=style, color=1)
    image = pixels(panel_of(series, x_scale=scale))
    assert count(image, COLORS[1]) > 50 and count(image, COLORS[0]) == 0


@pytest.mark.parametrize("scale", ["linear", "log", "log2"])
def test_a_single_point_is_seen(scale):
    assert count(pixels(panel_of(Series("s", [512], [0.5]), x_scale=scale, y_scale="log")), COLORS[0]) > 10


def test_faint_lines_and_names_are_drawn():
    line = Series("fit", [1, 2, 3], [0.1, 0.2, 0.3], style="line")
    bare = pixels(panel_of(line))
    extras = {
        "faint": panel_of(line, Series("", [1, 2], [0.3, 0.1], style="faint")),
        "names": panel_of(Series("fit", [1, 2, 3], [0.1, 0.2, 0.3], style="line", names=["a", "b", "c"])),
        "ticks": panel_of(line, ticks=((1, "one"), (2, "two"), (5, "five"))),
    }
    for what, panel in extras.items():
        assert (pixels(panel) != bare).any(), what


def test_names_with_signs_of_their_own_are_text():
    names = ("_x", "$a$", r"\b", "d")
    image = pixels(panel_of(*(Series(name, [1, 2], [k, k + 1], style="line", color=k) for k, name in enumerate(names))))
    # Four lines and their four handles below the panel.
    assert all(count(image[-60:], COLORS[k]) > 20 for k in range(4))


def test_panels_stand_three_in_a_row():
    panel = panel_of(Series("s", [1, 2], [1, 2]))
    height, width, _ = pixels(*[panel] * 3).shape
    assert pixels(*[panel] * 4).shape[:2] == (2 * height, width) and pixels(panel).shape[1] < width
