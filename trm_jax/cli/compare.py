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
        "differs between their settings. Runs may be unfinished.",
        "  trm compare runs/demo runs/demo_2\n  trm compare runs/exp02a_0* --output cycles.png\n",
        run,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", type=any_path, help="workdirs of runs")
    parser.add_argument("--output", type=any_path, default=Path("compare.png"), help="picture (default: compare.png)")


def run(args) -> int:
    from rich import box
    from rich.table import Table

    from trm_jax.configs.resolve import FREE_TO_CHANGE
    from trm_jax.configs.runs import open_run
    from trm_jax.reports.curves import curve_png
    from trm_jax.reports.gather import setting_notes
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
    table = Table(box=box.SIMPLE_HEAD, caption=f"{score}: of the last evaluation; loss: of the last log line")
    for column in ("run", score, "loss", "step", f"time ({clock.label})", "what differs"):
        table.add_column(column, overflow="fold")
    for name, run in runs.items():
        table.add_row(
            name,
            f"{run.final[run.headline]:.4f}" if run.evaluations else "",
            f"{run.training[-1]['loss']:.4f}" if run.training else "",
            f"{run.step:,}" + f" of {run.total_steps or 'unknown'}" * (not run.done),
            clock.number(seconds[name]) if seconds[name] else "",
            ", ".join(f"{setting_name(key)} {plain(run.settings.get(key))}" for key in differing),
        )
    console().print(table)
    scored = {name: run.scored_on for name, run in runs.items() if run.evaluations}
    done = [name for name in scored if runs[name].done]
    notes = setting_notes(runs.values(), differing)
    if len(set(scored.values())) > 1:
        notes.append("these runs were scored on different examples, so their scores do not compare")
    for note in notes:
        print(f"mind: {note}", file=sys.stderr)
    print(f"curves: {args.output}")
    if together := [name for name in done if scored[name] == scored[done[0]]]:
        print(f"next: {command('report', *together)}")
    return 0
