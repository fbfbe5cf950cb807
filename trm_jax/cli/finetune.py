"""`trm finetune`: train a language model on ARC tasks, before any of those that it is to answer.

MODEL, a Llama or Qwen folder or a .gguf file, is cut to NVARC's 16 tokens, and learns tasks in all views: an adapter of
rank R, which is written as PEFT does, or with --lora-rank 0 all weights, which are written as a model's folder. Stop it
at any time: the same command goes on.

examples:
  trm finetune models/Qwen3-0.6B --lora-rank 16 --data ARC-AGI/data/training
  trm finetune models/Qwen3-4B-Thinking-2507 --lora-rank 0 --data arc/training --output runs/nvarc --steps 12716 \
      --batch 256 --accumulate 32 --mesh fsdp=8
"""

from __future__ import annotations

import json
import sys

from trm_jax.cli.arguments import add_documented, any_path, at_least, command, local_path, positive, seed
from trm_jax.cli.lm import add_loading, add_mesh, loading, mesh, model_path, open_model
from trm_jax.errors import InputError

OUTPUT = "runs/finetune"


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "finetune", run, __doc__)
    parser.add_argument("model", type=model_path, metavar="MODEL", help="a folder, or a .gguf file")
    parser.add_argument("--data", type=any_path, required=True, metavar="SET", help="ARC tasks to learn, with answers")
    text = f"what is trained ({OUTPUT})"
    parser.add_argument("--output", type=local_path, default=OUTPUT, metavar="FOLDER", help=text)
    group = parser.add_argument_group("how it is trained")
    group.add_argument("--lora-rank", type=at_least(0), default=16, metavar="R", help="0: all weights (16)")
    group.add_argument("--lora-alpha", type=float, metavar="A", help="the adapter counts A / R times (twice R)")
    group.add_argument("--steps", type=positive, default=1000, metavar="N", help="updates (1000)")
    group.add_argument("--batch", type=positive, default=8, metavar="N", help="texts of an update (8)")
    text = "parts of an update that are learned one after another, in the memory of one (1)"
    group.add_argument("--accumulate", type=positive, default=1, metavar="N", help=text)
    add_mesh(group, "fsdp", "tensor", "data")
    group.add_argument("--lr", type=float, default=1e-4, metavar="X", help="learning rate at first (1e-4)")
    group.add_argument("--last-lr", type=float, default=1e-7, metavar="X", help="and at last (1e-7)")
    group.add_argument("--weight-decay", type=float, default=0.1, metavar="X", help="(0.1)")
    group.add_argument("--clip", type=float, default=0.5, metavar="X", help="largest norm of a gradient; 0: any (0.5)")
    group.add_argument("--limit", type=positive, default=8192, metavar="N", help="tokens of a text (8192)")
    group.add_argument("--seed", type=seed, default=0, metavar="N", help="of what is drawn (0)")
    add_loading(parser, batch=False)


def run(args) -> int:
    from trm_jax.cli.main import EXIT_NO, EXIT_STOPPED
    from trm_jax.cli.ttt import enough_memory
    from trm_jax.language.model import digest
    from trm_jax.models.lora import Lora
    from trm_jax.models.quant import LINEARS
    from trm_jax.solvers import seen
    from trm_jax.solvers.adapt import Recipe
    from trm_jax.storage.output import owned
    from trm_jax.storage.paths import write_whole
    from trm_jax.tasks.arc import files
    from trm_jax.train.finetune import Plan
    from trm_jax.train.writers import CHECKPOINTS

    rank = args.lora_rank
    lora = Lora(rank, 2.0 * rank if args.lora_alpha is None else args.lora_alpha, LINEARS) if rank else None
    how = {"lr": args.lr, "batch": args.batch, "b2": 0.98, "weight_decay": args.weight_decay, "clip": args.clip}
    plan = Plan(Recipe(lora, **how), args.steps, args.last_lr, args.limit, args.seed)
    if args.batch % args.accumulate:
        raise InputError(f"--accumulate {args.accumulate} does not divide --batch {args.batch}; give a divisor of it")
    if args.quantise and not rank:
        raise InputError("--lora-rank 0 trains the weights, which --quantise leaves no gradient; leave one out")
    if args.adapter and rank:
        said = "an adapter beside another one belongs to no model"
        raise InputError(f"--adapter: {said}; --lora-rank 0 trains the weights with it in them")
    if args.output.resolve() in [one.resolve() for one in (args.model, args.adapter) if one]:
        raise InputError(f"--output {args.output} is what is trained on; give another folder")
    tasks, on = files.read_tasks(args.data), mesh(args, rows=args.batch // args.accumulate)
    known = {"model": digest(args.model, **loading(args)), "data": files.digest(tasks)}
    with owned(args.output, lambda: None, "--output"):
        with enough_memory("give a larger --accumulate, or --mesh fsdp=N; or a smaller --limit with another --output"):
            tuned, stopped = _tune(args, plan, tasks, known, on)
        if not tuned.finite:
            print(f"error: the loss of step {len(tuned.losses)} is not finite; give a lower --lr", file=sys.stderr)
            return EXIT_NO
        if len(tuned.losses) < plan.steps:
            print(f"stopped by {stopped} and saved at step {len(tuned.losses)} of {plan.steps}")
            print("next: the same command goes on from there", file=sys.stderr)
            return EXIT_STOPPED
        _write(args, plan, tuned)
        last = tuned.losses[-max(1, plan.steps // 10) :]
        before = seen.told([one for one in (args.model, args.adapter) if one and one.is_dir()])
        trained = seen.record(args.data.name, tasks, before)
        record = {**known, "base": digest(args.model), "trained_on": trained}
        write_whole(args.output / seen.RECORD, (json.dumps({**record, "losses": tuned.losses}) + "\n").encode())
    print(f"loss {tuned.losses[0]:.4f} at first, {sum(last) / len(last):.4f} over the last {len(last)} of {plan.steps}")
    print(f"written: {args.output}; {args.output / CHECKPOINTS} is no longer needed")
    model = [args.model, "--adapter", args.output] if rank else [args.output]
    print(f"next: {command('ttt', 'nvarc', *model, '--data', 'TASKS')}", file=sys.stderr)
    return 0


def _tune(args, plan, tasks, known, on):
    """(what came of it, what stopped it)."""
    from contextlib import closing

    from trm_jax import compiler
    from trm_jax.cli.ttt import plain
    from trm_jax.solvers.nvarc.vocabulary import cut
    from trm_jax.train.finetune import finetune
    from trm_jax.train.progress import Progress
    from trm_jax.train.stopping import StopRequest

    compiler.use_cache()
    model = plain(open_model(args.model, loading(args), on))
    cfg, params = cut(model.cfg, model.params, model.words)
    with StopRequest() as stop, closing(Progress(f"finetune {model.name}", plan.steps)) as progress:

        def on_step(step: int, loss: float | None) -> None:
            if loss is None:
                progress.start(step)
            else:
                progress.step(step, f"loss {loss:.3f}")

        told = (lambda: bool(stop), on_step, progress.say)
        tuned = finetune(cfg, params, tasks, plan, args.output, known, *told, on, args.accumulate)
        return tuned, stop.name


def _write(args, plan, tuned) -> None:
    from trm_jax.language import peft
    from trm_jax.solvers.nvarc import vocabulary

    if plan.recipe.lora is None:
        vocabulary.write(args.output, tuned.cfg, tuned.trained)
    else:
        peft.write(args.output, tuned.trained["lora"], plan.recipe.lora, str(args.model))
