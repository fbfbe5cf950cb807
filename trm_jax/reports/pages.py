"""A report as files: Markdown with pictures beside it, CSV, and one HTML page that needs nothing else."""

import base64
import csv
import io
import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template

from markdown_it import MarkdownIt

from trm_jax.errors import InputError
from trm_jax.reports.content import Report, Table
from trm_jax.reports.pictures import panels_png
from trm_jax.storage.paths import AnyPath, write_whole


def write_report(report: Report, folder: AnyPath) -> list[AnyPath]:
    """Write NAME.md, NAME.html, the CSV files and NAME_*.png into `folder`; gives their paths, the HTML first.

    Raises InputError when a file cannot be written.
    """
    named = {f"{report.name}_{part.name}.png": part.panels for part in report.sections if part.panels}
    pictures = {name: panels_png(panels) for name, panels in named.items()}
    texts = {f"{report.name}.html": html_page(report, pictures), f"{report.name}.md": markdown(report)}
    texts |= {name: csv_text(rows) for name, rows in report.csv.items()}
    files = {name: text.encode() for name, text in texts.items()} | pictures
    for name, content in files.items():
        try:
            write_whole(folder / name, content)
        except OSError as error:
            raise InputError(f"cannot write {folder / name}: {error.strerror}; choose another folder") from error
    return [folder / name for name in files]


def csv_text(rows: list[dict]) -> str:
    """A line for each row below the names of the columns, which are those of the first row; None is empty."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([rows[0], *(row.values() for row in rows)])
    return buffer.getvalue()


def markdown(report: Report) -> str:
    blocks = [f"# {_plain(report.name)}", _plain(report.question), f"**{_plain(report.answer)}**"]
    if report.warnings:
        blocks += ["Mind:", _listed(report.warnings)]
    for section in report.sections:
        blocks.append(f"## {_plain(section.title)}")
        if section.sentence != report.answer:  # which stands above
            blocks.append(_plain(section.sentence))
        if section.table:
            blocks += [_table(section.table), f"*{_plain(section.table.caption)}*"]
        if section.panels:
            title = _plain(f"{report.name}: {section.title}")
            blocks.append(f"![{title}]({report.name}_{section.name}.png)")
        blocks += [f"*{_plain(note)}*" for note in section.notes]
    blocks += ["## How this was made", _listed(f"{key}: {value}" for key, value in report.about)]
    return "\n\n".join(blocks) + "\n"


def _table(table: Table) -> str:
    head, *rows = (f"| {' | '.join(map(_plain, row))} |" for row in (table.columns, *table.rows))
    return "\n".join([head, f"|{'---|' * len(table.columns)}", *rows])


def _listed(lines: Iterable[str]) -> str:
    return "\n".join(f"- {_plain(line)}" for line in lines)


def _plain(text: str) -> str:
    """Text whose signs mean nothing to Markdown; an underscore inside a word means nothing anyway."""
    return re.sub(r"[\\`*<>|]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def html_page(report: Report, pictures: dict[str, bytes]) -> str:
    """The Markdown as one page that holds its pictures; pictures: PNG by the name of the file."""
    body = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown(report))
    for name, content in pictures.items():
        body = body.replace(f'src="{name}"', f'src="data:image/png;base64,{base64.b64encode(content).decode()}"')
    page = Template(Path(__file__).with_name("page.html").read_text())
    return page.substitute(title=escape(report.name), body=body)
