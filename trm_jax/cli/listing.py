"""`trm list` and `trm show`: the experiments and their settings."""

from __future__ import annotations

import fnmatch
import sys
from collections import defaultdict
from itertools import groupby

from trm_jax.cli.arguments import add_documented, add_set, any_path, changes
from trm_jax.cli.plan import print_table
from trm_jax.errors import InputError


def add_parser(subparsers) -> None:
    listing = add_documented(subparsers, "list", run_list, run_list.__doc__)
    listing.add_argument("pattern", nargs="?", default="", help="shell pattern or part of a name; '*' for all")
    listing.add_argument("--root", type=any_path, default="runs", help="folder of the runs (default: runs)")
    listing.add_argument("--names", action="store_true", help="only the names of the runs, in the order of a sweep")
    add_set(listing)
    show = add_documented(subparsers, "show", run_show, run_show.__doc__)
    show.add_argument("name")
    show.add_argument("--diff", metavar="OTHER", help="only what differs from experiment OTHER")
    add_set(show)


def run_list(args) -> int:
    """`trm list`: the experiments.

    Lists the groups and how many of their runs are done. With a pattern, the experiments that match: how each differs
    from its base, steps and training FLOPs (analytic), how far your runs are.

    examples:
      trm list                              the groups
      trm list exp02a                       its members
      trm list 'mini_exp0*' --root /data/runs
      trm list exp02a --names               one name a line, for scripts
    """
    from trm_jax.configs import registry, resolve
    from trm_jax.configs.runs import find_runs
    from trm_jax.sweep.plan import plan

    if args.names:
        for run in plan(registry.select([args.pattern or "*"]), args.root, changes=changes(args)):
            if run.error:
                print(f"note: {run.name} is left out: {run.error}", file=sys.stderr)
                continue
            print(run.name)
            cfg = resolve.freeze(run.config)
            for needed in getattr(cfg.task, "files", lambda data: ())(cfg.data):
                print(f"note: {run.name} {needed}", file=sys.stderr)
        return 0
    if args.set:
        raise InputError("--set changes nothing in this table; give --names as well, or use trm show NAME --set ...")
    known, text = registry.catalogue(), args.pattern or "*"
    names = fnmatch.filter(known, text if any(c in text for c in "*?[") else f"*{text}*")
    if not names and text in registry.groups():  # whose members are called otherwise
        names = [experiment.name for experiment in registry.groups()[text].experiments]
    if not names:
        raise InputError(f"no experiment matches {text!r}.{resolve.nearest(text, known)}")
    runs = defaultdict(list)
    for run in find_runs(args.root, lambda problem: print(f"note: left out: {problem}", file=sys.stderr)):
        if run.name in known:
            runs[registry.run_name(run.name)].append(run)
    if not args.pattern:
        _print_groups(runs)
        return 0
    rows = []
    for group, members in groupby(names, _group_of):
        rows += [(f"\n{group.name}", f"\n{group.question}")] if group else [()]
        rows += [_row(known[name], runs[name]) for name in members]
    headings, width = ("name", "differs", "steps", "FLOPs", "runs"), None if sys.stdout.isatty() else sys.maxsize
    print_table(headings, rows, words=(0, 1, 4), width=width, fold="fold")
    print(f"\nnext: trm show {names[0]}   or: trm train {names[0]}")
    return 0


def _group_of(name: str):
    """The group that declares an experiment; None for those beside the groups."""
    from trm_jax.configs import registry

    return next((group for group in registry.groups().values() if name in {e.name for e in group.experiments}), None)


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
    done = {name for name in catalogue() if runs[name] and any(run.done for run in _own(runs[name], name))}
    rows = [(name, about, f"{len(done & wanted)} of {len(wanted)}") for name, (about, wanted) in lines.items()]
    print_table(("group", "", "done"), rows, words=(0, 1), width=None if sys.stdout.isatty() else 100, fold="ellipsis")
    print(f"next: trm list {next(iter(groups()))} (its members), trm show NAME, trm train demo")


def _row(experiment, runs) -> tuple[str, ...]:
    from trm_jax.configs import registry, resolve
    from trm_jax.planning.estimate import work

    if experiment.alias_of:
        return experiment.name, experiment.summary, "", "", f"= {experiment.alias_of}"
    found = work(resolve.freeze(registry.get(experiment.name)))
    figures = f"{found.steps:,}", f"{found.train_flops:.1e}"
    return experiment.name, _differences(experiment), *figures, _status(runs, experiment.name)


def _differences(experiment) -> str:
    """The changes in short, or what the experiment is when it is laid over nothing."""
    from trm_jax.configs import defaults, resolve

    if not experiment.base:
        return experiment.summary
    leaves = [key.rsplit(".", 1)[-1] for key in resolve.flatten(defaults.defaults())]
    said = []
    for key, value in experiment.changes.items():
        leaf, shown = key.rsplit(".", 1)[-1], f"{value:.4g}" if isinstance(value, float) else value
        said.append(f"{leaf if leaves.count(leaf) == 1 else key}={shown}")
    over = "" if experiment.base.endswith("baseline") else f"{experiment.base} with "
    return over + ", ".join(said)


def _own(runs, name: str) -> list:
    """Those of an experiment's runs that were started with its settings; the seed may be another."""
    from trm_jax.configs import registry, resolve

    page = registry.get(name).to_dict()
    return [run for run in runs if not resolve.changed_since(run.config, page).keys() - {"seed"}]


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
    """`trm show`: the settings of one experiment, or only those that differ from another.

    examples:
      trm show baseline
      trm show baseline_768 --diff baseline
      trm show demo --set optim.lr=1e-3 --diff demo
    """
    from trm_jax.configs import registry, resolve
    from trm_jax.planning.estimate import work

    config = resolve.override(registry.get(args.name), changes(args))
    run = resolve.freeze(config)
    # Where only the data tell how many puzzles there are, nobody knows yet what the run computes.
    found = work(run) if run.task.info(run.data).groups and run.task.eval_size(run.data) else None
    if args.diff:
        rows = resolve.diff(config, registry.get(args.diff)).items()
        lines = [f"{key} = {new!r}   ({args.diff}: {old!r})" for key, (old, new) in rows]
        print("\n".join(lines) or f"{args.name} and {args.diff} have the same settings")
    else:
        for key, value in resolve.flatten(config).items():
            print(f"{key} = {value!r}")
    if found and not args.diff:
        print(f"# {found.parameters:,} trained parameters and a puzzle table of {found.puzzle_table:,}")
        print(f"# {found.steps:,} steps, {found.train_flops:.1e} FLOPs of training (analytic)")
    experiment = registry.catalogue()[args.name]
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
