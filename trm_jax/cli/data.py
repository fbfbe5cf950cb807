"""`trm data sudoku build|verify|stats|export|show`."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import fields

from trm_jax.cli.arguments import add_command, add_documented, any_path, check_free, command, seed, whole
from trm_jax.errors import InputError

_BAR = 40  # characters of the longest bar of a histogram


def add_parser(subparsers) -> None:
    data = subparsers.add_parser("data", help="make, check, describe and convert data sets")
    kinds = data.add_subparsers(title="kinds of data", metavar="KIND", required=True)
    sudoku = kinds.add_parser("sudoku", help="Sudoku puzzles of 4x4, 6x6 and 9x9")
    commands = sudoku.add_subparsers(title="commands", metavar="COMMAND", required=True)

    build = add_documented(commands, "build", _build, _build.__doc__)
    _add_target(build)
    build.add_argument("--source", choices=("generated", "csv", "hub"), default="generated")
    build.add_argument("--path", default="", help="source csv: the folder to read")
    build.add_argument("--test-file", default="test.csv", help="source csv or hub: the test file's name")
    build.add_argument("--hub-repo", default="sapientinc/sudoku-extreme", help="source hub: the data set")
    build.add_argument("--size", type=whole, default=9, help="4, 6 or 9 (9)")
    for flag, name, text in (("--subsample-size", "train_puzzles", "training"), ("--test", "test_puzzles", "test")):
        build.add_argument(flag, dest=name, type=whole, default=1000, help=f"{text} puzzles; 0 = all of the source")
    build.add_argument("--min-rating", type=whole, default=0, help="generator: least guesses of the solver (0)")
    build.add_argument("--max-rating", type=whole, default=-1, help="generator: most guesses; -1 = no bound")
    build.add_argument("--extra-clues", type=whole, default=0, help="generator: clues added to a minimal puzzle (0)")

    for name, run, summary, description, example in (
        ("verify", _verify, "check every row of a file or folder",
         "Check that every puzzle has one solution, its answer, and that train and test are disjoint.", "puzzles"),
        ("stats", _stats, "count puzzles, clues and ratings",
         "Print the number of puzzles and histograms of clues and ratings.", "puzzles/train.csv"),
        ("export", _export, "convert between CSV and the official arrays",
         "Read a folder of train.csv and test.csv or of the official arrays, write it in the other format.",
         "puzzles --format arrays --output-dir arrays --num-aug 1000"),
        ("show", _show, "print puzzles as boards", "Print puzzles and their solutions.",
         "puzzles/test.csv --row 3 --count 2"),
    ):  # fmt: skip
        reader = add_command(commands, name, summary, description, f"  trm data sudoku {name} {example}\n", run)
        reader.add_argument("path", type=any_path, help="a CSV file, a folder of train.csv and test.csv, or of arrays")
        if name == "export":
            _add_target(reader)
        if name == "show":
            reader.add_argument("--row", type=whole, default=1, help="the first puzzle to print, from 1 (1)")
            reader.add_argument("--count", type=whole, default=1, help="how many (1)")


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output-dir", type=any_path, required=True, help="folder to write to")
    parser.add_argument("--format", choices=("csv", "arrays"), help="what to write (csv; with --num-aug, arrays)")
    parser.add_argument("--num-aug", type=whole, default=0, help="arrays: stored variants of a training puzzle (0)")
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--seed", type=seed, default=0, help="of generator, draw and stored variants (0)")


def _telling(what: str) -> Callable[[int, int], None]:
    """A `progress(done, total)` that says how far it is: on a line of a terminal, elsewhere every ten seconds."""
    last, terminal = time.monotonic(), sys.stderr.isatty()

    def progress(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= (0.2 if terminal else 10):
            last, end = time.monotonic(), "\r" if terminal else "\n"  # what is printed next covers it
            print(f"{what}: {done / max(total, 1):4.0%}", end=end, file=sys.stderr, flush=True)

    return progress


def _splits(path) -> dict:
    """The verified boards of every split at a path."""
    from trm_jax.tasks.sudoku.files import read_splits

    return read_splits(path, progress=_telling("verifying"))


def _check_target(args) -> None:
    """What to write is told by --num-aug where --format is not given."""
    from trm_jax.tasks.sudoku.files import FILE_OF, SPLITS

    args.format = args.format or ("arrays" if args.num_aug else "csv")
    if args.num_aug < 0 or args.num_aug and args.format == "csv":
        raise InputError(f"--num-aug is {args.num_aug}: give 0 or more, and for arrays only (CSV: while training)")
    for name in SPLITS:
        check_free(args.output_dir / FILE_OF[args.format].format(name), args.force)


def _write(args, train, test) -> int:
    from trm_jax.tasks.sudoku.files import write_splits

    write_splits(args.output_dir, args.format, train, test, augmentations=args.num_aug, seed=args.seed)
    for split, boards in (("train", train), ("test", test)):
        print(f"{split}: {_described(boards)}, {boards.clues.mean():.1f} clues")
    print(f"written to {args.output_dir} ({args.format})")
    settings = [f"source={args.format}", f"path={args.output_dir}", f"size={train.size}", "train_puzzles=0",
                "test_puzzles=0", *([f"augmentations={args.num_aug}"] * (args.format == "arrays"))]  # fmt: skip
    return _next("train", "demo", "--set", *(f"data.{setting}" for setting in settings))


def _next(*words: object) -> int:
    """Say which command comes next; the exit code."""
    print(f"next: {command(*words)}", file=sys.stderr)
    return 0


def _build(args) -> int:
    """`trm data sudoku build`: make train.csv and test.csv, or the official arrays.

    Draws or generates puzzles, verifies each, checks that the splits are disjoint up to symmetry, writes.

    examples:
      trm data sudoku build --output-dir puzzles
      trm data sudoku build --output-dir small --size 6 --subsample-size 2000 --test 500
      trm data sudoku build --output-dir hard --min-rating 20 --subsample-size 200 --test 100
      trm data sudoku build --output-dir arrays --num-aug 9
    """
    from trm_jax.tasks.sudoku import SudokuConfig
    from trm_jax.tasks.sudoku.source import load_boards

    _check_target(args)
    cfg = SudokuConfig(**{f.name: getattr(args, f.name) for f in fields(SudokuConfig) if hasattr(args, f.name)})
    doing = "generating" if cfg.source == "generated" else "verifying"
    return _write(args, *load_boards(cfg, progress=_telling(doing)))


def _verify(args) -> int:
    from trm_jax.tasks.sudoku.verify import require_disjoint

    splits = _splits(args.path)
    for name, boards in splits.items():
        print(f"{name}: {_described(boards)}, each with one solution, its answer")
    if len(splits) == 2:
        require_disjoint(*splits.values())
        print("train and test share no puzzle, not even up to symmetry")
    return _next("data", "sudoku", "stats", args.path)


def _stats(args) -> int:
    import numpy as np

    for name, boards in _splits(args.path).items():
        ratings = boards.ratings
        print(f"{name}: {_described(boards)} from {boards.origin}")
        print(f"rating: mean {ratings.mean():.1f}, median {np.median(ratings):.0f}, max {ratings.max()}")
        for what, values, name_of in (("clues", boards.clues, str), ("rating", np.frexp(ratings)[1], _octave)):
            print(what)
            numbers, counts = np.unique(values, return_counts=True)
            for number, count in zip(numbers, counts, strict=True):
                print(f"{name_of(number):>12} {count:>8,} {'#' * -(-count * _BAR // counts.max())}")
        print()
    return _next("data", "sudoku", "show", args.path)


def _octave(exponent: int) -> str:
    """The whole numbers of so many bits."""
    return f"{2**exponent // 2}-{2**exponent - 1}" if exponent > 1 else str(exponent)


def _described(boards) -> str:
    return f"{len(boards):,} puzzles of {boards.size}x{boards.size}"


def _export(args) -> int:
    _check_target(args)
    splits = _splits(args.path)
    if set(splits) != {"train", "test"}:
        raise InputError(f"{args.path} holds no train and test split: name a folder that holds both")
    return _write(args, splits["train"], splits["test"])


def _show(args) -> int:
    from trm_jax.tasks.sudoku.text import board_text, format_line

    line = ""
    for name, boards in _splits(args.path).items():
        if not 1 <= args.row <= len(boards) or args.count < 1:
            raise InputError(f"{boards.origin} has puzzles 1..{len(boards)}: give --row and --count within them")
        for row in range(args.row - 1, min(args.row - 1 + args.count, len(boards))):
            question, answer = boards.questions[row], boards.answers[row]
            line = format_line(question)
            print(f"{name} {row + 1}: {boards.sources[row]}, rating {boards.ratings[row]}\n{line}\n")
            sides = (board_text(question, board, color=False).splitlines() for board in (question, answer))
            print("\n".join(f"{left}    {right}" for left, right in zip(*sides, strict=True)) + "\n")
    return _next("solve", "RUN", line)
