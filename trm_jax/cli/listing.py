"""`trm list` and `trm show`: the experiments and their settings."""

from __future__ import annotations

import fnmatch

from trm_jax.cli.arguments import add_command, add_set, changes
from trm_jax.errors import InputError


def add_parser(subparsers) -> None:
    listing = add_command(
        subparsers,
        "list",
        "the experiments",
        "List the experiments: name and what it is.",
        "  trm list\n  trm list 'baseline*'\n",
        run_list,
    )
    listing.add_argument("pattern", nargs="?", default="*", help="shell pattern or part of a name")
    show = add_command(
        subparsers,
        "show",
        "the settings of one experiment",
        "Show every setting of an experiment, or only those that differ from another.",
        "  trm show baseline\n  trm show baseline_768 --diff baseline\n"
        "  trm show demo --set optim.lr=1e-3 --diff demo\n",
        run_show,
    )
    show.add_argument("name")
    show.add_argument("--diff", metavar="OTHER", help="only what differs from experiment OTHER")
    add_set(show)


def run_list(args) -> int:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    from trm_jax.configs.registry import catalogue
    from trm_jax.configs.resolve import nearest

    known = catalogue()
    pattern = args.pattern if any(c in args.pattern for c in "*?[") else f"*{args.pattern}*"
    names = [name for name in known if fnmatch.fnmatch(name, pattern)]
    if not names:
        raise InputError(f"no experiment matches {args.pattern!r}.{nearest(args.pattern, known)}")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("name", no_wrap=True)
    table.add_column("what it is", overflow="fold")
    for name in names:
        table.add_row(name, known[name].summary)
    Console().print(table)
    print(f"next: trm show {names[0]}   or: trm train {names[0]}")
    return 0


def run_show(args) -> int:
    from trm_jax.configs import registry, resolve
    from trm_jax.models import params, trm

    config = resolve.override(registry.get(args.name), changes(args))
    run = resolve.freeze(config)
    if args.diff:
        rows = resolve.diff(config, registry.get(args.diff))
        for key, (old, new) in rows.items():
            print(f"{key} = {new!r}   ({args.diff}: {old!r})")
        if not rows:
            print(f"{args.name} and {args.diff} have the same settings")
        return 0
    for key, value in resolve.flatten(config).items():
        print(f"{key} = {value!r}")
    specs = trm.param_specs(run.model)
    print(
        f"# {params.count(specs['weights']):,} trained parameters and a puzzle table of "
        f"{params.count(specs['puzzle_emb']):,}"
    )
    print(f"# next: trm train {args.name}")
    return 0
