"""`trm eval`: score a run on held-out puzzles.

Every puzzle thinks for exactly halt_max_steps supervision steps with the averaged weights. The figures are added to
RUN/evals.jsonl.

examples:
  trm eval runs/demo
  trm eval runs/demo --checkpoint best --steps 32
  trm eval runs/base --set data.source=csv data.path=puzzles data.test_file=test.csv --max-examples 1000
"""

from __future__ import annotations

import json
import sys
from contextlib import closing

from trm_jax.cli.arguments import add_documented, add_set, changes, command, positive
from trm_jax.cli.runs import add_run, open_run
from trm_jax.storage.paths import append_line


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "eval", run, __doc__)
    add_run(parser)
    add_set(parser)
    parser.add_argument("--max-examples", type=int, metavar="N", help="score only the first N puzzles (0 = all)")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="puzzles at a time")
    parser.add_argument("--steps", type=positive, metavar="N", help="supervision steps (default: halt_max_steps)")


def run(args) -> int:
    from trm_jax import compiler
    from trm_jax.evals.runner import Evaluator
    from trm_jax.train.progress import Progress

    compiler.use_cache()
    wanted = {"eval.max_examples": args.max_examples, "eval.batch_size": args.batch_size}
    opened = open_run(args, changes(args) | {k: v for k, v in wanted.items() if v is not None})
    cfg, headline = opened.cfg, opened.cfg.task.headline
    data = cfg.task.load_eval(cfg.data)
    evaluator = Evaluator(cfg, data, opened.mesh, args.steps or 0)
    with closing(Progress(f"eval {args.run_dir.name}", evaluator.num_batches)) as progress:
        scores = evaluator(opened.params, lambda done, total: progress.step(done))
        progress.step(evaluator.num_batches)
    steps = args.steps or getattr(cfg.model, "halt_max_steps", 1)
    record = {"kind": "eval", "step": opened.step, "weights": opened.weights, "eval_set": data.digest}
    record |= {"supervision_steps": steps, **scores}
    print(f"checkpoint {opened.step} of {args.run_dir}, {opened.weights} weights, {steps} supervision steps")
    print(f"{headline.replace('_', ' '):<17}{scores[headline]:.4f}  on {scores['count']} puzzles")
    for name, value in scores.items():
        if name not in (headline, "count") and isinstance(value, float) and not name.startswith("early_exit"):
            print(f"{name.replace('_', ' '):<17}{value:.4f}")
    if f"early_exit_{headline}" in scores:
        early, mean = scores[f"early_exit_{headline}"], f"after {scores['early_exit_steps']:.1f} steps on average"
        print(f"with early exit  {early:.4f}  {mean} (stopping at the first q_halt > 0; not the reference's way)")
    append_line(args.run_dir / "evals.jsonl", json.dumps(record))
    following = command("solve", args.run_dir, "PUZZLE", "--gif", "thinking.gif")
    if evaluator.ballot:
        file = args.run_dir / "predictions.jsonl"
        evaluator.ballot.write(file, cfg.name, command(*sys.argv[1:]))
        print(f"predictions: {file}")
        following = command("arc", "score", file, "--data", "TASKS")
    print(f"next: {following}", file=sys.stderr)
    return 0
