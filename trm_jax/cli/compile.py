"""`trm compile`: what runs take on a TPU that is not here, asked of its compiler."""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path

from trm_jax.cli.arguments import add_command, add_set, changes, check_free, console, local_path
from trm_jax.errors import InputError

_WIDEST = 200  # of a table
# Of the report's columns those that a terminal has room for, with headings as narrow as their figures.
_COLUMNS = {
    "run": "",
    "training": "GB a chip:\ntraining",
    "evaluation": "evalua-\ntion",
    "reduced": "all-reduce\nMB a step",
    "others": "other\nMB",
    "in_loops": "from\nloops",
    "flops": "FLOPs\na step",
    "compute_ms": "compute\nms",
    "memory_ms": "memory\nms",
    "links_ms": "links\nms",
    "bound": "bound by",
    "train_hours": "training\nhours",
    "eval_hours": "evalua-\ntions",
    "fits": "fits",
}


def add_parser(subparsers) -> None:
    parser = add_command(
        subparsers,
        "compile",
        "compile runs for a TPU that is not here: memory, collectives, time at best",
        "Compile the training and the evaluation step of experiments for a TPU slice, with no TPU here: memory of a\n"
        "chip and whether it is enough, what the chips send one another, FLOPs, and how fast it could run at best.\n"
        "Needs libtpu (pip install 'jax[tpu]', Linux on x86-64). Results are kept: a group that was interrupted goes\n"
        "on, and trm plan shows compiled memory in place of its estimate. Exit code 1: something does not fit.",
        "  trm compile baseline --topology v4-64\n"
        "  trm compile exp06 --topology v4-64 --json exp06.json\n"
        "  trm compile baseline --topology v5e-16 --set train.accumulation=4\n"
        "  trm compile baseline 'exp*' 'contrib*' --topology v4-64 --output tpu_compile.md\n",
        run,
    )
    parser.add_argument("words", nargs="+", metavar="NAME|GROUP|PATTERN", help="what to compile (trm list shows names)")
    parser.add_argument(
        "--topology",
        default="v4-64",
        help="v4-8, v4-64, v5e-16 (or v5litepod-16), v5p-32, v6e-4 ... (default: %(default)s)",
    )
    parser.add_argument("--all-stages", action="store_true", help="of a curriculum every stage, not only the last")
    parser.add_argument("--json", type=local_path, metavar="FILE", help="write all figures there")
    parser.add_argument("--output", type=local_path, metavar="FILE.md", help="write the table there")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument(
        "--cache", type=local_path, metavar="DIR", help="where results are kept (default: ~/.cache/trm_jax/compiled)"
    )
    add_set(parser)


def run(args) -> int:
    # Nothing here runs on a device, and taking one would disturb what trains on it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from trm_jax.aot import report, store, topologies
    from trm_jax.aot.compile import check_installed
    from trm_jax.aot.figures import RunFigures, figures
    from trm_jax.aot.programs import abstract_mesh
    from trm_jax.configs import registry, resolve
    from trm_jax.sweep.plan import aliases, run_names

    topology = topologies.find(args.topology)
    for file in filter(None, (args.json, args.output)):
        check_free(file, args.force)
    names = registry.select(args.words)
    configs = {name: resolve.override(registry.get(name), changes(args)) for name in run_names(names)}
    for name, config in configs.items():
        try:
            abstract_mesh(resolve.freeze(config), topology.device.chips)
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
    check_installed()
    runs: list[RunFigures] = []
    for name, config in configs.items():
        progress = _Progress(name, len(runs) + 1, len(configs))
        root = args.cache or store.folder()
        runs.append(
            figures(
                name,
                config,
                topology,
                root,
                all_stages=args.all_stages,
                on_start=progress.start,
                on_done=progress.done,
            )  # fmt: skip
        )
    named = aliases(names)
    _print(runs, topology, named)
    if args.json:
        _write(args.json, json.dumps([report.record(run) for run in runs], indent=1) + "\n")
    if args.output:
        _write(args.output, report.markdown(runs, topology, named, _command(args)))
    print(f"next: trm plan {shlex.join(args.words)} --device {topology.name}")
    return 0 if all(run.fits for run in runs) else 1


class _Progress:
    """Lines on standard error: a compilation takes minutes."""

    def __init__(self, name: str, number: int, of: int):
        self._head = f"[{number}/{of}] {name}" if of > 1 else name

    def start(self, program) -> None:
        cycles = f", L {program.cycles[0]} H {program.cycles[1]}"
        print(f"{self._head}: {program.kind}{cycles} ...", end=" ", flush=True, file=sys.stderr)

    def done(self, program, compiled) -> None:
        if compiled.crash:
            said = "not compiled"
        else:
            said = "known" if compiled.cached else f"{compiled.compile_seconds:.0f} s"
        print(said, file=sys.stderr)


def _command(args) -> str:
    words = ["trm", "compile", *args.words, "--topology", args.topology, *["--all-stages"] * args.all_stages]
    settings = [text for group in args.set for text in group]
    return shlex.join(words + (["--set", *settings] if settings else []) + ["--output", str(args.output)])


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(f"wrote {path}")


def _print(runs, topology, named) -> None:
    from rich import box
    from rich.table import Table

    from trm_jax.aot import report

    print("\n".join(report.head(topology)))
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for key, header in _COLUMNS.items():
        table.add_column(header, justify="left" if key == "run" else "right", no_wrap=True)
    for figures in runs:
        row = report.cells(figures)
        table.add_row(*(row[key] for key in _COLUMNS))
    # A figure cut off would be a wrong one: a narrow window folds the lines instead.
    console(highlight=False, width=_WIDEST).print(table, soft_wrap=True)
    for line in (line for figures in runs for line in report.stage_lines(figures)):
        print(line)
    for name, others in named.items():
        print(f"{name} is also {', '.join(others)}")
    for figures in runs:
        if figures.problem:
            print(f"note: {figures.name}: {figures.problem}")
    for line in report.assumptions(runs):
        print(f"assumed: {line}")
