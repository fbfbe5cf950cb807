"""`trm train`: run an experiment, or resume one."""

from __future__ import annotations

import sys
from contextlib import ExitStack, nullcontext
from pathlib import Path

from trm_jax.cli.arguments import add_command, add_set, any_path, changes, command, positive


def add_parser(subparsers) -> None:
    parser = add_command(
        subparsers,
        "train",
        "train an experiment, or resume one",
        "Train an experiment in a workdir. Stop it at any time (Ctrl-C, SIGTERM, even kill -9) and give the same\n"
        "command again: it resumes exactly from its last checkpoint.\n"
        "Exit codes: 0 done, 1 training diverged, 2 bad input, 69 another host or the storage is gone, 70 a fault of\n"
        "the program, 75 stopped and saved.",
        "  trm train demo --workdir runs/demo\n"
        "  trm train baseline_768 --set data.source=csv data.path=puzzles\n"
        "  trm train baseline --local            a small debug run of it, to see that everything works\n"
        "  srun --ntasks-per-node=1 --nodes=4 trm train baseline      four hosts train one run\n",
        run,
    )
    parser.add_argument("name", help="an experiment of `trm list`")
    add_set(parser)
    parser.add_argument("--workdir", type=any_path, help="folder of the run (default: runs/NAME, or runs/NAME_local)")
    parser.add_argument(
        "--local", action="store_true", help="a small debug run of seconds: shows that everything works"
    )

    several = parser.add_argument_group(
        "several hosts",
        "Start the same command on every host, with a workdir that all of them see. On SLURM, GKE and Cloud TPUs the "
        "processes find each other; elsewhere give --coordinator, --processes and --process.",
    )
    several.add_argument("--multihost", action="store_true", help="join this host's cluster; fail if there is none")
    several.add_argument("--coordinator", default="", metavar="HOST:PORT", help="of process 0 (or TRM_COORDINATOR)")
    several.add_argument(
        "--processes", type=positive, default=0, metavar="N", help="how many there are (or TRM_PROCESSES)"
    )
    several.add_argument(
        "--process", type=int, default=-1, metavar="I", help="which one this is, from 0 (or TRM_PROCESS)"
    )
    several.add_argument("--port", type=positive, default=0, help="port of process 0, unless HOST:PORT names it")
    several.add_argument(
        "--startup-timeout", type=positive, default=900, metavar="S", help="seconds to wait for the others (900)"
    )


def run(args) -> int:
    from trm_jax import compiler
    from trm_jax.cli.main import EXIT_NO, EXIT_STOPPED
    from trm_jax.configs import registry, resolve
    from trm_jax.configs.workdir import claim
    from trm_jax.distributed.checks import require_one_folder, require_same
    from trm_jax.train.loop import Diverged, train
    from trm_jax.train.stopping import StopRequest
    from trm_jax.train.writers import require_wandb

    config = registry.get(args.name)
    if args.local:
        config = resolve.local(config)
    config = resolve.override(config, changes(args))
    cfg = resolve.freeze(config)
    require_wandb(cfg.log.wandb_project)
    workdir = args.workdir or Path("runs") / (args.name + ("_local" if args.local else ""))
    compiler.use_cache()
    with StopRequest() as stop, _group(args) as group, ExitStack() as claims:
        facts = {**resolve.flatten(config), "workdir": str(workdir)}
        require_same(group, facts, "give every process the same command")
        group.share(lambda: claims.enter_context(claim(workdir, config)))
        require_one_folder(group, workdir)
        if group.first:
            _suggest_alternatives(args.name, cfg)
        try:
            outcome = train(cfg, workdir.resolve(), stop=stop, group=group)
        except Diverged as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_NO
        if group.first:
            _tell(args, cfg, workdir.resolve(), outcome)
        return EXIT_STOPPED if outcome.stopped_by else 0


def _group(args):
    """The processes that train together: those given or found, else this one alone."""
    from trm_jax.cli.main import report_failure
    from trm_jax.distributed import rendezvous
    from trm_jax.distributed.process_group import ProcessGroup

    told = args.multihost or args.coordinator or args.processes > 1 or args.process >= 0
    if not (told or rendezvous.expected()):
        return nullcontext(ProcessGroup())
    cluster = rendezvous.find(args.coordinator, args.processes, args.process, args.port, args.startup_timeout)
    return rendezvous.join(cluster, args.startup_timeout, report_failure)


def _suggest_alternatives(name: str, cfg) -> None:
    from trm_jax.configs.registry import alternatives

    info, others = cfg.task.info(cfg.data), alternatives(name)
    if others and info.groups and cfg.warms_up_long(cfg.total_steps(info.groups, info.mean_examples_per_puzzle)):
        print(f"note: the same with more steps after the warm-up: {', '.join(others)}", file=sys.stderr)


def _tell(args, cfg, workdir, outcome) -> None:
    """What became of the run, and what can be done with it next."""
    from trm_jax.train.clock import goodput, spent
    from trm_jax.train.progress import duration

    _draw_curve(workdir, cfg)
    if outcome.stopped_by:
        again = ["train", args.name, *["--local"] * args.local]
        again += [part for key, value in changes(args).items() for part in ("--set", f"{key}={value}")]
        print(f"stopped by {outcome.stopped_by} and saved at step {outcome.step} of {outcome.total_steps}")
        print(f"next: {command(*again, '--workdir', workdir)}   (goes on from there)")
        return
    score, name = outcome.last_eval, cfg.task.headline
    told = "there is no score, for the answers are not known"
    if name in score:
        told = f"{cfg.scored} {name.replace('_', ' ')} {score[name]:.4f} on {score['count']} puzzles"
    print(f"done: {outcome.total_steps} steps; {told}")
    if args.local:
        print("this was a small debug run: it shows that everything works, not what the model can learn")
    print(f"curves: {workdir / 'curve.png'}   metrics: {workdir / 'metrics.jsonl'}")
    lost = f", {duration(outcome.seconds['lost'])} lost to crashes" if outcome.seconds["lost"] >= 1 else ""
    print(f"goodput: {goodput(outcome.seconds):.0%} of {duration(spent(outcome.seconds))} trained{lost}")
    evaluated = hasattr(cfg.family, "begin") or hasattr(cfg.task, "reader")  # and never asked a puzzle by itself
    solve = "" if evaluated else f"   or: {command('solve', workdir, 'PUZZLE')}"
    print(f"next: {command('eval', workdir)}{solve}")


def _draw_curve(workdir: Path, cfg) -> None:
    from trm_jax.reports.curves import curve_png
    from trm_jax.train.writers import METRICS_FILE, read_jsonl

    records = read_jsonl(workdir / METRICS_FILE)
    if records:
        curve_png(workdir / "curve.png", {cfg.name: records}, [cfg.task.headline], cfg.name)
