"""`trm sweep`: run many experiments to the end, unattended, with retries.

Each is trained in a folder of its own: ROOT/NAME, and with --seeds ROOT/NAME-seedK. Finished runs are skipped, begun
runs resume, failed ones are tried again. Stop it at any time (Ctrl-C, SIGTERM, even kill -9) and give the same command
again. ROOT/sweep.json holds the state of all runs, ROOT/NAME/log.txt what each run printed.
Exit codes: 0 all done, 1 a run failed, diverged or was refused, 2 bad input, 75 stopped and saved.

examples:
  trm sweep exp02a --dry-run              what it would run, in which order
  trm sweep exp02a exp02b --seeds 0-2
  trm sweep 'exp0*' --jobs 4              four runs side by side, each with its share of the devices
  trm sweep exp08 --local --root /tmp/try the same, shrunk to seconds, to see that it runs
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from datetime import datetime
from pathlib import Path

from trm_jax.cli import arguments as cli
from trm_jax.errors import InputError

DEFAULT_ROOT = Path("runs")
LAUNCH = [sys.executable, "-m", "trm_jax.cli.child"]


def _root(text: str) -> Path:
    why = ", where a sweep keeps its locks and logs; launch/tpu_pod.sh GROUP runs a group into a bucket"
    return cli.local_path(text, why)


def add_parser(subparsers) -> None:
    parser = cli.add_documented(subparsers, "sweep", run, __doc__)
    cli.add_names(parser, "what to run")
    parser.add_argument("--seeds", metavar="0,1,2|0-2", help="run each with these seeds (default: the config's)")
    parser.add_argument("--root", type=_root, default=DEFAULT_ROOT, help="folder of the runs (default: runs)")
    parser.add_argument("--jobs", type=cli.positive, default=1, metavar="N", help="processes side by side (default: 1)")
    parser.add_argument(
        "--retries", type=cli.at_least(0), default=2, metavar="N", help="of a run that died (default: 2)"
    )
    cli.add_set(parser)
    parser.add_argument("--local", action="store_true", help="shrink every run to a debug run of seconds")
    parser.add_argument("--dry-run", action="store_true", help="show the runs and their commands, and run nothing")


def run(args) -> int:
    from trm_jax.configs import registry
    from trm_jax.storage.output import owned
    from trm_jax.sweep import plan
    from trm_jax.sweep.run import REFUSED, State
    from trm_jax.train.stopping import StopRequest

    names = registry.select(args.words)
    seeds = plan.parse_seeds(args.seeds) if args.seeds is not None else ()
    runs = plan.plan(names, args.root, seeds=seeds, changes=cli.changes(args), local=args.local)
    for name, others in plan.aliases(names).items():
        print(f"note: {name}, run once, is also {', '.join(others)}", file=sys.stderr)
    for problem in dict.fromkeys(one.error for one in runs if one.state == REFUSED):
        labels = ", ".join(one.label for one in runs if one.error == problem)
        print(f"note: {labels} cannot be run: {problem}", file=sys.stderr)
    if args.dry_run:
        for number, one in enumerate(runs, 1):
            one.examine()
            print(f"{number} {one.label}: {one.state}" + (f" ({one.error})" if one.error else ""))
            print(f"  {one.command}")
        print(f"next: {_again(args)}")
        return 0
    with owned(args.root, lambda: None, "--root"), StopRequest() as stop:
        _train(args, runs, State(args.root, runs), stop)
    return _summarise(args, runs, stop)


def _train(args, runs, state, stop) -> None:
    from trm_jax.sweep.run import counts
    from trm_jax.sweep.runner import Runner
    from trm_jax.sweep.slots import slots

    platform, devices = accelerators(args.jobs)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else ()
    places = slots(args.jobs, platform=platform, devices=devices, cores=cores, environ=os.environ)
    for one in runs:
        one.examine()

    def say(line: str) -> None:
        with suppress(OSError):  # a disk that is full is no reason to end a sweep
            print(f"{datetime.now():%H:%M:%S} {line}", file=sys.stderr, flush=True)

    say(f"{counts(runs)}; {args.root}")
    Runner(state, places, LAUNCH, retries=args.retries, stop=stop, say=say).run(runs)


def accelerators(jobs: int) -> tuple[str, int]:
    """(platform, GPUs that JAX sees or TPU chips) for `slots`; JAX is asked only when the answer matters."""
    from trm_jax.cli.health.devices import nvidia_gpus, run_probe, tpu_chips

    chips = tpu_chips(Path("/"))
    if jobs == 1 or not (chips or nvidia_gpus(Path("/"))):
        return "cpu", 0
    found, failure = run_probe(os.environ)
    if failure:
        raise InputError(f"{failure}; trm doctor says what to do about it")
    return found[0].platform, chips if found[0].platform == "tpu" else len(found)


def _again(args) -> str:
    """The command line that goes on with this sweep."""
    given = ("--seeds", args.seeds, None), ("--root", args.root, DEFAULT_ROOT), ("--jobs", args.jobs, 1)
    options = cli.options_again(*given, ("--retries", args.retries, 2))
    again = cli.set_again(cli.settings(args))
    return cli.command("sweep", *args.words, *options, *again, *["--local"] * args.local)


def _summarise(args, runs, stop) -> int:
    from trm_jax.cli.main import EXIT_DONE, EXIT_NO, EXIT_STOPPED
    from trm_jax.cli.plan import print_table
    from trm_jax.configs.workdir import LOG_FILE
    from trm_jax.sweep.run import BAD_ENDS, DONE, counts

    print_table(("run", "state", "step", "score"), [(one.label, one.state, one.steps, one.score_words) for one in runs])
    for one in runs:
        if one.error:
            print(f"{one.label}: {one.state}, {one.error}")
    print(counts(runs))
    if stop and not {one.state for one in runs} <= {DONE, *BAD_ENDS}:
        print(f"next: {_again(args)}   (resumes from there)")
        return EXIT_STOPPED
    bad = next((one for one in runs if one.state in BAD_ENDS), None)
    if bad:
        log = bad.folder / LOG_FILE
        print(f"next: {f'less {log}   ' * log.exists()}then, once it is fixed: {_again(args)}")
        return EXIT_NO
    root = cli.options_again(("--root", args.root, DEFAULT_ROOT))
    print(f"next: {cli.command('report', *args.words, *root)}")
    return EXIT_DONE
