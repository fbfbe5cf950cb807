"""`trm list` and `trm show`: the experiments and their settings."""

from __future__ import annotations

import fnmatch
import sys
from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby

from trm_jax.cli.arguments import add_command, add_set, any_path, changes
from trm_jax.errors import InputError


def add_parser(subparsers) -> None:
    listing = add_command(
        subparsers,
        "list",
        "the experiments",
        "List the groups of experiments and how many of their runs are done. With a pattern, the experiments that\n"
        "match: how each differs from its base, steps and training FLOPs (analytic), how far your runs are.",
        "  trm list                              the groups\n"
        "  trm list exp02a                       its members\n"
        "  trm list 'mini_exp0*' --root /data/runs\n"
        "  trm list exp02a --names               one name a line, for scripts\n",
        run_list,
    )
    listing.add_argument("pattern", nargs="?", default="", help="shell pattern or part of a name; '*' for all")
    listing.add_argument("--root", type=any_path, default="runs", help="folder of the runs (default: runs)")
    listing.add_argument("--names", action="store_true", help="only the names of the runs, in the order of a sweep")
    add_set(listing)
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
    from trm_jax.configs.registry import catalogue, run_name
    from trm_jax.configs.resolve import nearest
    from trm_jax.configs.runs import find_runs

    if args.names:
        return _print_names(args)
    if args.set:
        raise InputError("--set changes nothing in this table; give --names as well, or use trm show NAME --set ...")
    known = catalogue()
    text = args.pattern or "*"
    pattern = text if any(c in text for c in "*?[") else f"*{text}*"
    names = [name for name in known if fnmatch.fnmatch(name, pattern)]
    if not names:
        raise InputError(f"no experiment matches {text!r}.{nearest(text, known)}")
    runs = defaultdict(list)
    for run in find_runs(args.root, lambda problem: print(f"note: left out: {problem}", file=sys.stderr)):
        if run.name in known:
            runs[run_name(run.name)].append(run)
    if not args.pattern:
        _print_groups(runs)
        return 0
    rows = []
    for group, members in groupby(names, _group_of):
        rows += [(f"\n{group.name}", f"\n{group.question}")] if group else [()]
        rows += [_row(known[name], runs[name]) for name in members]
    _print_table(("name", "differs", "steps", "FLOPs", "runs"), rows, width=sys.maxsize)
    print(f"\nnext: trm show {names[0]}   or: trm train {names[0]}")
    return 0


