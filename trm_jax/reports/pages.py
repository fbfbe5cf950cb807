"""A report as files: Markdown with pictures beside it, CSV, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import csv
import io
import re
from collections.abc import Iterator
from html import escape

from trm_jax.errors import InputError
from trm_jax.reports.content import Report, Table
from trm_jax.reports.pictures import panels_png
from trm_jax.storage.paths import AnyPath, write_whole
from trm_jax.tasks.pictures import write_picture

STYLE = """
body { max-width: 1200px; margin: 0 auto; padding: 2.5rem 1.25rem; color: #1f2328; background: #fff; }
body { font: 16px/1.55 system-ui, "Segoe UI", sans-serif; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: 1rem; border-top: 1px solid #d1d9e0; }
.question, .note { color: #59636e; font-size: .9rem; }
.answer { border-left: 4px solid #0072B2; background: #f6f8fa; padding: .9rem 1.1rem; font-size: 1.1rem; }
.warnings { border-left: 4px solid #E69F00; background: #fff8e6; padding: .6rem 1.1rem .6rem 2.2rem; }
.scroll { overflow-x: auto; margin: 1rem 0 .3rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .75rem; border-bottom: 1px solid #d1d9e0; text-align: right; vertical-align: top; }
td { white-space: nowrap; }
th { background: #f6f8fa; vertical-align: bottom; min-width: 5.5rem; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
"""


def write_report(report: Report, folder: AnyPath) -> list[AnyPath]:
    """Write NAME.md, NAME.html, the CSV files and NAME_*.png into `folder`; gives their paths, the HTML first.

    Raises InputError when a file cannot be written.
    """
    named = {f"{report.name}_{part.name}.png": part.panels for part in report.sections if part.panels}
    pictures = {name: panels_png(panels) for name, panels in named.items()}
    texts = {f"{report.name}.html": html_page(report, pictures), f"{report.name}.md": markdown(report)}
    texts |= {name: csv_text(table) for name, table in report.csv.items()}
    for name, content in pictures.items():
        write_picture(folder / name, ".png", content)
    for name, text in texts.items():
        try:
            write_whole(folder / name, text.encode())
        except OSError as error:
            raise InputError(f"cannot write {folder / name}: {error.strerror}; choose another --output") from error
    return [folder / name for name in (*texts, *pictures)]


def csv_text(table: Table) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([table.columns, *table.rows])
    return buffer.getvalue()


def _blocks(report: Report) -> Iterator[tuple[str, str | tuple[str, ...] | Table]]:
    """What stands on the page from top to bottom: what it is, and its content."""
    yield from (("title", report.name), ("question", report.question), ("answer", report.answer))
    if report.warnings:
        yield "warnings", report.warnings
    for section in report.sections:
        yield "heading", section.title
        if section.sentence != report.answer:  # which stands above
            yield "text", section.sentence
        if section.table:
            yield "table", section.table
            yield "note", section.table.caption
        if section.panels:
            yield "picture", (f"{report.name}_{section.name}.png", f"{report.name}: {section.title}")
        yield from (("note", note) for note in section.notes)
    yield "heading", "How this was made"
    yield "about", tuple(f"{key}: {value}" for key, value in report.about)


def markdown(report: Report) -> str:
    return "\n\n".join(_markdown(kind, content) for kind, content in _blocks(report) if content) + "\n"


def _markdown(kind: str, content) -> str:
    if kind == "table":
        head, *rows = (f"| {' | '.join(map(_md, row))} |" for row in (content.columns, *content.rows))
        return "\n".join([head, f"|{'---|' * len(content.columns)}", *rows])
    if kind == "picture":
        return f"![{_md(content[1])}]({content[0]})"
    if isinstance(content, tuple):
        return "Mind:\n\n" * (kind == "warnings") + "\n".join(f"- {_md(line)}" for line in content)
    around = {"title": "# {}", "heading": "## {}", "answer": "**{}**", "note": "*{}*"}
    return around.get(kind, "{}").format(_md(content))


def _md(text: str) -> str:
    """Text whose signs mean nothing to Markdown; an underscore inside a word means nothing anyway."""
    return re.sub(r"[\\`*<>|]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def html_page(report: Report, pictures: dict[str, bytes]) -> str:
    """One page that holds its pictures; pictures: PNG by the name of the file."""
    body = [_html(kind, content, pictures) for kind, content in _blocks(report) if content]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(report.name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )


def _html(kind: str, content, pictures: dict[str, bytes]) -> str:
    def row(cells: tuple[str, ...], tag: str) -> str:
        return f"<tr>{''.join(f'<{tag}>{escape(cell)}</{tag}>' for cell in cells)}</tr>\n"

    if kind == "table":
        rows = row(content.columns, "th") + "".join(row(cells, "td") for cells in content.rows)
        return f'<div class="scroll"><table>\n{rows}</table></div>'
    if kind == "picture":
        data = base64.b64encode(pictures[content[0]]).decode()
        return f'<img alt="{escape(content[1])}" src="data:image/png;base64,{data}">'
    if isinstance(content, tuple):
        return f'<ul class="{kind}">{"".join(f"<li>{escape(line)}</li>" for line in content)}</ul>'
    tag = {"title": "h1", "heading": "h2"}.get(kind, "p")
    return f'<{tag} class="{kind}">{escape(content)}</{tag}>'
