"""`trm solve`: let a trained model solve puzzles and check its answers."""

from __future__ import annotations

import csv
import os
import sys

from trm_jax.cli.arguments import add_command, any_path, command, options_again, positive
from trm_jax.cli.runs import add_run, open_run
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path

BATCH = 64  # puzzles a model thinks about at a time


def add_parser(subparsers) -> None:
    parser = add_command(
        subparsers,
        "solve",
        "solve puzzles with a trained model",
        "Solve puzzles: each is a line of 16, 36 or 81 characters ('.' or '0' for a blank), or a row of a CSV file\n"
        "with a `question` column. Prints the model's board and whether it is valid and keeps the clues.\n"
        "Exit code 0 when every puzzle is solved, 1 when one is not.",
        "  trm solve runs/demo 6.3...   (81 characters for a 9x9 model)\n"
        "  trm solve runs/demo puzzles.csv --limit 100\n"
        "  head -1 puzzles.txt | trm solve runs/demo - --png answer.png --gif thinking.gif\n"
        "  trm solve runs/demo --example --gif thinking.gif      a held-out puzzle of the run\n",
        run,
    )
    add_run(parser)
    parser.add_argument("puzzle", nargs="?", help="a puzzle, a file of puzzles (text or CSV), or - for standard input")
    parser.add_argument("--example", action="store_true", help="take the run's first held-out puzzle instead")
    parser.add_argument("--limit", type=positive, help="solve only the first N puzzles")
    parser.add_argument("--steps", type=positive, help="supervision steps instead of the model's halt_max_steps")
    parser.add_argument("--png", type=any_path, metavar="FILE", help="picture of the (first) board")
    parser.add_argument("--gif", type=any_path, metavar="FILE", help="the (first) answer step by step")


def run(args) -> int:
    import numpy as np

    from trm_jax.tasks.sudoku.check import check_answer
    from trm_jax.tasks.sudoku.drawing import require_suffix
    from trm_jax.tasks.sudoku.render import board_png, board_text, thinking_gif

    if bool(args.puzzle) == args.example:
        raise InputError("give one of PUZZLE, a file, - for standard input, or --example")
    for picture, suffix in ((args.png, ".png"), (args.gif, ".gif")):
        if picture:
            require_suffix(picture, suffix)
    puzzles = [] if args.example else read_puzzles(args.puzzle)
    # One device is enough for puzzles by hand, and it spares the padding to a multiple of several.
    import jax

    opened = open_run(args, devices=jax.devices()[:1])
    size = opened.cfg.data.size
    if args.example:
        puzzles = [_first_held_out(opened.cfg)]
    puzzles = puzzles[: args.limit]
    for number, puzzle in enumerate(puzzles, 1):
        if len(puzzle) != size * size:
            raise InputError(
                f"puzzle {number} has {len(puzzle)} cells; {args.run_dir} was trained on {size}x{size} boards"
            )
    questions = np.stack(puzzles)
    steps = args.steps or opened.cfg.model.halt_max_steps
    answers, q_halt = think_over(opened, questions, steps)

    color = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    solved = 0
    for question, answer, q in zip(questions, answers[:, -1], q_halt[:, -1], strict=True):
        check = check_answer(question, answer, size)
        solved += check.solved
        if len(questions) <= 10:
            print(board_text(question, answer, color=color))
            verdict = "solved: valid, and every clue is kept" if check.solved else "; ".join(check.problems)
            print(f"{verdict}   (the model is {100 / (1 + np.exp(-q)):.0f}% sure)")
        else:
            line = "".join(map(str, answer)).replace("0", ".")
            print(f"{line} {'solved' if check.solved else 'wrong: ' + check.problems[0]}")
    if len(questions) > 1:
        print(f"{solved} of {len(questions)} solved")
    sure = 1 / (1 + np.exp(-q_halt[0].astype(np.float64)))
    if args.png:
        board_png(args.png, questions[0], answers[0, -1], caption=f"{args.run_dir.name}, step {opened.step}")
        print(f"picture: {args.png}")
    if args.gif:
        halted = np.flatnonzero(q_halt[0] > 0)
        at = int(halted[0]) + 1 if len(halted) else None
        thinking_gif(args.gif, questions[0], answers[0], q=sure, halted_at=at)
        print(f"thinking: {args.gif}")
    print(f"next: {_following(args, puzzles[0])}", file=sys.stderr)
    return 0 if solved == len(questions) else 1


