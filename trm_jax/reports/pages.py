"""A report as files: Markdown with pictures beside it, CSV, and one HTML page that needs nothing else."""

from __future__ import annotations

import base64
import csv
import html
import io
import re

from trm_jax.errors import InputError
from trm_jax.reports.content import Plot, Report, Section, Table
from trm_jax.reports.pictures import plot_png
from trm_jax.storage.paths import AnyPath, write_whole
from trm_jax.tasks.pictures import write_picture

STYLE = """
:root { color-scheme: light; --ink: #1f2328; --soft: #59636e; --line: #d1d9e0; --wash: #f6f8fa; --accent: #0072B2; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); font: 16px/1.55 system-ui, "Segoe UI", sans-serif; }
main { max-width: 1200px; margin: 0 auto; padding: 2.5rem 1.25rem 5rem; }
h1 { font-size: 1.9rem; margin: 0 0 .2rem; }
h2 { font-size: 1.3rem; margin: 3rem 0 .5rem; padding-top: 1rem; border-top: 1px solid var(--line); }
.question { color: var(--soft); margin: 0 0 1.2rem; }
.answer { border-left: 4px solid var(--accent); background: var(--wash); padding: .9rem 1.1rem; font-size: 1.1rem; }
.warnings { border-left: 4px solid #E69F00; background: #fff8e6; padding: .6rem 1.1rem; margin: 1.2rem 0; }
.warnings ul { margin: .3rem 0; padding-left: 1.2rem; }
.scroll { overflow-x: auto; margin: 1rem 0 .3rem; }
table { border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .75rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
td { white-space: nowrap; }
th { background: var(--wash); font-weight: 600; vertical-align: bottom; min-width: 5.5rem; }
th:first-child, td:first-child { text-align: left; }
td.missing { color: var(--soft); font-style: italic; }
.caption, .note { color: var(--soft); font-size: .86rem; margin: .2rem 0 1rem; }
img { max-width: 100%; height: auto; display: block; margin: 1rem 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .25rem 1.2rem; font-size: .9rem; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
code { font: .88em ui-monospace, SFMono-Regular, Menlo, monospace; background: var(--wash); padding: .1em .3em; }
"""
ABSENT = ("not run", "not recorded", "not reached", "not known")


def write_report(report: Report, folder: AnyPath) -> list[AnyPath]:
    """Write NAME.md, NAME.html, the CSV files and NAME_*.png into `folder`; gives their paths, the HTML first.

    Raises InputError when a file cannot be written.
    """
    pictures = {plot.name: plot_png(plot) for section in report.sections for plot in section.plots}
    written = []
    for name, content in pictures.items():
        written.append(folder / picture_file(report, name))
        write_picture(written[-1], ".png", content)
    texts = {f"{report.name}.html": html_page(report, pictures), f"{report.name}.md": markdown(report)}
    texts |= {name: csv_text(table) for name, table in report.csv.items()}
    for name, text in texts.items():
        _write_text(folder / name, text)
    return [folder / name for name in texts] + written


def _write_text(path: AnyPath, text: str) -> None:
    try:
        write_whole(path, text.encode())
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}; choose another --output") from error


def picture_file(report: Report, plot_name: str) -> str:
    return f"{report.name}_{plot_name}.png"


def csv_text(table: Table) -> str:
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows([table.columns, *table.rows])
    return buffer.getvalue()


def markdown(report: Report) -> str:
    lines = [f"# {report.name}", "", report.question, "", f"**{_md(report.answer)}**", ""]
    if report.warnings:
        lines += ["Mind:", "", *(f"- {_md(warning)}" for warning in report.warnings), ""]
    for section in report.sections:
        lines += _markdown_section(report, section)
    lines += ["## How this was made", "", *(f"- {key}: {_md(value)}" for key, value in report.about)]
    return "\n".join(lines) + "\n"


def _md(text: str) -> str:
    """Text whose signs mean nothing to Markdown; an underscore inside a word means nothing anyway."""
    return re.sub(r"[\\`*<>|]|(?<!\w)_|_(?!\w)", r"\\\g<0>", text)


def _markdown_section(report: Report, section: Section) -> list[str]:
    lines = [f"## {section.title}", ""]
    if section.sentence != report.answer:  # which stands above
        lines += [_md(section.sentence), ""]
    for table in section.tables:
        lines += [f"| {' | '.join(map(_md, row))} |" for row in (table.columns,)]
        lines += [f"|{'---|' * len(table.columns)}"]
        lines += [f"| {' | '.join(map(_md, row))} |" for row in table.rows] + [""]
        lines += [_md(table.caption), ""] if table.caption else []
    for plot in section.plots:
        lines += [f"![{_md(plot.alt)}]({picture_file(report, plot.name)})", ""]
    for note in section.notes:
        lines += [f"*{_md(note)}*", ""]
    return lines


def html_page(report: Report, pictures: dict[str, bytes]) -> str:
    """One page that holds its pictures; pictures: PNG by the plot's name."""
    body = [
        f"<h1>{html.escape(report.name)}</h1>",
        f'<p class="question">{html.escape(report.question)}</p>',
        f'<p class="answer">{html.escape(report.answer)}</p>',
    ]
    if report.warnings:
        items = "".join(f"<li>{html.escape(warning)}</li>" for warning in report.warnings)
        body.append(f'<div class="warnings">Mind:<ul>{items}</ul></div>')
    for section in report.sections:
        body.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.sentence != report.answer:
            body.append(f"<p>{html.escape(section.sentence)}</p>")
        body += [_html_table(table) for table in section.tables]
        body += [_html_picture(plot, pictures[plot.name]) for plot in section.plots]
        body += [f'<p class="note">{html.escape(note)}</p>' for note in section.notes]
    facts = "".join(f"<dt>{html.escape(key)}</dt><dd>{_fact(key, value)}</dd>" for key, value in report.about)
    body.append(f"<h2>How this was made</h2><dl>{facts}</dl>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(report.name)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(body)
        + "\n</main>\n</body>\n</html>\n"
    )


def _fact(key: str, value: str) -> str:
    text = html.escape(value)
    return f"<code>{text}</code>" if key == "command" else text


def _html_table(table: Table) -> str:
    def cell(text: str) -> str:
        absent = ' class="missing"' if text in ABSENT else ""
        return f"<td{absent}>{html.escape(text)}</td>"

    head = "".join(f"<th>{html.escape(column)}</th>" for column in table.columns)
    rows = "\n".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in table.rows)
    caption = f'<p class="caption">{html.escape(table.caption)}</p>' if table.caption else ""
    return (
        f'<div class="scroll"><table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{rows}\n</tbody></table></div>{caption}'
    )


def _html_picture(plot: Plot, content: bytes) -> str:
    data = base64.b64encode(content).decode()
    return f'<img alt="{html.escape(plot.alt)}" src="data:image/png;base64,{data}">'
