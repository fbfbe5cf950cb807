"""`trm solve`: solve puzzles with a trained model.

Boards stand on a line or over several, with or without spaces and grid lines, blanks as one of . 0 _ * x, or in a CSV
file. Prints the model's board and whether it is valid and keeps the clues.
A task of ARC is a JSON file. The model first learns an embedding for it from its demonstrations, everything else
frozen: a small training run in RUN/unseen, which goes on where it was stopped.
Exit code 0 when every puzzle is solved, 1 when one is not.

examples:
  trm solve runs/demo 6.3...   (81 characters for a 9x9 model)
  trm solve runs/demo puzzles.csv --limit 100
  head -1 puzzles.txt | trm solve runs/demo - --png answer.png --gif thinking.gif
  trm solve runs/demo --example --gif thinking.gif      a held-out puzzle of the run
  trm solve runs/arc1 task.json --adapt-steps 500 --png answer.png
"""

from __future__ import annotations

import io
import os
import sys

from trm_jax.cli.arguments import add_documented, any_path, command, options_again, positive
from trm_jax.cli.runs import add_run, open_run
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path

BATCH = 64  # puzzles a model thinks about at a time
_NAMED_FAULTS = 3  # of a wrong answer


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "solve", run, __doc__)
    add_run(parser)
    parser.add_argument("puzzle", nargs="?", help="a puzzle, a file of puzzles (text or CSV), or - for standard input")
    parser.add_argument("--example", action="store_true", help="take the run's first held-out puzzle instead")
    parser.add_argument("--limit", type=positive, help="solve only the first N puzzles")
    parser.add_argument("--steps", type=positive, help="supervision steps instead of the model's halt_max_steps")
    parser.add_argument("--png", type=any_path, metavar="FILE", help="picture of the (first) board")
    parser.add_argument("--gif", type=any_path, metavar="FILE", help="the (first) answer step by step")
    unseen = parser.add_argument_group("a task of ARC")
    unseen.add_argument("--adapt", choices=("embedding", "all"), default="embedding", help="what it trains (embedding)")
    unseen.add_argument("--adapt-steps", type=positive, default=200, metavar="N", help="steps of that training (200)")
    unseen.add_argument("--augmentations", type=positive, default=100, metavar="N", help="of the task, to vote (100)")
    unseen.add_argument("--batch-size", type=positive, default=96, metavar="N", help="of that training (96)")


def run(args) -> int:
    import numpy as np
    from scipy.special import expit

    from trm_jax import compiler
    from trm_jax.tasks.pictures import require_suffix

    if bool(args.puzzle) == args.example:
        raise InputError("give one of PUZZLE, a file, - for standard input, or --example")
    pictures = {kind: path for kind, path in (("png", args.png), ("gif", args.gif)) if path}
    for kind, path in pictures.items():
        require_suffix(path, f".{kind}")
    if not args.example and learns_unseen(args.run_dir):
        from trm_jax.cli.solve_unseen import run as solve_unseen

        return solve_unseen(args)
    name, text = ("", "") if args.example else _read_text(args.puzzle)
    import jax  # late, so that what is wrong with the arguments is said at once

    compiler.use_cache()
    opened = open_run(args, devices=jax.devices()[:1])  # one is enough, and no batch is padded for several
    task, data = opened.cfg.task, opened.cfg.data
    if hasattr(opened.cfg.family, "begin"):
        raise InputError(
            f"this model answers tasks that it has a row for: {command('eval', args.run_dir)}; "
            "train rows for others first: docs/arc_transformer.md, Other tasks"
        )
    for kind in pictures:
        if not hasattr(task, kind):
            raise InputError(f"--{kind}: task {opened.config.data.task} draws no pictures")
    if args.example:
        rows = task.load_eval(data).rows(np.arange(1))
        inputs = rows["inputs"]
    else:
        try:
            inputs = task.read(data, text)[: args.limit]
        except InputError as error:
            raise InputError(f"{name} {error}") from None
        if not len(inputs):
            raise InputError(f"{name} holds no puzzle")
        blank = {name: np.zeros((len(inputs), *shape), dtype) for name, (shape, dtype) in task.batch_spec(data).items()}
        rows = {**blank, "inputs": inputs}
    answers, q_halt = think_over(opened.cfg, opened.params, rows, args.steps or 0)

    sure = expit(q_halt.astype(np.float64))  # the model's probability that the answer is right
    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    solved = 0
    for puzzle, answer, q in zip(inputs, answers[:, -1], sure[:, -1], strict=True):
        problems = task.check(data, puzzle, answer)
        solved += not problems
        if len(inputs) <= 10:
            print(task.show(data, puzzle, answer, color=color))
            verdict = "solved" if problems is not None else "answered; the puzzle does not tell whether it is right"
            if problems:
                more = f"; and {len(problems) - _NAMED_FAULTS} more" if len(problems) > _NAMED_FAULTS else ""
                verdict = f"not solved: {'; '.join(problems[:_NAMED_FAULTS])}{more}"
            print(f"{verdict}   (the model is {q:.0%} sure)")
        else:
            verdict = f"wrong: {problems[0]}" if problems else "solved" if problems is not None else "answered"
            print(f"{task.line(data, answer)} {verdict}")
    if len(inputs) > 1:
        print(f"{solved} of {len(inputs)} solved")
    if args.png:
        task.png(data, args.png, inputs[0], answers[0, -1], caption=f"{args.run_dir.name}, step {opened.step}")
        print(f"picture: {args.png}")
    if args.gif:
        at = int(np.argmax(q_halt[0] > 0)) + 1 if (q_halt[0] > 0).any() else None
        task.gif(data, args.gif, inputs[0], answers[0], sure[0], halted_at=at)
        print(f"thinking: {args.gif}")
    print(f"next: {_following(args, task.line(data, inputs[0]))}", file=sys.stderr)
    return 0 if solved == len(inputs) else 1


