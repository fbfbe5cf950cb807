"""`trm ttt marc`: train an adapter for each task on puzzles made of its demonstrations, ask in many ways, and vote.

Puzzles leave one demonstration out, turned, tiled and recoloured, at most 250 a task. Every answer is greedy. A file is
kept of each task, so the same command goes on where it was stopped; hosts that share --workdir take a --part each.
Presets: marc_8b, the published run; marc_as_run, as its code did it, which trained the head too; smollm2, for a laptop.

examples:
  trm ttt marc models/Llama-3.2-1B-Instruct --data ARC-AGI/data/evaluation
  trm ttt marc models/marc-8B --data arc/evaluation --quantise int8 --tasks-at-once 4 --prompt-file its.txt
  trm ttt marc smollm2 --preset smollm2 --data ARC-AGI/data/training --tasks 25ff71a9 3c9b0459
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from trm_jax.cli import ttt
from trm_jax.cli.arguments import add_documented, at_least, positive
from trm_jax.errors import InputError

PRESET = "marc_8b"


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "marc", run, __doc__)
    ttt.add_options(parser, PRESET)
    group = parser.add_argument_group("training and prompts")
    group.add_argument("--lora-rank", type=positive, metavar="R", help="of the adapter (128)")
    group.add_argument("--lora-alpha", type=float, metavar="A", help="it counts A / R times (16)")
    group.add_argument("--lr", type=float, metavar="X", help="learning rate at most (5e-5)")
    group.add_argument("--epochs", type=positive, metavar="N", help="(2)")
    group.add_argument("--batch", type=positive, metavar="N", help="puzzles of an update (2)")
    group.add_argument(
        "--adapter-dtype", choices=("float32", "bfloat16"), help="and of the optimiser's state (model's)"
    )
    group.add_argument(
        "--puzzles",
        type=at_least(0),
        default=250,
        metavar="N",
        help="that train an adapter, at most; 0: no training (250)",
    )
    losses = ("after_first", "last", "all")
    group.add_argument("--loss", choices=losses, default="after_first", help="outputs that are learned (after_first)")
    group.add_argument("--limit", type=positive, metavar="N", help="tokens of a text (8192)")
    group.add_argument(
        "--prompt-file", type=Path, metavar="FILE", help="the instruction that the model was trained with"
    )
    group.add_argument(
        "--prompts-at-once", type=positive, default=8, metavar="N", help="prompts answered at a time (8)"
    )


def run(args) -> int:
    import dataclasses

    from trm_jax.models import decoder, params, quant
    from trm_jax.solvers.marc import solve

    chosen = ttt.options(args, "marc")
    made = recipe(chosen, args.adapter_dtype)
    given = {"seed": args.seed, "most": chosen["puzzles"], "longest": chosen["limit"], "loss": args.loss}
    if args.prompt_file:
        given["instruction"] = _instruction(args.prompt_file)
    settings = solve.Settings(**given)
    told = {**dataclasses.asdict(settings), **dataclasses.asdict(made), "minutes": str(args.minutes)}

    def size(cfg: decoder.Config) -> int:
        return quant.bytes_of(params.abstract(made.specs(cfg)))

    def solver(model) -> solve.Marc:
        return solve.Marc(model, made, settings, args.prompts_at_once, args.tasks_at_once)

    return ttt.run(args, "marc", told, solver, size)


def recipe(chosen: Mapping, dtype: str | None = None):
    """The `adapt.Recipe` of options."""
    from trm_jax.models.lora import Lora
    from trm_jax.solvers.adapt import Recipe

    kind = Lora(chosen["lora_rank"], chosen["lora_alpha"], tuple(chosen["targets"]))
    return Recipe(kind, **{name: chosen[name] for name in ("lr", "epochs", "batch")}, dtype=dtype)


def texts(chosen: Mapping) -> int:
    """That an adapter reads while it is trained, at most."""
    return chosen["puzzles"] * chosen["epochs"]


def _instruction(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"--prompt-file {path} cannot be read: {error}") from None
    if not text:
        raise InputError(f"--prompt-file {path} is empty; write the instruction of the system's message there")
    return text
