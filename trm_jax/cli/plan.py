"""`trm plan`: steps, FLOPs, memory, time and price of runs before they start.

FLOPs are analytic, the peak a data sheet's, activations an estimate; nothing here was measured. An experiment that is
another's name is counted once.

examples:
  trm plan baseline
  trm plan exp02a --device h100 --seeds 3
  trm plan baseline 'exp*' 'contrib*' --device a100 --utilisation 0.3 --price 2.50
  trm plan baseline --device h200 --set train.accumulation=2
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from trm_jax.cli import arguments as cli

if TYPE_CHECKING:
    from trm_jax.planning import Device, Plan

COSTLY = 0.5  # of the training's FLOPs
_SHOWN_NAMES = 4
_WIDEST = 200  # of a table
_COLUMNS = ("", "steps", "parameters", "training\nFLOPs", "evalua-\ntions", "their\nFLOPs", "GB a chip,\nestimated",
            "training", "evalua-\ntions", "dollars")  # fmt: skip
# What can be given in place of the table's: {option: (field of Device, unit, of what)}.
_FIGURES = {
    "peak": ("peak_tflops", "TFLOPS", "of a chip"),
    "memory": ("memory_gb", "GB", "of a chip"),
    "price": ("dollars_per_hour", "DOLLARS_PER_HOUR", "of the device"),
}


def add_parser(subparsers) -> None:
    parser = cli.add_documented(subparsers, "plan", run, __doc__)
    cli.add_names(parser, "what to plan")
    parser.add_argument("--device", default="v4-64", help="h100, a100, 4090, v4-64, v5e-16 ... (default: %(default)s)")
    parser.add_argument("--utilisation", type=amount, default=0.4, metavar="SHARE", help="of the peak (default: 0.4)")
    for option, (_, unit, what) in _FIGURES.items():
        parser.add_argument(f"--{option}", type=amount, metavar=unit, help=f"{what}, not the table's")
    parser.add_argument("--seeds", type=cli.positive, default=1, metavar="N", help="how often each is run (default: 1)")
    cli.add_set(parser)


def amount(text: str) -> float:
    """An argument that is a positive number."""
    if not 1e-6 <= float(text) <= 1e9:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number from 1e-06 to 1e+09")
    return float(text)


def run(args) -> int:
    # A plan needs no device, and taking one would disturb what trains on it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from trm_jax.configs import registry, resolve
    from trm_jax.planning import find, plan
    from trm_jax.sweep.plan import aliases, run_names

    given = {option: value for option in _FIGURES if (value := getattr(args, option)) is not None}
    device = dataclasses.replace(find(args.device), **{_FIGURES[option][0]: given[option] for option in given})
    names = registry.select(args.words)
    plans: dict[str, Plan] = {}
    for name in run_names(names):
        config = resolve.override(registry.get(name), cli.changes(args))
        plans[name] = plan(resolve.freeze(config), device, utilisation=args.utilisation)
    _print_device(device, args.utilisation, given)
    rows = [_row(name, [one]) for name, one in plans.items()]
    if several := len(plans) * args.seeds > 1:
        label = f"{len(plans)} run{'s' * (len(plans) > 1)}" + f" x {args.seeds} seeds" * (args.seeds > 1)
        rows += [(), _row(label, [*plans.values()], args.seeds)]
    print_table(_COLUMNS, rows)
    said: dict[str, list[str]] = {}
    for name, others in aliases(names).items():
        print(f"{name}, counted once, is also {', '.join(others)}")
    for name, warning in ((name, warning) for name, one in plans.items() for warning in one.warnings):
        said.setdefault(warning, []).append(name)
    for warning, where in said.items():
        print(f"note: {listed(where)}: {warning}")
    share = sum(one.work.eval_flops for one in plans.values()) / sum(one.work.train_flops for one in plans.values())
    if share >= COSTLY:
        print(f"note: evaluations cost {share:.0%} of the training's FLOPs; a larger eval.every_epochs costs less")
    following = ("sweep", *args.words) if several else ("train", *plans)
    print(f"next: {cli.command(*following, *cli.set_again(cli.settings(args)))}")
    return 0


def _print_device(device: Device, utilisation: float, given: Mapping[str, float]) -> None:
    from trm_jax.planning.hardware import SOURCE

    several = f", {device.chips} chips on {device.hosts} host{'s' * (device.hosts > 1)}" if device.chips > 1 else ""
    chip = f"{device.memory_gb:g} GB, {device.bandwidth_tb_s:g} TB/s, {device.peak_tflops:g} TFLOP/s in bfloat16"
    but = f", but as given: {', '.join(given)}" if given else ""
    print(f"{device.title}{several}; a chip: {chip}, of which {utilisation:.0%}; {SOURCE}{but}")
    price, source = device.dollars_per_hour, "as given" if "price" in given else device.price_source
    print(f"{price:g} dollars an hour: {source}" if price else "no price in the table; give one with --price")


def _row(label: str, plans: Sequence[Plan], times: int = 1) -> list[str]:
    """One line of the table: a run, or the sum of several, each run so many times."""
    works, prices = [one.work for one in plans], [one.dollars for one in plans]
    return [
        label,
        f"{times * sum(work.steps for work in works):,}",
        f"{works[0].parameters:,}" if len(plans) == times == 1 else "",
        f"{times * sum(work.train_flops for work in works):.2e}",
        f"{times * sum(work.evaluations for work in works)}",
        f"{times * sum(work.eval_flops for work in works):.2e}",
        f"{max(one.memory_bytes for one in plans) / 1e9:.1f}",
        _duration(times * sum(one.train_hours for one in plans)),
        _duration(times * sum(one.eval_hours for one in plans)),
        "-" if None in prices else f"{times * sum(prices):,.2f}",
    ]


def print_table(headings: Sequence[str], rows: Sequence[Sequence[str]], *, words=(0,), width=_WIDEST, fold="") -> None:
    """Print rows of text below their headings; words: the columns that hold no figures.

    A figure cut off would be a wrong one, so nothing gives way where `width` (None: the window's) is too small, or only
    column 1: folded ("fold") or cut ("ellipsis").
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, padding=(0, 2, 0, 0))
    for place, heading in enumerate(headings):
        table.add_column(heading, justify="left" if place in words else "right", no_wrap=place != 1 or not fold)
    for row in rows:
        table.add_row(*(Text(cell, no_wrap=fold == "ellipsis") for cell in row))
    console = Console(width=width, color_system=None)
    with console.capture() as shown:
        console.print(table)
    print("\n".join(line.rstrip() for line in shown.get().splitlines()))


def listed(names: Sequence[str]) -> str:
    """'a, b, c, d and 3 more'."""
    rest = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {rest} more" if rest > 0 else "")


def _duration(hours: float) -> str:
    if hours < 1 / 60:
        return f"{hours * 3600:.2g} s"
    if hours < 1:
        return f"{hours * 60:.1f} min"
    return f"{hours:.1f} h" if hours < 100 else f"{hours / 24:.1f} days"
