"""`trm list` and `trm show`: the experiments and their settings."""

from __future__ import annotations

import fnmatch
import shutil
import sys
import textwrap
from collections import defaultdict
from itertools import groupby

from trm_jax.cli.arguments import add_command, add_set, any_path, changes
from trm_jax.errors import InputError

Row = tuple[str, str, str, str, str]
HEADERS: Row = ("name", "differs", "steps", "FLOPs", "runs")
WIDTH = 100  # of the groups, where no terminal has another


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
    listing.add_argument(
        "--names",
        action="store_true",
        help="only the names of the runs, in the order of a sweep: no aliases, and none that --set makes impossible",
    )
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
    from trm_jax.configs.registry import catalogue, groups, run_name
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
    group_of = {e.name: group for group in groups().values() for e in group.experiments}
    sections = []
    for group, members in groupby(names, group_of.get):
        rows = [_row(known[name], runs[name]) for name in members]
        sections.append((f"{group.name}: {group.question}" if group else "", rows))
    _print_sections(sections)
    print(f"\nnext: trm show {names[0]}   or: trm train {names[0]}")
    return 0


def _print_groups(runs) -> None:
    """A line for each group and each experiment beside them.

    Groups that are others with a prefix share a line, and so do the other ways to run members of groups.
    """
    from trm_jax.configs.registry import catalogue, groups, run_name

    known, grouped = catalogue(), groups()
    # Line -> (what it is about, the experiments that run for it).
    lines: dict[str, tuple[str, set[str]]] = {}
    for group in grouped.values():
        prefix, _, rest = group.name.partition("_")
        name, about = (f"{prefix}_*", f"each of these groups as {prefix}_NAME") if rest in grouped else (group.name, "")
        lines.setdefault(name, (about or group.question, set()))[1].update(e.name for e in group.experiments)
    inside = {e.name for group in grouped.values() for e in group.experiments}
    for experiment in known.values():
        prefix, _, rest = experiment.name.partition("_")
        if experiment.name in inside or rest in known and f"{prefix}_*" in lines:
            continue
        about = f"other ways to run members of groups: {experiment.name}, ..."
        name, about = ("others", about) if experiment.base in inside else (experiment.name, experiment.summary)
        lines.setdefault(name, (about, set()))[1].add(experiment.name)
    rows = []
    for name, (about, members) in lines.items():
        wanted = {run_name(member) for member in members}
        done = sum(any(run.done for run in _own(runs[one], one)) for one in wanted if runs[one])
        rows.append((name, about, f"{done} of {len(wanted)}"))
    widths = [max(len(row[i]) for row in (*rows, ("group", "", "done"))) for i in (0, 2)]
    room = (shutil.get_terminal_size().columns if sys.stdout.isatty() else WIDTH) - sum(widths) - 4
    for name, about, done in (("group", "", "done"), *rows):
        print(f"{name:{widths[0]}}  {textwrap.shorten(about, room, placeholder=' ...'):{room}}  {done:>{widths[1]}}")
    print(f"next: trm list {rows[0][0]} (its members), trm show NAME, trm train demo")


def _print_names(args) -> int:
    from trm_jax.configs.registry import select
    from trm_jax.sweep.plan import plan

    for run in plan(select([args.pattern or "*"]), args.root, changes=changes(args)):
        if run.problem:
            print(f"note: {run.name} is left out: {run.problem}", file=sys.stderr)
        else:
            print(run.name)
    return 0


def _row(experiment, runs) -> Row:
    from trm_jax.configs.registry import get
    from trm_jax.configs.resolve import freeze
    from trm_jax.planning.estimate import work

    if experiment.alias_of:
        return experiment.name, experiment.summary, "", "", f"= {experiment.alias_of}"
    found = work(freeze(get(experiment.name)))
    return (
        experiment.name,
        _differences(experiment),
        f"{found.steps:,}",
        f"{found.train_flops:.1e}",
        _status(runs, experiment.name),
    )


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
    unfinished = [run for run in own if not run.done]
    said = [f"{done} done" if done > 1 else "done"] if done else []
    if len(unfinished) == 1:
        said.append(f"step {unfinished[0].step:,} of {unfinished[0].total_steps:,}")
    elif unfinished:
        said.append(f"{len(unfinished)} unfinished")
    if len(runs) > len(own):
        said.append(f"{len(runs) - len(own)} with other settings")
    return ", ".join(said) or "-"


def _print_sections(sections: list[tuple[str, list[Row]]]) -> None:
    """One table, each section under its title; a terminal's width folds what differs, a pipe or file does not."""
    table = [HEADERS, *(row for _, rows in sections for row in rows)]
    widths = [max(len(row[i]) for row in table) for i in range(len(HEADERS))]
    columns = shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize
    widths[1] = min(widths[1], max(16, columns - (sum(widths) - widths[1]) - 2 * (len(HEADERS) - 1)))

    def show(row: Row) -> None:
        first, *more = textwrap.wrap(row[1], widths[1]) or [""]
        name, _, steps, flops, status = (f"{cell:{'>' * (i in (2, 3))}{widths[i]}}" for i, cell in enumerate(row))
        print(f"{name}  {first:{widths[1]}}  {steps}  {flops}  {status}".rstrip())
        for rest in more:
            print(f"{'':{widths[0]}}  {rest}")

    show(HEADERS)
    for title, rows in sections:
        print()
        if title:
            print("\n".join(textwrap.wrap(title, min(columns, 120))))
        for row in rows:
            show(row)


def run_show(args) -> int:
    from trm_jax.configs import registry, resolve

    config = resolve.override(registry.get(args.name), changes(args))
    run = resolve.freeze(config)
    if args.diff:
        rows = resolve.diff(config, registry.get(args.diff))
        for key, (old, new) in rows.items():
            print(f"{key} = {new!r}   ({args.diff}: {old!r})")
        if not rows:
            print(f"{args.name} and {args.diff} have the same settings")
        _print_remarks(args.name, run)
        return 0
    for key, value in resolve.flatten(config).items():
        print(f"{key} = {value!r}")
    if found := _work(run):
        print(f"# {found.parameters:,} trained parameters and a puzzle table of {found.puzzle_table:,}")
        print(f"# {found.steps:,} steps, {found.train_flops:.1e} FLOPs of training (analytic)")
    _print_remarks(args.name, run)
    print(f"# next: trm train {args.name}")
    return 0


def _work(run):
    """What a run computes; None where only the data tell how many puzzles there are."""
    from trm_jax.planning.estimate import work

    return work(run) if run.task.info(run.data).groups and run.task.eval_size(run.data) else None


def _print_remarks(name: str, run) -> None:
    """What the catalogue knows of an experiment besides its settings; `run` is its frozen config."""
    from trm_jax.configs import registry

    experiment = registry.catalogue()[name]
    for group in registry.groups().values():
        if experiment in group.experiments:
            print(f"# {group.name}: {group.question}")
    if experiment.expects:
        expected = ", ".join(f"{key} {value:g}" for key, value in experiment.expects.items())
        print(f"# the users' guide expects (nobody measured it): {expected}")
    if experiment.alias_of:
        print(f"# another name of {experiment.alias_of}, whose run stands for both")
    found = _work(run)
    warnings = run.warnings(found.steps) if found else []
    for warning in warnings:
        print(f"# note: {warning}")
    if warnings and registry.alternatives(name):
        print(f"# the same with more steps after the warm-up: {', '.join(registry.alternatives(name))}")
