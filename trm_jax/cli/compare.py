"""`trm compare`: the curves of several runs in one picture, and what differs between them."""

import sys
from pathlib import Path

from trm_jax.cli.arguments import add_command, any_path, command, console
from trm_jax.errors import InputError


def add_parser(subparsers) -> None:
    parser = add_command(
        subparsers,
        "compare",
        "curves of several runs in one picture",
        "Overlay the curves of runs (loss, headline score, supervision steps) and print their last figures with what\n"
        "differs between their settings. Runs may be unfinished. Runs of different families or sizes are also held\n"
        "against the first one at equal training compute, time and size; those with the same settings but the seed\n"
        "are tested together.",
        "  trm compare runs/demo runs/demo_2\n  trm compare runs/exp02a_0* --output cycles.png\n"
        "  trm compare runs/rivals_*\n",
        run,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", type=any_path, help="workdirs of runs")
    parser.add_argument("--output", type=any_path, default=Path("compare.png"), help="picture (default: compare.png)")


def run(args) -> int:
    from trm_jax.configs.resolve import FREE_TO_CHANGE
    from trm_jax.configs.runs import open_run
    from trm_jax.reports.content import Table
    from trm_jax.reports.curves import curve_png
    from trm_jax.reports.equal import at_equal_cost
    from trm_jax.reports.gather import selected, setting_notes
    from trm_jax.reports.units import SECONDS, plain, scale_for, setting_name

    if len(set(args.runs)) < len(args.runs):
        raise InputError("a run is named twice; name each once")
    runs = {str(path): open_run(path) for path in args.runs}
    headlines = list(dict.fromkeys(run.headline for run in runs.values()))
    curve_png(args.output, {name: run.records for name, run in runs.items()}, headlines)
    keys = dict.fromkeys(key for run in runs.values() for key in run.settings if not key.startswith(FREE_TO_CHANGE))
    differing = [key for key in keys if len({repr(run.settings.get(key)) for run in runs.values()}) > 1]
    seconds = {name: run.records[-1].get("clock", {}).get("elapsed_s") for name, run in runs.items()}
    clock = scale_for(SECONDS, filter(None, seconds.values()))
    score = " or ".join(headlines).replace("_", " ")
    rows = [
        (
            name,
            f"{run.final[run.headline]:.4f}" if run.evaluations else "",
            f"{run.training[-1]['loss']:.4f}" if run.training else "",
            f"{run.step:,}" + f" of {run.total_steps or 'unknown'}" * (not run.done),
            clock.number(seconds[name]) if seconds[name] else "",
            ", ".join(f"{setting_name(key)} {plain(run.settings.get(key))}" for key in differing),
        )
        for name, run in runs.items()
    ]
    columns = ("run", score, "loss", "step", f"time ({clock.label})", "what differs")
    _print(Table(columns, rows, f"{score}: of the last evaluation; loss: of the last log line"))
    scored = {name: run.scored_on for name, run in runs.items() if run.evaluations}
    done = [name for name in scored if runs[name].done]
    notes = setting_notes(runs.values(), differing)
    sections = []
    if len(set(scored.values())) > 1:
        notes.append("these runs were scored on different examples, so their scores do not compare")
    elif scored:
        left_out: list[str] = []
        sections = at_equal_cost(selected([runs[name] for name in scored], left_out))
        notes += left_out * bool(sections)  # nothing is left out of the table above
    for part in sections:
        print(f"{part.title}. {part.sentence}")
        if part.table:
            _print(part.table)
    notes += dict.fromkeys(note for part in sections for note in part.notes)
    for note in notes:
        print(f"mind: {note}", file=sys.stderr)
    print(f"curves: {args.output}")
    if together := [name for name in done if scored[name] == scored[done[0]]]:
        print(f"next: {command('report', *together)}")
    return 0


def _print(table) -> None:
    """A report's table on the terminal."""
    from rich import box
    from rich.table import Table

    shown = Table(*table.columns, box=box.SIMPLE_HEAD, caption=table.caption)
    for column in shown.columns:
        column.overflow = "fold"
    for row in table.rows:
        shown.add_row(*row)
    console().print(shown)
