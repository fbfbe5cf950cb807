"""`trm train`: run an experiment, or go on with one."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from trm_jax.cli.arguments import add_command, add_set, changes, local_path


def add_parser(subparsers) -> None:
    parser = add_command(
        subparsers,
        "train",
        "train an experiment, or go on with one",
        "Train an experiment in a workdir. Stop it at any time (Ctrl-C, SIGTERM, even kill -9) and give the same\n"
        "command again: it goes on exactly where its last checkpoint was.\n"
        "Exit codes: 0 done, 1 training diverged, 2 bad input, 75 stopped and saved.",
        "  trm train demo --workdir runs/demo\n"
        "  trm train baseline_768 --set data.source=csv data.path=puzzles\n"
        "  trm train baseline --local            the same experiment shrunk to seconds, to see that it runs\n",
        run,
    )
    parser.add_argument("name", help="an experiment of `trm list`")
    add_set(parser)
    parser.add_argument("--workdir", type=local_path, help="folder of the run (default: runs/NAME)")
    parser.add_argument("--local", action="store_true", help="shrink it to a debug run of seconds")


def run(args) -> int:
    from trm_jax.configs import registry, resolve
    from trm_jax.configs.workdir import claim

    config = registry.get(args.name)
    if args.local:
        config = resolve.local(config)
    config = resolve.override(config, changes(args))
    run_config = resolve.freeze(config)
    workdir = args.workdir or Path("runs") / (args.name + ("_local" if args.local else ""))
    with claim(workdir, config):
        return _train(args, run_config, config, workdir.resolve())


def _train(args, cfg, config, workdir: Path) -> int:
    import jax

    from trm_jax.cli.main import EXIT_STOPPED
    from trm_jax.data import sudoku
    from trm_jax.models import params, trm
    from trm_jax.train.loop import Diverged, train
    from trm_jax.train.stopping import StopRequest

    with StopRequest() as stop:
        data = sudoku.load(cfg.data)
        info = data[0].info
        specs = trm.param_specs(cfg.model)
        devices = jax.devices()
        print(
            f"{cfg.name}: {params.count(specs['weights']):,} parameters, "
            f"{cfg.total_steps(info.groups, info.mean_examples_per_puzzle):,} steps of {cfg.train.batch_size} on "
            f"{len(devices)} {devices[0].device_kind} device{'s' * (len(devices) > 1)}; "
            f"{info.groups:,} training puzzles, {len(data[1].inputs):,} held out; workdir {workdir}",
            file=sys.stderr,
        )
        try:
            outcome = train(cfg, data, workdir, config=config.to_dict(), stop=stop)
        except Diverged as error:
            print(f"error: {error}", file=sys.stderr)
            return 1
    _draw_curve(workdir, cfg.name)
    again = ["trm", "train", args.name, *["--local"] * args.local]
    again += [part for key, value in changes(args).items() for part in ("--set", f"{key}={value}")]
    again += ["--workdir", str(workdir)]
    if outcome.stopped_by:
        print(f"stopped by {outcome.stopped_by} and saved at step {outcome.step} of {outcome.total_steps}")
        print(f"next: {shlex.join(again)}   (goes on from there)")
        return EXIT_STOPPED
    score = outcome.last_eval
    print(
        f"done: {outcome.total_steps} steps; held-out exact accuracy {score['exact_accuracy']:.4f} "
        f"on {score['count']} puzzles"
    )
    print(f"curves: {workdir / 'curve.png'}   metrics: {workdir / 'metrics.jsonl'}")
    print(f"next: trm eval {workdir}   or: trm solve {workdir} PUZZLE")
    return 0


def _draw_curve(workdir: Path, name: str) -> None:
    from trm_jax.evals.curves import curve_png
    from trm_jax.train.writers import METRICS_FILE, read_jsonl

    records = read_jsonl(workdir / METRICS_FILE)
    if records:
        curve_png(workdir / "curve.png", {name: records}, title=name)
