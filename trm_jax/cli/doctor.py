"""`trm doctor`: is this machine fit for a run, and if not, which command mends it."""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING

from trm_jax.cli.arguments import add_command, console

if TYPE_CHECKING:
    from trm_jax.cli.health import Check

STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "doctor",
        "check this machine and name what mends it",
        "Check packages, devices, memory, disk and environment; name the remedy of each problem.\n"
        "Exit codes: 0 nothing is broken, 1 something is, 2 bad arguments.",
        "  trm doctor\n  trm doctor --workdir runs/demo --data puzzles\n  trm doctor --json\n",
        run,
    )
    parser.add_argument(
        "--workdir", default="runs", metavar="DIR", help="where runs will be written (default: %(default)s)"
    )
    parser.add_argument(
        "--data", metavar="PATH", help="a data set to check: a CSV file or a folder of CSV files or arrays"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--device-timeout",
        type=seconds,
        default=120.0,
        metavar="SECONDS",
        help="how long JAX may take to find its devices (default: %(default)g)",
    )


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def run(args: argparse.Namespace) -> int:
    from trm_jax.cli.health import Subject, examine

    checks = examine(Subject(workdir=args.workdir, data=args.data, device_timeout_s=args.device_timeout))
    broken = sum(check.status == "fail" for check in checks)
    if args.json:
        print(json.dumps({"ok": not broken, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        show(checks)
    return 1 if broken else 0


def show(checks: list[Check]) -> None:
    """Prints the table, then the remedies, each on an unfolded line of its own to be pasted into a shell."""
    from rich.table import Table
    from rich.text import Text

    terminal = console(highlight=False)
    table = Table("check", "status", "finding", box=None, header_style="bold", pad_edge=False)
    for check in checks:
        table.add_row(check.name, Text(check.status, STYLES[check.status]), Text(check.detail))
    terminal.print(table)
    for status, title in (("fail", "To mend:"), ("warn", "To improve:")):
        remedies = [check for check in checks if check.status == status]
        if remedies:
            terminal.print(f"\n{title}", style=STYLES[status])
        for check in remedies:
            terminal.print(Text(f"  {check.name}: {check.remedy}"), soft_wrap=True)
    broken = sum(check.status == "fail" for check in checks)
    if broken:
        problems = "1 problem" if broken == 1 else f"{broken} problems"
        verdict, style = f"{problems}; mend and ask again: trm doctor", STYLES["fail"]
    else:
        verdict, style = "Nothing is broken. Next: trm train demo --workdir runs/demo", STYLES["ok"]
    terminal.print(f"\n{verdict}", style=style, soft_wrap=True)
