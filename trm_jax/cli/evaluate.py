"""`trm eval`: score a run on held-out puzzles.

Every puzzle thinks for exactly halt_max_steps supervision steps with the averaged weights. The figures are added to
RUN/evals.jsonl. With several --steps, or with --rollouts, it is a search: one pass, a table of every depth, breadth and
selection, and RUN/search.png (docs/search.md). With --stop-at a puzzle leaves once it is done, which takes less time;
--diagnose says what happens while a run thinks (docs/diagnostics.md).

examples:
  trm eval runs/demo
  trm eval runs/demo --checkpoint best --steps 32
  trm eval runs/demo --steps 4,8,16,32
  trm eval runs/demo --rollouts 16 --noise 0.3 --steps 16,64 --select q
  trm eval runs/demo --stop-at q --against-full
  trm eval runs/demo --diagnose
  trm eval runs/arc1 --checkpoints 400000 450000 518226      their votes added up
  trm eval runs/base --set data.source=csv data.path=puzzles data.test_file=test.csv --max-examples 1000
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import closing

from trm_jax.cli import search, thinking
from trm_jax.cli.arguments import add_documented, add_set, changes, command, positive
from trm_jax.cli.runs import add_run, open_run
from trm_jax.errors import InputError
from trm_jax.storage.paths import append_line
from trm_jax.train.writers import PREDICTIONS


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "eval", run, __doc__)
    add_run(parser)
    add_set(parser)
    parser.add_argument("--max-examples", type=int, metavar="N", help="score only the first N puzzles (0 = all)")
    parser.add_argument("--batch-size", type=positive, metavar="N", help="puzzles at a time")
    text = "supervision steps (default: halt_max_steps); several: the scores after each of them"
    parser.add_argument("--steps", type=search.depths, default=(), metavar="N[,N...]", help=text)
    said = "of a model that writes: an answer to one form of an input is the draft of those to its other forms"
    parser.add_argument("--drafts", action="store_true", help=said)
    text = "an ensemble: the votes of several checkpoints added up, for tasks whose answers are voted on"
    parser.add_argument("--checkpoints", nargs="+", metavar="STEP", help=text)
    search.add_options(parser)
    thinking.add_options(parser)


def run(args) -> int:
    from trm_jax import compiler
    from trm_jax.train.meter import Meter

    searches, watches = search.asked(args), thinking.asked(args)
    if searches and watches:
        raise InputError("a search does not go with --stop-at or --diagnose; give one of --steps and no rollouts")
    compiler.use_cache()
    meter = Meter(args.run_dir, "eval", lambda line: print(line, file=sys.stderr))
    wanted = {"eval.max_examples": args.max_examples, "eval.batch_size": args.batch_size}
    members = args.checkpoints or [args.checkpoint]
    if len(set(members)) < len(members):
        raise InputError(f"--checkpoints {' '.join(members)}: name each once")
    args.checkpoint = members[0]
    opened = open_run(args, changes(args) | {k: v for k, v in wanted.items() if v is not None})
    with closing(meter):
        return _score(args, opened, members, meter, search.score if searches else thinking.run if watches else None)


def _score(args, opened, members: list[str], meter, other: Callable | None) -> int:
    from trm_jax.evals.runner import Evaluator
    from trm_jax.train.progress import Progress, reading
    from trm_jax.train.restore import with_given

    cfg, headline = opened.cfg, opened.cfg.task.headline
    for trained, said in opened.trained.seen(cfg):
        which = args.run_dir if trained is opened.trained else f"{args.run_dir}, or what it began with,"
        raise InputError(f"{which} {said}; a score would be on what it was trained on")
    with reading() as progress:
        data = cfg.task.load_eval(cfg.data, progress=progress)
    if hasattr(data, "of_run"):
        data = data.of_run([trained.data for trained in opened.trained.lineage(cfg.task)])
    opened.params = with_given(opened.params, data, opened.mesh, "features")
    for note in getattr(data, "notes", tuple)():
        print(f"note: {note}", file=sys.stderr)
    learned, asked = (getattr(c.model, "halt_max_steps", 1) for c in (opened.trained, cfg))
    deepest = max(args.steps, default=asked)
    if hasattr(cfg.family, "LATENTS") and cfg.model.dtype == "bfloat16" and deepest > learned:
        said = f"{deepest} steps in bfloat16, and it was trained with {learned}: roundings may add up"
        print(f"note: {said}; --set model.dtype=float32 is the check", file=sys.stderr)
    if other:  # than the plain score
        return other(args, opened, data, meter)
    writes = hasattr(cfg.family, "begin") and hasattr(data, "questions")
    if args.drafts and not writes:
        raise InputError(
            f"--drafts: a {opened.config.model.family} does not write answers token by token; leave it out"
        )
    evaluator = Evaluator(cfg, data, opened.mesh, *args.steps)
    if args.checkpoints and not hasattr(cfg.task, "ballot"):
        raise InputError(f"--checkpoints: answers to {opened.config.data.task} are not voted on; give one --checkpoint")
    steps_of: list[int] = []
    for number, member in enumerate(members):
        if number:
            args.checkpoint, opened = member, None  # one model at a time in memory
            opened = open_run(args, changes(args))
            opened.params = with_given(opened.params, data, opened.mesh, "features")
        steps_of.append(opened.step)
        with closing(Progress(f"eval {args.run_dir.name}", evaluator.num_batches)) as progress:

            def on_batch(done: int, total: int, progress=progress) -> bool | None:
                meter.tick()
                return progress.step(done)

            scores = evaluator(opened.params, on_batch, more=bool(number))
            progress.step(evaluator.num_batches)
    record = {"kind": "eval", "step": opened.step, "weights": opened.weights, "eval_set": data.digest}
    record |= {"supervision_steps": evaluator.steps, **scores}
    record |= {"checkpoints": steps_of} if args.checkpoints else {}
    which = f"checkpoint{'s' * (len(steps_of) > 1)} {', '.join(map(str, steps_of))}"
    print(f"{which} of {args.run_dir}, {opened.weights} weights, {evaluator.steps} supervision steps")
    if headline in scores:
        print(f"{headline.replace('_', ' '):<17}{scores[headline]:.4f}  on {scores['count']} puzzles")
    else:
        print("no score: the answers to some puzzles are not known")
    for name, value in scores.items():
        if name not in (headline, "count") and isinstance(value, float) and not name.startswith("early_exit"):
            print(f"{name.replace('_', ' '):<17}{value:.4f}")
    if f"early_exit_{headline}" in scores:
        early, mean = scores[f"early_exit_{headline}"], f"after {scores['early_exit_steps']:.1f} steps on average"
        print(f"with early exit  {early:.4f}  {mean} (stopping at the first q_halt > 0; not the reference's way)")
    append_line(args.run_dir / "evals.jsonl", json.dumps(record))
    following = command("solve", args.run_dir, "PUZZLE", "--gif", "thinking.gif")
    if writes:
        from trm_jax.cli.answers import write_answers

        following = write_answers(args, opened, data, meter)
    elif evaluator.ballot:
        file, said = args.run_dir / PREDICTIONS, {"checkpoints": steps_of, "supervision_steps": evaluator.steps}
        evaluator.ballot.write(file, cfg.name, args.typed, said)
        print(f"predictions: {file}")
        following = command("arc", "score" if headline in scores else "submit", file, "--data", "TASKS")
        following += "" if headline in scores else " --output submission.json"
    print(f"next: {following}", file=sys.stderr)
    return 0