def _following(args, puzzle) -> str:
    """How the model comes to its (first) answer, or how often it is right, once that has been seen."""
    which = options_again(("--checkpoint", args.checkpoint, "latest"), ("--live", args.live, False))
    if args.gif:
        return command("eval", args.run_dir, *which)
    same = "--example" if args.example else "".join(map(str, puzzle)).replace("0", ".")
    which += options_again(("--steps", args.steps, None))
    return command("solve", args.run_dir, same, *which, "--gif", "thinking.gif")


def read_puzzles(source: str):
    """Boards [cells] uint8 from a literal puzzle, a text or CSV file, or '-'. Raises InputError naming the line."""
    from trm_jax.tasks.sudoku.boards import parse_board

    if source == "-":
        name, content = "standard input", sys.stdin.buffer.read()
    elif os.path.isdir(source):
        raise InputError(f"{source} is a folder; name a file of puzzles")
    elif "://" in source or os.path.exists(source):  # not by Path: it raises for a name too long for a file
        name, content = source, _content(as_path(source))
    elif set(source) <= set("0123456789."):
        return [parse_board(source, "the puzzle")]
    else:
        raise InputError(f"{source!r} is neither a file nor a puzzle of digits and dots")
    lines = content.decode("utf-8-sig", errors="replace").splitlines()
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    header = _fields(numbered[0][1]) if numbered else []
    if "question" in header:
        column = header.index("question")
        rows = [(number, _fields(line)) for number, line in numbered[1:]]
        short = next((number for number, row in rows if len(row) <= column), None)
        if short:
            raise InputError(f"{name} line {short} has no question")
        numbered = [(number, row[column]) for number, row in rows]
    elif len(header) > 1:
        raise InputError(f"{name} line {numbered[0][0]}: no column question in {', '.join(header)}")
    if not numbered:
        raise InputError(f"{name} holds no puzzle")
    return [parse_board(text, f"{name} line {number}") for number, text in numbered]


def _content(path: AnyPath) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; name a file of puzzles") from None


def _fields(line: str) -> list[str]:
    """The fields of one line of a CSV file; a line that is none is one field."""
    try:
        return [field.strip() for field in next(csv.reader([line]))]
    except csv.Error:
        return [line]


def _first_held_out(cfg):
    from trm_jax.tasks.sudoku import source as sudoku

    return sudoku.load_eval(cfg.data).inputs[0].astype("uint8") - 1


def think_over(opened, questions, steps: int):
    """Answers [N, steps, cells] (digits, 0 for none) and q_halt [N, steps] for questions [N, cells]."""
    import jax
    import numpy as np

    from trm_jax.evals.runner import think

    cfg = opened.cfg.model
    thinker = jax.jit(lambda params, batch: think(params, cfg, batch, steps))
    size = min(BATCH, len(questions))
    answers, q_halt = [], []
    for start in range(0, len(questions), size):
        rows = questions[start : start + size].astype(np.int32) + 1
        padded = np.concatenate([rows, np.repeat(rows[:1], size - len(rows), axis=0)])
        batch = {"inputs": padded, "labels": np.zeros_like(padded), "puzzle_ids": np.zeros(size, np.int32)}
        a, q = jax.device_get(thinker(opened.params, batch))
        answers.append(a.swapaxes(0, 1)[: len(rows)])
        q_halt.append(q.swapaxes(0, 1)[: len(rows)])
    # Tokens: 0 padding, 1 blank, 2.. digits.
    return np.maximum(np.concatenate(answers) - 1, 0), np.concatenate(q_halt)
