"""`trm plan`: what runs will take, before they are started."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from trm_jax.cli.arguments import add_command, add_set, changes, command, console, positive, set_again, settings
from trm_jax.errors import InputError

if TYPE_CHECKING:
    from trm_jax.planning import Device, Plan, Verdict

GUIDE_DEVICE = "v4-64"
COMPILED_MARK = "*"  # of figures that are no estimates
_SHOWN_NAMES = 4
_LEAST, _MOST = 1e-6, 1e9  # of what is given in place of the table's figures
_WIDEST = 200  # of a table
_COLUMNS = ("steps", "parameters", "training\nFLOPs", "evalua-\ntions", "their\nFLOPs", "GB a chip,\nestimated",
            "training", "evalua-\ntions", "dollars")  # fmt: skip


def add_parser(subparsers) -> None:
    parser = add_command(
        subparsers,
        "plan",
        "steps, FLOPs, memory, time and price of runs before they start",
        "Count what experiments will take on a device: steps, FLOPs of training and of evaluations, memory of a chip,\n"
        "time at a share of the peak, dollars. FLOPs are analytic, the peak a data sheet's, activations an estimate;\n"
        "nothing here was measured. An experiment that is another's name is counted once.",
        "  trm plan baseline\n"
        "  trm plan exp02a --device h100 --seeds 3\n"
        "  trm plan baseline 'exp*' 'contrib*' --device a100 --utilisation 0.3 --price 2.50\n"
        "  trm plan baseline --device h200 --set train.accumulation=2\n",
        run,
    )
    parser.add_argument("words", nargs="+", metavar="NAME|GROUP|PATTERN", help="what to plan (trm list shows names)")
    parser.add_argument(
        "--device",
        default=GUIDE_DEVICE,
        help="h200, h100, a100, 2xa100, l40s, a40, 5090, 4090, 3090, a10 or a TPU slice: v4-64, v5e-16, v5p-8, "
        "v6e-4 ... (default: %(default)s)",
    )
    parser.add_argument(
        "--utilisation", type=share, default=0.4, metavar="SHARE", help="of the peak (default: %(default)g)"
    )
    parser.add_argument("--price", type=amount, metavar="DOLLARS_PER_HOUR", help="of the device, not the table's")
    parser.add_argument("--peak", type=amount, metavar="TFLOPS", help="of a chip, not the table's")
    parser.add_argument("--bandwidth", type=amount, metavar="TB/S", help="of a chip's memory, not the table's")
    parser.add_argument("--memory", type=amount, metavar="GB", help="of a chip, not the table's")
    parser.add_argument("--seeds", type=positive, default=1, metavar="N", help="how often each is run (default: 1)")
    add_set(parser)


def share(text: str) -> float:
    value = float(text)
    if not _LEAST <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not a share of the peak, from {_LEAST:g} to 1")
    return value


def amount(text: str) -> float:
    value = float(text)
    if not _LEAST <= value <= _MOST:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number from {_LEAST:g} to {_MOST:g}")
    return value


def run(args) -> int:
    # A plan needs no device, and taking one would disturb what trains on it.
    os.environ["JAX_PLATFORMS"] = "cpu"
    from trm_jax.configs import registry, resolve
    from trm_jax.planning import hardware, plan
    from trm_jax.sweep.plan import aliases, run_names

    device = hardware.override(
        hardware.find(args.device),
        dollars_per_hour=args.price,
        peak_tflops=args.peak,
        bandwidth_tb_s=args.bandwidth,
        memory_gb=args.memory,
    )
    names = registry.select(args.words)
    plans: dict[str, Plan] = {}
    for name in run_names(names):
        config = resolve.override(registry.get(name), changes(args))
        cfg = resolve.freeze(config)
        # What was compiled, was compiled for the table's memory.
        verdict = compiled(name, config, args.device) if args.memory is None else None
        plans[name] = plan(cfg, device, utilisation=args.utilisation, verdict=verdict)
    _print_device(device, args)
    _print_table(plans, args.seeds)
    for name, others in aliases(names).items():
        print(f"{name}, counted once, is also {', '.join(others)}")
    for note in _notes(names, plans, device):
        print(f"note: {note}")
    look_first = ["--dry-run"] * (len(plans) > 1)
    print(f"next: {command('sweep', *args.words, *set_again(settings(args)), *look_first)}")
    return 0


def compiled(name: str, config, device: str) -> Verdict | None:
    """What `trm compile` found of a run for the device, if it was asked."""
    from trm_jax.aot import store, topologies
    from trm_jax.aot.figures import known_figures
    from trm_jax.planning import Verdict

    try:
        found = known_figures(name, config, topologies.find(device), store.folder())
    except InputError:  # no TPU, or not one that can be compiled for; what is wrong with the settings, the plan says
        return None
    return Verdict(found.needed_bytes, found.problem) if found else None


def _gigabytes(plan: Plan) -> str:
    return f"{plan.memory_bytes / 1e9:.1f}" + COMPILED_MARK * (plan.verdict is not None)


def _print_device(device: Device, args) -> None:
    several = f", {device.chips} chips on {device.hosts} host{'s' * (device.hosts > 1)}" if device.chips > 1 else ""
    given = [name for name in ("peak", "bandwidth", "memory", "price") if getattr(args, name) is not None]
    print(
        f"{device.title}{several}; a chip: {device.memory_gb:g} GB, {device.bandwidth_tb_s:g} TB/s, "
        f"{device.peak_tflops:g} TFLOP/s in bfloat16, of which {args.utilisation:.0%}; {device.source}, {device.date}"
        + (f", but as given: {', '.join(given)}" if given else "")
    )
    if device.measured:
        print(f"measured on such a device: {device.measured}")
    if device.dollars_per_hour is None:
        print("no price in the table; give one with --price")
    elif args.price is not None:
        print(f"{device.dollars_per_hour:g} dollars an hour, as given")
    else:
        other = f"; another document says {device.other_price}" if device.other_price else ""
        print(f"{device.dollars_per_hour:g} dollars an hour: {device.price_source}, {device.price_date}{other}")


def _print_table(plans: dict[str, Plan], seeds: int) -> None:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    for header in _COLUMNS:
        table.add_column(header, justify="right", no_wrap=True)
    for name, plan in plans.items():
        work = plan.work
        table.add_row(
            name,
            f"{work.steps:,}",
            f"{work.parameters:,}",
            f"{work.train_flops:.2e}",
            f"{work.evaluations}",
            f"{work.eval_flops:.2e}",
            _gigabytes(plan),
            _duration(plan.train_hours),
            _duration(plan.eval_hours),
            _dollars(plan.dollars),
        )
    every = list(plans.values())
    if len(every) > 1 or seeds > 1:
        table.add_section()
        prices = [plan.dollars for plan in every]
        table.add_row(
            f"{len(every)} run{'s' * (len(every) > 1)}" + (f" x {seeds} seeds" if seeds > 1 else ""),
            f"{seeds * sum(plan.work.steps for plan in every):,}",
            "",
            f"{seeds * sum(plan.work.train_flops for plan in every):.2e}",
            f"{seeds * sum(plan.work.evaluations for plan in every)}",
            f"{seeds * sum(plan.work.eval_flops for plan in every):.2e}",
            _gigabytes(max(every, key=lambda plan: plan.memory_bytes)),
            _duration(seeds * sum(plan.train_hours for plan in every)),
            _duration(seeds * sum(plan.eval_hours for plan in every)),
            _dollars(None if None in prices else seeds * sum(prices)),
        )
    # A figure cut off would be a wrong one: a narrow window folds the lines instead.
    console(highlight=False, width=_WIDEST).print(table, soft_wrap=True)
    if any(plan.verdict for plan in every):
        print(f"{COMPILED_MARK} compiled for the device by trm compile, not estimated")


def _notes(names: Sequence[str], plans: dict[str, Plan], device: Device) -> list[str]:
    from trm_jax.configs import registry
    from trm_jax.planning import groups
    from trm_jax.sweep.plan import BASELINE

    said: dict[str, list[str]] = {}
    for name, plan in plans.items():
        for warning in plan.warnings:
            said.setdefault(warning, []).append(name)
    notes = [f"{listed(where)}: {warning}" for warning, where in said.items()]
    for group in registry.groups().values():
        members = [experiment.name for experiment in group.experiments]
        if set(members) <= set(names):
            notes.append(groups.unequal_compute(group.name, [plans[registry.run_name(name)] for name in members]))
    notes.append(groups.costly_evaluations(list(plans.values())))
    guides = [name for name in names if name == BASELINE or registry.catalogue()[name].expects]
    if device.name == GUIDE_DEVICE and guides:
        notes.append(groups.guide_hours([plans[registry.run_name(name)] for name in guides]))
    return [note for note in notes if note]


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


def _dollars(price: float | None) -> str:
    return "-" if price is None else f"{price:,.2f}"
