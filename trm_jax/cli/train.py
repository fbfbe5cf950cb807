"""`trm train`: run an experiment, or go on with one."""

from __future__ import annotations

import json
import sys
import zlib
from contextlib import ExitStack, nullcontext
from pathlib import Path

from trm_jax.cli.arguments import add_command, add_set, any_path, changes, command, local_path, positive
from trm_jax.errors import InputError


def add_parser(subparsers) -> None:
    parser = add_command(
        subparsers,
        "train",
        "train an experiment, or go on with one",
        "Train an experiment in a workdir. Stop it at any time (Ctrl-C, SIGTERM, even kill -9) and give the same\n"
        "command again: it goes on exactly where its last checkpoint was.\n"
        "Exit codes: 0 done, 1 training diverged, 2 bad input, 69 another host or the storage is gone, 70 a fault of\n"
        "the program, 75 stopped and saved.",
        "  trm train demo --workdir runs/demo\n"
        "  trm train baseline_768 --set data.source=csv data.path=puzzles\n"
        "  trm train baseline --local            the same experiment shrunk to seconds, to see that it runs\n"
        "  srun --ntasks-per-node=1 --nodes=4 trm train baseline      four hosts as one, found by itself\n",
        run,
    )
    parser.add_argument("name", help="an experiment of `trm list`")
    add_set(parser)
    parser.add_argument("--workdir", type=any_path, help="folder of the run (default: runs/NAME)")
    parser.add_argument("--local", action="store_true", help="shrink it to a debug run of seconds")

    several = parser.add_argument_group(
        "several hosts",
        "Start the same command on every host, with a workdir that all of them see. On SLURM, GKE and Cloud TPUs the "
        "processes find each other; elsewhere say who is who.",
    )
    several.add_argument("--multihost", action="store_true", help="one of several processes, whatever it looks like")
    several.add_argument("--coordinator", default="", metavar="HOST:PORT", help="process 0 (or TRM_COORDINATOR)")
    several.add_argument("--processes", type=positive, default=0, metavar="N", help="how many (or TRM_PROCESSES)")
    several.add_argument("--process", type=int, default=-1, metavar="I", help="which, from 0 on (or TRM_PROCESS)")
    several.add_argument("--port", type=positive, default=0, help="of the coordinator")
    several.add_argument(
        "--startup-timeout", type=positive, default=900, metavar="S", help="seconds to wait for the others (900)"
    )

    # Without a help line it is not listed: `trm sweep --pack` writes the file and gives the command.
    pack = subparsers.add_parser("train-pack", description="Train runs that differ in numbers only, side by side.")
    pack.add_argument("file", type=local_path, help='JSON: [{"config": {...}, "workdir": "..."}, ...]')
    pack.set_defaults(run=run_pack)


def run(args) -> int:
    from trm_jax.configs import registry, resolve
    from trm_jax.configs.workdir import claim
    from trm_jax.distributed.checks import require_one_folder, require_same
    from trm_jax.train.stopping import StopRequest
    from trm_jax.train.writers import require_wandb

    config = registry.get(args.name)
    if args.local:
        config = resolve.local(config)
    config = resolve.override(config, changes(args))
    run_config = resolve.freeze(config)
    require_wandb(run_config.log.wandb_project)
    workdir = args.workdir or Path("runs") / (args.name + ("_local" if args.local else ""))
    with StopRequest() as stop, _group(args) as group, ExitStack() as claims:
        facts = {**resolve.flatten(config), "workdir": str(workdir)}
        require_same(group, facts, "give every process the same command")
        group.share(lambda: claims.enter_context(claim(workdir, config)))
        require_one_folder(group, workdir)
        return _train(args, run_config, config, workdir.resolve(), group, stop)


def _group(args):
    """The processes that train together: those that are told of or found, this one alone otherwise."""
    from trm_jax.cli.main import report_failure
    from trm_jax.distributed import rendezvous
    from trm_jax.distributed.process_group import ProcessGroup

    told = args.multihost or args.coordinator or args.processes > 1 or args.process >= 0
    if not (told or rendezvous.expected()):
        return nullcontext(ProcessGroup())
    cluster = rendezvous.find(args.coordinator, args.processes, args.process, args.port, args.startup_timeout)
    return rendezvous.join(cluster, args.startup_timeout, report_failure)


