"""Opening a run for the commands that use a trained model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from trm_jax.cli.arguments import any_path
from trm_jax.errors import InputError


def add_run(parser) -> None:
    """Arguments RUN, --checkpoint and --live."""
    parser.add_argument("run_dir", metavar="RUN", type=any_path, help="workdir of a run")
    parser.add_argument(
        "--checkpoint", default="latest", metavar="latest|best|STEP", help="which one (default: latest)"
    )
    parser.add_argument("--live", action="store_true", help="the live weights instead of their moving average")


@dataclass
class Run:
    """An opened run: its config page, frozen config, mesh, parameters and their step."""

    config: Any
    cfg: Any
    trained: Any  # the config that it was trained with
    mesh: Any
    params: dict
    step: int
    weights: str  # "ema" or "live"


def open_run(args, changes: dict | None = None, *, devices=None) -> Run:
    """Load the run that `args` names. `devices` limits the mesh (default: all)."""
    import jax

    from trm_jax import sharding
    from trm_jax.configs import resolve, workdir
    from trm_jax.models import params
    from trm_jax.train.restore import load_params

    saved = workdir.load_config(args.run_dir)
    config = resolve.override(saved, changes or {})
    cfg, trained = resolve.freeze(config), resolve.freeze(saved)
    if cfg.task is trained.task and hasattr(cfg.task, "follows"):
        cfg.task.follows(trained.data, cfg.data)
    # Shapes alone: where a row begins is kept in the dtype of the run's activations, and cast to that of others.
    ours, theirs = (params.abstract(c.family.specs(c.model)) for c in (cfg, trained))
    ours, theirs = (jax.tree.map(lambda x: x.shape, tree) for tree in (ours, theirs))
    for name in getattr(cfg.family, "OWN", ()):  # comes with the data, which may be others here
        ours.pop(name, None), theirs.pop(name, None)
    if ours != theirs and cfg.embeds_ids and cfg.model.num_puzzle_ids != trained.model.num_puzzle_ids:
        there, here = trained.model.num_puzzle_ids, cfg.model.num_puzzle_ids
        said = f"{args.run_dir} has rows for {there:,} tasks, and these are {here:,}"
        raise InputError(f"{said}; train rows for the others first: docs/arc_transformer.md, Other tasks")
    if cfg.embeds_ids and cfg.task is trained.task and hasattr(cfg.task, "kept_ids"):
        if cfg.task.kept_ids(cfg.data, trained.data) < trained.model.num_puzzle_ids:
            said = f"{args.run_dir} knows its tasks by number, and --set numbers them otherwise"
            raise InputError(f"{said}; leave data.train_sets, data.exclude and the choice of tasks as they were")
    if ours != theirs:
        raise InputError(f"--set makes this another model than the one trained in {args.run_dir}; change no sizes")
    # Using a model needs no more than data parallelism, whatever mesh it was trained on.
    mesh = sharding.make_mesh(devices=devices)
    arrays, step = load_params(trained, args.run_dir.resolve(), args.checkpoint, mesh, live=args.live)
    weights = "live" if args.live or not trained.optim.ema_decay else "ema"
    return Run(config, cfg, trained, mesh, arrays, step, weights)
