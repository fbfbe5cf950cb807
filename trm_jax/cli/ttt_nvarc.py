"""`trm ttt nvarc`: train an adapter for each task on its demonstrations, search for likely answers, and score them.

MODEL is cut to NVARC's 16 tokens, unless `trm finetune` has done so. Demonstrations train it turned and recoloured, all
in one text. In every view each answer likelier than --probability is found; where there is none, the likeliest is taken
and marked. What was found is scored under other views. A file is kept of each task, so the same command goes on where
it was stopped; hosts that share --workdir take a --part each.

examples:
  trm ttt nvarc models/nvarc-4B --data ARC-AGI-2/data/evaluation
  trm ttt nvarc models/Qwen3-0.6B --adapter runs/tuned --data arc/evaluation --lora-rank 32 --permutations 4
  trm ttt nvarc smollm2 --preset smollm2 --data ARC-AGI/data/training --tasks 25ff71a9 3c9b0459
  trm ttt nvarc models/nvarc-4B --data arc/evaluation --candidates runs/arc2/predictions.jsonl --middle median
"""

from __future__ import annotations

from collections.abc import Mapping

from trm_jax.cli import ttt
from trm_jax.cli.arguments import add_documented, any_path, at_least, positive
from trm_jax.errors import InputError

PRESET = "nvarc_4b"
OTHERS = 20  # candidates from elsewhere for a test input, the best ones


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "nvarc", run, __doc__)
    ttt.add_options(parser, PRESET)
    group = parser.add_argument_group("training")
    group.add_argument("--lora-rank", type=positive, metavar="R", help="of the adapter (256)")
    group.add_argument("--lora-alpha", type=float, metavar="A", help="it counts A / sqrt(R) times (32)")
    group.add_argument("--lr", type=float, metavar="X", help="learning rate at most (5e-5)")
    text = "views of each symmetry to train on, an update each; 0: no training (16)"
    group.add_argument("--permutations", type=at_least(0), metavar="N", help=text)
    text = "embedding and head are trained as copies apart, as an adapter, or not (whole)"
    group.add_argument("--embedding", choices=("whole", "lora", "frozen"), default="whole", help=text)
    text = "and of the optimiser's state (model's)"
    group.add_argument("--adapter-dtype", choices=("float32", "bfloat16"), help=text)
    group.add_argument("--limit", type=positive, metavar="N", help="tokens of a text (8192)")
    group = parser.add_argument_group("answers")
    group.add_argument("--probability", type=float, default=0.2, metavar="P", help="find what is likelier (0.2)")
    group.add_argument("--views", type=positive, metavar="N", help="of each symmetry, to search in (2)")
    group.add_argument("--scoring-views", type=positive, default=1, metavar="N", help="of each, to score in (1)")
    selectors = ("count_minus_mean_nll", "probability_product_3")
    group.add_argument("--selector", choices=selectors, default=selectors[0], help=f"({selectors[0]})")
    text = "of a candidate's costs; a bad view moves a median less (mean)"
    group.add_argument("--middle", choices=("mean", "median"), default="mean", help=text)
    group.add_argument("--budget", type=positive, metavar="N", help="prefixes of a view that are looked at (all)")
    text = f"predictions, whose {OTHERS} best candidates are scored beside what is found"
    group.add_argument("--candidates", type=any_path, metavar="FILE", help=text)
    group.add_argument("--prompts-at-once", type=positive, default=4, metavar="N", help="views at a time (4)")


def run(args) -> int:
    import dataclasses

    from trm_jax.models import decoder, params, quant
    from trm_jax.solvers.nvarc import solve, vocabulary

    chosen = ttt.options(args, "nvarc")
    made = recipe(chosen, args.embedding, args.adapter_dtype)
    if made.whole and made.lora.rank < vocabulary.SIZE:
        raise InputError(
            f"--lora-rank {made.lora.rank} is too small for a whole embedding of 16 tokens; give 16 or --embedding lora"
        )
    given = {name: getattr(args, name) for name in ("seed", "probability", "selector", "middle")}
    given |= {name: chosen[name] for name in ("permutations", "limit", "views")}
    given |= {"budget": args.budget} if args.budget else {}
    settings = solve.Settings(**given, scoring=args.scoring_views)
    others, known = _others(args)
    told = {**dataclasses.asdict(settings), **dataclasses.asdict(made), "minutes": str(args.minutes)}

    def size(cfg: decoder.Config) -> int:
        small = dataclasses.replace(cfg, vocab_size=vocabulary.SIZE)
        return quant.bytes_of(params.abstract(made.specs(small)))

    def solver(model):
        return solve.Nvarc(model, made, settings, args.prompts_at_once, others, args.tasks_at_once)

    return ttt.run(args, "nvarc", {**told, **known}, solver, size, "weight")


def recipe(chosen: Mapping, embedding: str = "whole", dtype: str | None = None):
    """The `adapt.Recipe` of options."""
    import dataclasses
    import math

    from trm_jax.models.lora import Lora
    from trm_jax.models.quant import LINEARS
    from trm_jax.solvers.nvarc.solve import RECIPE

    targets = (*LINEARS, "embed", "head") if embedding == "lora" else LINEARS
    kind = Lora(chosen["lora_rank"], chosen["lora_alpha"], targets, rslora=True)
    warmup = math.ceil(texts(chosen) / 10)  # 13 of the published run's 128 updates
    how = {"lora": kind, "lr": chosen["lr"], "whole": embedding == "whole", "warmup": warmup, "dtype": dtype}
    return dataclasses.replace(RECIPE, **how)


def texts(chosen: Mapping) -> int:
    """That an adapter reads while it is trained."""
    return 8 * chosen["permutations"]


def _others(args) -> tuple[dict, dict]:
    """(grids of --candidates for each test input, what is to be known of the file)."""
    import hashlib

    from trm_jax.tasks.arc import files
    from trm_jax.tasks.arc.predictions import asked, contaminated, ranked, read

    if not args.candidates:
        return {}, {"candidates": None}
    asked(args.candidates, files.read_tasks(args.data))
    known = {"candidates": hashlib.sha256(args.candidates.read_bytes()).hexdigest()}
    if told := contaminated(read(args.candidates)[0]):
        known["contaminated"] = f"{told} (the solver of --candidates)"
        if not args.allow_contaminated:
            said = f"--candidates {args.candidates} is by a model that was trained on {told}"
            raise InputError(f"{said}; leave it out, or --allow-contaminated, which marks the answers")
    return {key: [one.grid for one in some[:OTHERS]] for key, some in ranked([args.candidates])}, known
