"""`trm compare`: the curves of several runs in one picture, and what differs between them."""

from __future__ import annotations

import sys
from pathlib import Path

from trm_jax.cli.arguments import add_command, any_path, command, console
from trm_jax.errors import InputError


def add_parser(subparsers) -> None:
    parser = add_command(
        subparsers,
        "compare",
        "curves of several runs in one picture",
        "Overlay the curves of runs (loss, exact accuracy, supervision steps) and print their last figures with what\n"
        "differs between their settings. Runs may be unfinished.",
        "  trm compare runs/demo runs/demo_2\n  trm compare runs/exp02a_0* --output cycles.png\n",
        run,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", type=any_path, help="workdirs of runs")
    parser.add_argument("--output", type=any_path, default=Path("compare.png"), help="picture (default: compare.png)")


def run(args) -> int:
    from rich import box
    from rich.table import Table

    from trm_jax.configs.runs import open_run
    from trm_jax.evals.curves import curve_png
    from trm_jax.reports.overlay import compared, reportable
    from trm_jax.reports.runs import load_run

    if len(set(args.runs)) < len(args.runs):
        raise InputError("a run is named twice; name each once")
    runs = {str(path): load_run(open_run(path)) for path in args.runs}
    curve_png(args.output, {name: run.records for name, run in runs.items()})
    found, notes = compared(runs)
    table = Table(box=box.SIMPLE_HEAD, caption=found.caption)
    for column in found.columns:
        table.add_column(column, overflow="fold")
    for row in found.rows:
        table.add_row(*row)
    console().print(table)
    for note in notes:
        print(f"mind: {note}", file=sys.stderr)
    print(f"curves: {args.output}")
    if together := reportable(runs):
        unfinished = not all(runs[name].folder.done for name in together)
        print(f"next: {command('report', *together, *['--unfinished'] * unfinished)}")
    return 0