def _train(args, cfg, config, workdir: Path, group, stop) -> int:
    import jax
    import numpy as np

    from trm_jax.cli.main import EXIT_STOPPED
    from trm_jax.configs.registry import alternatives
    from trm_jax.distributed.checks import require_same
    from trm_jax.models import params, trm
    from trm_jax.tasks.sudoku import source as sudoku
    from trm_jax.train.clock import goodput, spent
    from trm_jax.train.loop import Diverged, train
    from trm_jax.train.progress import duration

    data = sudoku.load(cfg.data)
    info = data[0].info
    specs = trm.param_specs(cfg.model)
    devices = jax.devices()
    total_steps = cfg.total_steps(info.groups, info.mean_examples_per_puzzle)
    slots = np.arange(min(cfg.train.batch_size, 256))
    batch = data[0].batch(0, slots, seed=cfg.seed, batch_size=cfg.train.batch_size)
    seen = {"training data": zlib.crc32(batch["inputs"].tobytes()), "evaluation data": data[1].digest}
    require_same(group, seen, "give every host the same data set")
    if not group.first:
        sys.stderr.write(f"{group.name()} of {group.count}: process 0 tells how it goes\n")
    tell = print if group.first else (lambda *_, **__: None)
    tell(
        f"{cfg.name}: {params.count(specs['weights']):,} parameters, {total_steps:,} steps of "
        f"{cfg.train.batch_size} on "
        f"{len(devices)} {devices[0].device_kind} device{'s' * (len(devices) > 1)}"
        f"{f' of {group.count} processes' * (group.count > 1)}; "
        f"{info.groups:,} training puzzles, {len(data[1]):,} held out; workdir {workdir}",
        file=sys.stderr,
    )
    others = alternatives(args.name)
    if others and cfg.warnings(total_steps):
        tell(f"note: the same with more steps after the warm-up: {', '.join(others)}", file=sys.stderr)
    try:
        outcome = train(cfg, data, workdir, config=config.to_dict(), stop=stop, group=group)
    except Diverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if not group.first:
        return EXIT_STOPPED if outcome.stopped_by else 0
    _draw_curve(workdir, cfg.name)
    again = ["train", args.name, *["--local"] * args.local]
    again += [part for key, value in changes(args).items() for part in ("--set", f"{key}={value}")]
    again += ["--workdir", workdir]
    if outcome.stopped_by:
        print(f"stopped by {outcome.stopped_by} and saved at step {outcome.step} of {outcome.total_steps}")
        print(f"next: {command(*again)}   (goes on from there)")
        return EXIT_STOPPED
    score = outcome.last_eval
    print(
        f"done: {outcome.total_steps} steps; held-out exact accuracy {score['exact_accuracy']:.4f} "
        f"on {score['count']} puzzles"
    )
    print(f"curves: {workdir / 'curve.png'}   metrics: {workdir / 'metrics.jsonl'}")
    lost = f", {duration(outcome.seconds['lost'])} lost to crashes" if outcome.seconds["lost"] >= 1 else ""
    print(f"goodput: {goodput(outcome.seconds):.0%} of {duration(spent(outcome.seconds))} trained{lost}")
    print(f"next: {command('eval', workdir)}   or: {command('solve', workdir, 'PUZZLE')}")
    return 0


def _draw_curve(workdir: Path, name: str) -> None:
    from trm_jax.evals.curves import curve_png
    from trm_jax.train.writers import METRICS_FILE, read_jsonl

    records = read_jsonl(workdir / METRICS_FILE)
    if records:
        curve_png(workdir / "curve.png", {name: records}, title=name)


def run_pack(args) -> int:
    from trm_jax.cli.main import EXIT_DONE, EXIT_NO, EXIT_STOPPED
    from trm_jax.configs import resolve
    from trm_jax.configs.defaults import defaults
    from trm_jax.configs.pack import structure
    from trm_jax.configs.workdir import claim
    from trm_jax.tasks.sudoku import source as sudoku
    from trm_jax.train.loop import Job, train_side_by_side
    from trm_jax.train.stopping import StopRequest
    from trm_jax.train.writers import require_wandb

    with StopRequest() as stop, ExitStack() as claims:
        jobs, structures = [], set()
        for entry in json.loads(args.file.read_text()):
            config = resolve.override(defaults(), resolve.flatten(entry["config"]))
            structures.add(structure(config))
            cfg = resolve.freeze(config)
            require_wandb(cfg.log.wandb_project)
            claims.enter_context(claim(Path(entry["workdir"]), config))
            jobs.append(Job(cfg, config.to_dict(), Path(entry["workdir"]).resolve()))
        if len(structures) > 1:
            raise InputError(f"{args.file}: these runs differ in more than numbers; train them one by one")
        data = sudoku.load(jobs[0].cfg.data)
        print(f"{len(jobs)} runs side by side: {', '.join(job.workdir.name for job in jobs)}", file=sys.stderr)
        outcomes = train_side_by_side(jobs, data, stop=stop)
    for job, outcome in zip(jobs, outcomes, strict=True):
        _draw_curve(job.workdir, job.cfg.name)
        state = "diverged" if outcome.diverged else "stopped" if outcome.stopped_by else "done"
        text = json.dumps({"state": state, "step": outcome.step, "error": outcome.diverged})
        (job.workdir / "outcome.json").write_text(text + "\n")
        print(f"{job.workdir}: {state} at step {outcome.step}" + f" ({outcome.diverged})" * bool(outcome.diverged))
    if any(outcome.stopped_by for outcome in outcomes):
        return EXIT_STOPPED
    return EXIT_NO if any(outcome.diverged for outcome in outcomes) else EXIT_DONE
