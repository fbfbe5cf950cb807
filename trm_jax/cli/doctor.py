"""`trm doctor`: is this machine fit for a run, and if not, which command mends it."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING

from trm_jax.cli.arguments import add_command, add_set, changes, command, console, options_again, set_again, settings
from trm_jax.errors import InputError

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from trm_jax.cli.health import Check

POD_OPTIONS, POD_FLAGS = ("name", "type", "zone", "project", "version"), ("spot", "dirty")
WORKDIR, DEVICE_TIMEOUT_S = "runs", 120.0
STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = add_command(
        subparsers,
        "doctor",
        "check this machine and name what mends it",
        "Check packages, devices, memory, disk and environment; name the remedy of each problem. With experiments\n"
        "also whether their batches and memory (planned) fit the devices that JAX finds here, and whether their\n"
        "puzzles are here or can be fetched.\n"
        "Exit codes: 0 nothing is broken, 1 something is, 2 bad arguments.",
        "  trm doctor\n"
        "  trm doctor baseline --set train.accumulation=4\n"
        "  trm doctor --workdir runs/demo --data puzzles\n"
        "  trm doctor --bucket gs://mine/trm              may a run write there? (gs:// may be left out)\n"
        "  trm doctor --coordinator host0:8476            is process 0 of several hosts reached?\n"
        "  trm doctor exp02a --pod --bucket gs://mine/trm --spot\n"
        "                                                 what would stop launch/tpu_pod.sh, before a TPU is paid for\n"
        "  trm doctor exp02a --pod --bucket gs://mine/trm --dry-run\n"
        "                                                 which commands that would ask\n"
        "  trm doctor --json\n",
        run,
    )
    parser.add_argument("words", nargs="*", metavar="NAME|GROUP|PATTERN", help="experiments that are to run here")
    add_set(parser)
    parser.add_argument(
        "--workdir", default=WORKDIR, metavar="DIR", help="where runs will be written (default: %(default)s)"
    )
    parser.add_argument(
        "--data", metavar="PATH", help="a data set to check: a CSV file or a folder of CSV files or arrays, or gs://..."
    )
    parser.add_argument("--bucket", metavar="gs://BUCKET/FOLDER", help="a bucket that runs are to use")
    parser.add_argument(
        "--coordinator", type=endpoint, metavar="HOST:PORT", help="process 0 of several hosts, as trm train takes it"
    )
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    parser.add_argument(
        "--device-timeout",
        type=seconds,
        default=DEVICE_TIMEOUT_S,
        metavar="SECONDS",
        help="how long JAX may take to find its devices (default: %(default)g)",
    )
    pod = parser.add_argument_group(
        "TPUs", "What launch/tpu_pod.sh would need, in place of all other checks; options mean what they mean there."
    )
    pod.add_argument("--pod", action="store_true", help="check that, with NAME or GROUP, --bucket and --set")
    pod.add_argument("--dry-run", action="store_true", help="print what would be asked, ask nobody")
    for name in POD_OPTIONS:
        pod.add_argument(f"--{name}", metavar=name.upper())
    for name in POD_FLAGS:
        pod.add_argument(f"--{name}", action="store_true")


def seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return value


def endpoint(text: str) -> str:
    from trm_jax.distributed import rendezvous

    try:
        rendezvous.endpoint(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None
    return text


def run(args: argparse.Namespace) -> int:
    if args.bucket is not None:
        from trm_jax.cli.health.storage import bucket_folder

        args.bucket = str(bucket_folder(args.bucket))
    if args.pod:
        return _run_pod(args)
    lost = [name for name in (*POD_OPTIONS, *POD_FLAGS, "dry_run") if getattr(args, name)]
    if lost:
        raise InputError(f"--{lost[0].replace('_', '-')} goes with --pod; give that as well")
    from trm_jax.cli.health import Subject, examine

    environ = dict(os.environ)
    subject = Subject(
        workdir=args.workdir,
        data=args.data,
        experiments=_experiments(args),
        bucket=args.bucket,
        coordinator=args.coordinator,
        environ=environ,
        device_timeout_s=args.device_timeout,
    )
    options = options_again(
        ("--workdir", args.workdir, WORKDIR),
        ("--data", args.data, None),
        ("--bucket", args.bucket, None),
        ("--coordinator", args.coordinator, None),
        ("--device-timeout", args.device_timeout, DEVICE_TIMEOUT_S),
    )
    again = command("doctor", *args.words, *options, *set_again(settings(args)))
    return _report(args, examine(subject), again, f"trm train {args.words[0] if args.words else 'demo'}")


def _experiments(args) -> tuple[tuple[str, ConfigDict], ...]:
    if not args.words:
        if args.set:
            raise InputError("--set changes an experiment; name it: trm doctor NAME --set ...")
        return ()
    os.environ["JAX_PLATFORMS"] = "cpu"  # of this process, which only plans; the devices are another's to find
    from trm_jax.configs import registry, resolve
    from trm_jax.sweep.plan import run_names

    return tuple(
        (name, resolve.override(registry.get(name), changes(args))) for name in run_names(registry.select(args.words))
    )


def _run_pod(args) -> int:
    from trm_jax.cli.health.pod import LAUNCHER, checkout, examine_pod
    from trm_jax.cli.health.shell import Shell

    options = [f"--{name}={value}" for name in ("bucket", *POD_OPTIONS) if (value := getattr(args, name))]
    options += [f"--{name}" for name in POD_FLAGS if getattr(args, name)]
    assignments = settings(args)
    arguments = [*args.words, *options, *(["--", *assignments] if assignments else [])]
    shell = Shell(dict(os.environ), rehearsal=args.dry_run)
    os.environ["JAX_PLATFORMS"] = "cpu"  # plans need no device
    checks = list(examine_pod(arguments, shell, checkout()))
    if not args.dry_run:
        again = command("doctor", *args.words, "--pod", *options, *set_again(assignments))
        return _report(args, checks, again, shlex.join([LAUNCHER, *arguments]))
    print("\n".join(shell.said))
    broken = [check for check in checks if check.name == "launcher" and check.status == "fail"]
    if broken:
        raise InputError(f"{broken[0].detail}; {broken[0].remedy}")
    return 0


def _report(args, checks: list[Check], again: str, following: str) -> int:
    broken = sum(check.status == "fail" for check in checks)
    if args.json:
        print(json.dumps({"ok": not broken, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        show(checks, again, following)
    return 1 if broken else 0


def show(checks: list[Check], again: str, following: str) -> None:
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
        verdict, style = f"{problems}; mend and ask again: {again}", STYLES["fail"]
    else:
        verdict, style = f"Nothing is broken. Next: {following}", STYLES["ok"]
    terminal.print(Text(f"\n{verdict}"), style=style, soft_wrap=True)