def _following(args, puzzle: str) -> str:
    """How the model comes to its (first) answer, or how often it is right, once that has been seen."""
    which = options_again(("--checkpoint", args.checkpoint, "latest"), ("--live", args.live, False))
    if args.gif:
        return command("eval", args.run_dir, *which)
    which += options_again(("--steps", args.steps, None))
    return command("solve", args.run_dir, "--example" if args.example else puzzle, *which, "--gif", "thinking.gif")


def _read_text(source: str) -> tuple[str, str]:
    """(where, text) of a literal puzzle, a text or CSV file, or '-'. Raises InputError for what cannot be read."""
    from trm_jax.data.text_files import open_text

    name = "standard input" if source == "-" else source
    if source != "-" and "://" not in source and not os.path.exists(source):  # Path raises for a name that is too long
        return f"{source!r} is no file, and as a puzzle:", source
    try:
        content = sys.stdin.buffer.read() if source == "-" else as_path(source).read_bytes()
        return name, open_text(io.BufferedReader(io.BytesIO(content))).read()
    except (FileNotFoundError, IsADirectoryError) as error:
        what = "is a folder" if isinstance(error, IsADirectoryError) else "does not exist"
        raise InputError(f"{source} {what}; name a file of puzzles") from None
    except (UnicodeError, EOFError, OSError) as error:
        raise InputError(f"{name} is not text in UTF-8 or UTF-16 ({error}); save it as such") from None


def think_over(cfg, params, rows: dict, steps: int):
    """Answers [N, steps, S] (tokens) and q_halt [N, steps] for a batch of N rows; steps 0: the model's own."""
    import jax
    import numpy as np

    thinker = jax.jit(lambda params, batch: cfg.family.think(params, cfg.model, batch, steps))
    count = len(rows["inputs"])
    size = min(BATCH, count)
    padded = {name: np.concatenate([x, np.repeat(x[:1], -count % size, axis=0)]) for name, x in rows.items()}
    parts = [
        thinker(params, {name: x[first : first + size] for name, x in padded.items()})
        for first in range(0, count, size)
    ]
    answers, q_halt = (np.concatenate(part, axis=1) for part in zip(*jax.device_get(parts), strict=True))
    return answers.swapaxes(0, 1)[:count], q_halt.T[:count]


def learns_unseen(run_dir: AnyPath) -> bool:
    """Whether the models of a run's task know each puzzle by an embedding, which a new one has not."""
    from trm_jax import tasks
    from trm_jax.configs import workdir

    return hasattr(tasks.get(workdir.load_config(run_dir).data.task), "unseen")
