"""`trm solve` of ARC tasks that a run has never seen: learn an embedding for each form of them, then vote.

The learning is a training run of its own in RUN/unseen, from the weights of RUN, so that it can be stopped and started.
"""

from __future__ import annotations

import os
import re
import sys
import time

from trm_jax.cli.arguments import command
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path


def run(args) -> int:
    import jax
    import numpy as np

    from trm_jax import compiler
    from trm_jax.cli.main import EXIT_NO, EXIT_STOPPED
    from trm_jax.configs import resolve
    from trm_jax.configs.workdir import claim
    from trm_jax.tasks.arc.grids import encode
    from trm_jax.tasks.arc.predictions import ranked
    from trm_jax.train.loop import Diverged, train
    from trm_jax.train.stopping import StopRequest
    from trm_jax.train.writers import CHECKPOINTS, PREDICTIONS

    if args.live or args.limit:
        raise InputError("--live and --limit are not for tasks of ARC; leave them out")
    if "://" in args.puzzle or not os.path.exists(args.puzzle):
        raise InputError(f"{args.puzzle} does not exist; name a JSON file of an ARC task, or a folder of them")
    compiler.use_cache()
    config = _config(args)
    cfg = resolve.freeze(config)
    place = args.run_dir.resolve() / "unseen" / config.name
    data = cfg.task.load(cfg.data)
    devices = jax.devices()[:1]
    if not (place / CHECKPOINTS).exists():
        _tell_time(cfg, data, devices, place)
    with StopRequest() as stop, claim(place, config):
        try:
            outcome = train(cfg, place, stop=stop, data=data, devices=devices)
        except Diverged as error:
            print(f"error: {error}", file=sys.stderr)
            return EXIT_NO
    if outcome.stopped_by:
        print(f"stopped by {outcome.stopped_by} and saved at step {outcome.step} of {outcome.total_steps}")
        print(f"next: the same command goes on from there, or: {command('eval', place)}", file=sys.stderr)
        return EXIT_STOPPED
    found = dict(ranked([place / PREDICTIONS]))
    solved = _show(data[1].tasks, found)
    if args.png:
        test = data[1].rows(np.arange(1))["inputs"][0]
        first = found.get((next(iter(data[1].tasks)), 0))
        answer = encode(first[0].grid, side=cfg.data.side) if first else np.zeros_like(test)
        cfg.task.png(cfg.data, args.png, test, answer, caption=f"{config.name}, step {outcome.total_steps}")
        print(f"picture: {args.png}")
    if args.gif:
        _draw(args, cfg, data[1], place)
    following = command("arc", "submit", place / PREDICTIONS, "--data", args.puzzle, "--output", "submission.json")
    print(f"next: {following}", file=sys.stderr)
    return 0 if solved else EXIT_NO


def _config(args):
    """The config of the run that learns: that of RUN with other data, its weights, and little to do."""
    import hashlib

    from trm_jax.configs import resolve, workdir
    from trm_jax.train.checkpoint import Checkpoints, pick_step
    from trm_jax.train.writers import CHECKPOINTS

    saved = workdir.load_config(args.run_dir)
    cfg = resolve.freeze(saved)
    path = as_path(args.puzzle).resolve()
    checkpoints = Checkpoints(args.run_dir.resolve() / CHECKPOINTS, cfg.task.headline)
    try:
        step = pick_step(checkpoints, args.checkpoint)
    finally:
        checkpoints.close()
    changes = {f"data.{name}": value for name, value in cfg.task.unseen(cfg.data, path).items()}
    changes |= {
        "data.augmentations": args.augmentations,
        "train.start_from": str(args.run_dir.resolve()),
        "train.start_at": str(step),
        "train.parameters": "tables" if args.adapt == "embedding" else "all",
        "train.steps": args.adapt_steps,
        "train.batch_size": args.batch_size,
        "train.curriculum_epochs": 0,
        "train.accumulation": 1,
        "optim.warmup_share": 0.1,
        "eval.every_steps": args.adapt_steps,
        "eval.batch_size": args.batch_size,
        "eval.max_examples": 0,
        "log.every_steps": 10,
        **{f"mesh.{axis}": size for axis, size in (("data", -1), ("fsdp", 1), ("tensor", 1))},
    }
    if args.steps:
        changes["model.halt_max_steps"] = args.steps
    # One folder for each way to do it and each content of the file.
    known = hashlib.sha256(repr(sorted(changes.items())).encode())
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        known.update(file.read_bytes() if file.is_file() else b"")
    plain = re.sub("[^A-Za-z0-9_-]+", "-", path.name.split(".")[0]).strip("-") or "task"
    return resolve.override(saved, {**changes, "name": f"{plain[:50]}-{known.hexdigest()[:8]}"})


