"""`trm doctor`: check this machine and say how to fix what is wrong.

Checks packages, devices and disk; with experiments also whether their batches and memory (planned) fit the devices
here, and their puzzles. Each problem comes with its remedy.
Exit codes: 0 nothing is broken, 1 something is, 2 bad arguments.

examples:
  trm doctor
  trm doctor baseline --set train.accumulation=4
  trm doctor --bucket gs://mine/trm         may a run write there?
  trm doctor --coordinator host0:8476       is process 0 of several hosts reached?
  trm doctor exp02a --pod --bucket gs://mine/trm --spot     before launch/tpu_pod.sh pays for a TPU
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import asdict

from trm_jax.cli.arguments import add_documented, add_names, add_set, any_path, changes, command, settings
from trm_jax.cli.health import Check
from trm_jax.errors import InputError
from trm_jax.storage.paths import BucketPath

POD_OPTIONS, POD_FLAGS = ("name", "type", "zone", "project", "version"), ("spot", "dirty")


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    parser = add_documented(subparsers, "doctor", run, __doc__)
    add_names(parser, "experiments that are to run here", "*")
    add_set(parser)
    parser.add_argument("--workdir", type=any_path, default="runs", help="where runs will be (default: %(default)s)")
    parser.add_argument("--bucket", type=any_path, metavar="gs://BUCKET/FOLDER", help="a bucket that runs are to use")
    parser.add_argument("--coordinator", metavar="HOST:PORT", help="process 0 of several hosts, as trm train takes it")
    parser.add_argument("--json", action="store_true", help="print the findings as JSON")
    pod = parser.add_argument_group("TPUs", "What launch/tpu_pod.sh would need; options mean what they mean there.")
    pod.add_argument("--pod", action="store_true", help="check that and nothing else")
    for name in POD_OPTIONS:
        pod.add_argument(f"--{name}", metavar=name.upper())
    for name in POD_FLAGS:
        pod.add_argument(f"--{name}", action="store_true")


def run(args: argparse.Namespace) -> int:
    environ = dict(os.environ)
    os.environ["JAX_PLATFORMS"] = "cpu"  # of this process, which only plans; the devices are another's to find
    if args.pod:
        return _run_pod(args, environ)
    if lost := [name for name in (*POD_OPTIONS, *POD_FLAGS) if getattr(args, name)]:
        raise InputError(f"--{lost[0]} goes with --pod; give that as well")
    if args.set and not args.words:
        raise InputError("--set changes an experiment; name it: trm doctor NAME --set ...")
    if args.bucket and not isinstance(args.bucket, BucketPath):
        raise InputError(f"{args.bucket} names no bucket; write --bucket gs://BUCKET/FOLDER")
    return _report(args, list(_examine(args, environ)), command("train", *(args.words[:1] or ["demo"])))


def _examine(args, environ: dict[str, str]) -> Iterator[Check]:
    """All findings about this machine, in the order of the table."""
    from trm_jax.cli.health import devices, machine, runs
    from trm_jax.configs import registry, resolve
    from trm_jax.distributed.rendezvous import endpoint
    from trm_jax.planning import Device
    from trm_jax.sweep.plan import run_names

    address = args.coordinator and endpoint(args.coordinator)
    names = registry.select(args.words) if args.words else []
    experiments = [(name, resolve.override(registry.get(name), changes(args))) for name in run_names(names)]
    yield from machine.packages()
    yield machine.place("workdir", args.workdir)
    if args.bucket:
        yield machine.place("bucket", args.bucket)
    yield from runs.puzzles(experiments)
    found, failure = devices.run_probe(environ)
    yield from devices.devices(found, failure, environ)
    yield from devices.accelerators(found, environ)
    if experiments and found:
        shared = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / len(found)  # by CPU devices
        memory = found[0].memory_bytes or shared
        here = Device("this machine", found[0].kind, round(memory / 1e9, 1), 1.0, 1.0, chips=len(found))
        yield from runs.fits(experiments, here)
    if address:
        yield machine.coordinator(*address)


def _run_pod(args, environ: dict[str, str]) -> int:
    from trm_jax.cli.health import runs

    arguments = [*args.words, *(f"--{name}" for name in POD_FLAGS if getattr(args, name))]
    arguments += [f"--{name}={value}" for name in ("bucket", *POD_OPTIONS) if (value := getattr(args, name))]
    arguments += ["--", *settings(args)] if args.set else []
    code, said = runs.ask_launcher(arguments, environ)
    if code not in (0, 1):  # it has said why
        return code
    checks = list(runs.on_tpu(said, changes(args)))
    return _report(args, checks, shlex.join([runs.LAUNCHER, *arguments]))


def _report(args, checks: list[Check], following: str) -> int:
    """Print a line for each finding, below it its remedy, unfolded: to be pasted into a shell. The exit code."""
    broken = sum(check.status == "fail" for check in checks)
    width = min(max(len(check.name) for check in checks), 20)
    if args.json:
        print(json.dumps({"ok": not broken, "checks": [asdict(check) for check in checks]}, indent=2))
    else:
        for check in checks:
            print(f"{check.status.replace('fail', 'FAIL'):4}  {check.name:{width}}  {check.detail}")
            if check.remedy:
                print(f"{'':{width + 8}}remedy: {check.remedy}")
        failed = f"{broken} of these checks failed: fix them, then run trm doctor again"
        print(f"\n{failed if broken else f'Nothing is broken. Next: {following}'}")
    return 1 if broken else 0