def _print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], width: int, fold: bool = True) -> None:
    """Print rows of text in as many columns as a terminal has, else `width`; the second one is folded or cut to fit."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        right = heading in ("steps", "FLOPs", "done")
        table.add_column(heading, justify="right" if right else "left", no_wrap=place != 1)
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=not fold) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else width, color_system=None)
    with console.capture() as shown:
        console.print(table)
    print("\n".join(line.rstrip() for line in shown.get().splitlines()))


def _group_of(name: str):
    """The group that declares an experiment; None for those beside the groups."""
    from trm_jax.configs.registry import groups

    return next((group for group in groups().values() if any(name == e.name for e in group.experiments)), None)


def _print_groups(runs) -> None:
    """A line for each group and each experiment beside them.

    Groups that are others with a prefix share a line, and so do the other ways to run members of groups.
    """
    from trm_jax.configs.registry import catalogue, groups, run_name

    lines: dict[str, tuple[str, set[str]]] = {}  # what each is about, and the experiments that run for it
    for experiment in catalogue().values():
        group = _group_of(experiment.name)
        name, about = (group.name, group.question) if group else (experiment.name, experiment.summary)
        prefix, _, rest = name.partition("_")
        if rest in groups() or rest in catalogue():
            name, about = f"{prefix}_*", f"each of these groups as {prefix}_NAME"
        elif not group and _group_of(experiment.base):
            name, about = "others", f"other ways to run members of groups: {name}, ..."
        lines.setdefault(name, (about, set()))[1].add(run_name(experiment.name))
    rows = []
    for name, (about, wanted) in lines.items():
        done = sum(any(run.done for run in _own(runs[one], one)) for one in wanted if runs[one])
        rows.append((name, about, f"{done} of {len(wanted)}"))
    _print_table(("group", "", "done"), rows, width=100, fold=False)
    print(f"next: trm list {next(iter(groups()))} (its members), trm show NAME, trm train demo")


def _print_names(args) -> int:
    from trm_jax.configs.registry import select
    from trm_jax.sweep.plan import plan

    for run in plan(select([args.pattern or "*"]), args.root, changes=changes(args)):
        if run.error:
            print(f"note: {run.name} is left out: {run.error}", file=sys.stderr)
        else:
            print(run.name)
    return 0


def _row(experiment, runs) -> tuple[str, ...]:
    from trm_jax.configs.registry import get
    from trm_jax.configs.resolve import freeze
    from trm_jax.planning.estimate import work

    if experiment.alias_of:
        return experiment.name, experiment.summary, "", "", f"= {experiment.alias_of}"
    found = work(freeze(get(experiment.name)))
    figures = f"{found.steps:,}", f"{found.train_flops:.1e}"
    return experiment.name, _differences(experiment), *figures, _status(runs, experiment.name)


def _differences(experiment) -> str:
    """The changes in short, or what the experiment is when it is laid over nothing."""
    from trm_jax.configs.defaults import defaults
    from trm_jax.configs.resolve import flatten

    if not experiment.base:
        return experiment.summary
    leaves = [key.rsplit(".", 1)[-1] for key in flatten(defaults())]
    said = []
    for key, value in experiment.changes.items():
        leaf = key.rsplit(".", 1)[-1]
        said.append(f"{leaf if leaves.count(leaf) == 1 else key}={f'{value:.4g}' if type(value) is float else value}")
    over = "" if experiment.base.endswith("baseline") else f"{experiment.base} with "
    return over + ", ".join(said)


def _own(runs, name: str) -> list:
    """Those of an experiment's runs that were started with its settings; the seed may be another."""
    from trm_jax.configs.registry import get
    from trm_jax.configs.resolve import changed_since

    page = get(name).to_dict()
    return [run for run in runs if not changed_since(run.config, page).keys() - {"seed"}]


def _status(runs, name: str) -> str:
    """How far the runs of one experiment are; those that were started with other settings are counted apart."""
    own = _own(runs, name)
    done = sum(run.done for run in own)
    said = [f"{done} done" if done > 1 else "done"] if done else []
    said += [f"step {run.step:,} of {run.total_steps:,}" for run in own if not run.done]
    if len(runs) > len(own):
        said.append(f"{len(runs) - len(own)} with other settings")
    return ", ".join(said) or "-"


def run_show(args) -> int:
    from trm_jax.configs import registry, resolve
    from trm_jax.planning.estimate import work

    config = resolve.override(registry.get(args.name), changes(args))
    run = resolve.freeze(config)
    # Where only the data tell how many puzzles there are, nobody knows yet what the run computes.
    found = work(run) if run.task.info(run.data).groups and run.task.eval_size(run.data) else None
    if args.diff:
        rows = resolve.diff(config, registry.get(args.diff))
        for key, (old, new) in rows.items():
            print(f"{key} = {new!r}   ({args.diff}: {old!r})")
        if not rows:
            print(f"{args.name} and {args.diff} have the same settings")
    else:
        for key, value in resolve.flatten(config).items():
            print(f"{key} = {value!r}")
    experiment = registry.catalogue()[args.name]
    if found and not args.diff:
        print(f"# {found.parameters:,} trained parameters and a puzzle table of {found.puzzle_table:,}")
        print(f"# {found.steps:,} steps, {found.train_flops:.1e} FLOPs of training (analytic)")
    if group := _group_of(experiment.name):
        print(f"# {group.name}: {group.question}")
    if experiment.expects:
        expected = ", ".join(f"{key} {value:g}" for key, value in experiment.expects.items())
        print(f"# the users' guide expects (nobody measured it): {expected}")
    if experiment.alias_of:
        print(f"# another name of {experiment.alias_of}, whose run stands for both")
    warnings = run.warnings(found.steps) if found else []
    for warning in warnings:
        print(f"# note: {warning}")
    if warnings and (others := registry.alternatives(args.name)):
        print(f"# the same with more steps after the warm-up: {', '.join(others)}")
    if not args.diff:
        print(f"# next: trm train {args.name}")
    return 0