def _tell_time(cfg, data, devices, place: AnyPath) -> None:
    """Say what will be learned, and about how long it takes, from two steps that are thrown away."""
    import jax

    from trm_jax.train.compiled import Compiled
    from trm_jax.train.progress import duration

    source, test = data
    compiled = Compiled(cfg, source.info, devices)
    state, took = compiled.first_state(), 0.0
    for step in range(2):
        rows = source.batch(step, compiled.slots, seed=cfg.seed, batch_size=cfg.train.batch_size)
        began = time.monotonic()
        state, _ = compiled.train_step(state, step, rows)
        jax.block_until_ready(state.step)
        took = time.monotonic() - began  # of the last one; the first one is compiled
    what = "embeddings" if cfg.train.parameters == "tables" else "embeddings and weights"
    forms = f"{len(test.tasks)} task{'s' * (len(test.tasks) > 1)} in {source.info.num_puzzle_ids - 1} forms"
    print(
        f"learning {what} for {forms}: {compiled.total_steps} steps of {cfg.train.batch_size}, about "
        f"{duration(took * compiled.total_steps)} on one {devices[0].platform} device, and an evaluation; in {place}",
        file=sys.stderr,
    )


def _show(tasks: dict, found: dict) -> bool:
    """Print both attempts at every test pair; whether all whose answers are known are right."""
    from trm_jax.tasks.arc.render import side_by_side

    color, wrong = sys.stdout.isatty() and "NO_COLOR" not in os.environ, 0
    for name, task in tasks.items():
        for number, pair in enumerate(task.test):
            candidates = found.get((name, number), [])
            attempts, votes = candidates[:2], sum(one.weight for one in candidates)
            print(side_by_side([pair.input, *(one.grid for one in attempts)], color=color))
            right = [pair.output is not None and one.grid.tolist() == pair.output.tolist() for one in attempts]
            verdict = "answered" if pair.output is None else "solved" if any(right) else "not solved"
            wrong += verdict == "not solved" or not attempts
            said = ", ".join(f"{one.weight:.0f} of {votes:.0f} votes" for one in attempts)
            print(f"{name}, test {number}: {verdict} ({said or 'no grid among the answers'})")
    return not wrong


def _draw(args, cfg, test, place: AnyPath) -> None:
    """The first test pair as it stands, answered step by step, as GIF."""
    import jax
    import numpy as np
    from scipy.special import expit

    from trm_jax import sharding
    from trm_jax.cli.solve import think_over
    from trm_jax.train.restore import load_params

    params, _ = load_params(cfg, place, "latest", sharding.make_mesh(devices=jax.devices()[:1]))
    rows = test.rows(np.arange(1))
    answers, q_halt = think_over(cfg, params, rows, args.steps or 0)
    at = int(np.argmax(q_halt[0] > 0)) + 1 if (q_halt[0] > 0).any() else None
    cfg.task.gif(cfg.data, args.gif, rows["inputs"][0], answers[0], expit(q_halt[0]), halted_at=at)
    print(f"thinking: {args.gif}")
