"""`trm data sudoku build|verify|stats|export|show`."""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from trm_jax.cli.arguments import add_command, any_path, check_free, seed, whole
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath

_BAR = 40  # characters of the longest bar of a histogram


def add_parser(subparsers) -> None:
    data = subparsers.add_parser("data", help="make, check, describe and convert data sets")
    kinds = data.add_subparsers(title="kinds of data", metavar="KIND", required=True)
    sudoku = kinds.add_parser("sudoku", help="Sudoku puzzles of 4x4, 6x6 and 9x9")
    commands = sudoku.add_subparsers(title="commands", metavar="COMMAND", required=True)

    build = add_command(
        commands,
        "build",
        "make train.csv and test.csv, or the official arrays",
        "Draw or generate puzzles, verify each, check that the splits are disjoint up to symmetry, write.",
        "  trm data sudoku build --output-dir puzzles\n"
        "  trm data sudoku build --output-dir small --size 6 --subsample-size 2000 --test 500\n"
        "  trm data sudoku build --output-dir hard --min-rating 20 --subsample-size 200 --test 100\n"
        "  trm data sudoku build --output-dir arrays --num-aug 9\n",
        _build,
    )
    _add_target(build)
    build.add_argument("--format", choices=("csv", "arrays"), help="what to write (csv; with --num-aug, arrays)")
    build.add_argument("--source", choices=("generated", "csv", "hub", "arrays"), default="generated")
    build.add_argument("--path", default="", help="source csv or arrays: the folder to read")
    build.add_argument("--test-file", default="test.csv", help="source csv or hub: the test file's name")
    build.add_argument("--hub-repo", default="sapientinc/sudoku-extreme", help="source hub: the data set")
    _add_draw(build)

    verify = add_command(
        commands,
        "verify",
        "check every row of a file or folder",
        "Check that every puzzle has one solution, its answer, and that train and test are disjoint.",
        "  trm data sudoku verify puzzles\n  trm data sudoku verify puzzles/test.csv\n",
        _verify,
    )
    verify.add_argument("path", type=any_path, help="a CSV file, a folder of train.csv and test.csv, or of arrays")

    stats = add_command(
        commands,
        "stats",
        "count puzzles, clues and ratings",
        "Print the number of puzzles and histograms of clues and ratings.",
        "  trm data sudoku stats puzzles/train.csv\n"
        "  trm data sudoku stats --generated --size 6 --subsample-size 500 --test 100\n",
        _stats,
    )
    stats.add_argument("path", type=any_path, nargs="?", help="a CSV file or a folder")
    stats.add_argument("--generated", action="store_true", help="describe what the generator would make")
    _add_draw(stats)

    export = add_command(
        commands,
        "export",
        "convert between CSV and the official arrays",
        "Read a folder of train.csv and test.csv or of the official arrays, write it in the other format.",
        "  trm data sudoku export puzzles --format arrays --output-dir arrays --num-aug 1000\n"
        "  trm data sudoku export arrays --format csv --output-dir puzzles\n",
        _export,
    )
    export.add_argument("path", type=any_path, help="the folder to read")
    _add_target(export)
    export.add_argument("--format", choices=("csv", "arrays"), required=True, help="what to write")
    export.add_argument("--seed", type=seed, default=0, help="of the stored variants (0)")

    show = add_command(
        commands,
        "show",
        "print puzzles as boards",
        "Print puzzles and their solutions.",
        "  trm data sudoku show puzzles/test.csv --row 3 --count 2\n",
        _show,
    )
    show.add_argument("path", type=any_path, help="a CSV file or a folder")
    show.add_argument("--row", type=whole, default=1, help="the first puzzle to print, from 1 (1)")
    show.add_argument("--count", type=whole, default=1, help="how many (1)")


def _add_target(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--output-dir", type=any_path, required=True, help="folder to write to")
    parser.add_argument("--num-aug", type=whole, default=0, help="arrays: stored variants of a training puzzle (0)")
    parser.add_argument("--force", action="store_true", help="replace files that exist")


def _add_draw(parser: argparse.ArgumentParser) -> None:
    for name, default, text in (
        ("size", 9, "4, 6 or 9 (9)"),
        ("subsample-size", 1000, "training puzzles; 0 = all of the source"),
        ("test", 1000, "test puzzles; 0 = all of the source"),
        ("min-rating", 0, "generator: least guesses of the solver (0)"),
        ("max-rating", -1, "generator: most guesses; -1 = no bound"),
        ("extra-clues", 0, "generator: clues added to a minimal puzzle (0)"),
    ):
        parser.add_argument(f"--{name}", type=whole, default=default, help=text)
    parser.add_argument("--seed", type=seed, default=0, help="of the generator and of the draw (0)")


def _config(args, **fixed):
    from dataclasses import fields

    from trm_jax.tasks.sudoku import SudokuConfig

    given = {**vars(args), "train_puzzles": args.subsample_size, "test_puzzles": args.test, **fixed}
    return SudokuConfig(**{f.name: given[f.name] for f in fields(SudokuConfig) if f.name in given})


@contextmanager
def telling(what: str) -> Iterator[Callable[[int, int], None]]:
    """A `progress(done, total)` that says how far it is: on a line of a terminal, elsewhere every ten seconds."""
    last, terminal, begun = time.monotonic(), sys.stderr.isatty(), False

    def progress(done: int, total: int) -> None:
        nonlocal last, begun
        if time.monotonic() - last >= (0.2 if terminal else 10):
            last, begun = time.monotonic(), terminal
            end = "\r" if terminal else "\n"
            print(f"{what}: {done / max(total, 1):4.0%}", end=end, file=sys.stderr, flush=True)

    try:
        yield progress
    finally:
        if begun:
            print(file=sys.stderr)


def _splits(path: AnyPath) -> dict:
    """The verified boards of every split at a path: a CSV file, a folder of them, or a folder of arrays."""
    from trm_jax.tasks.sudoku.files import read_splits

    with telling("verifying") as progress:
        return read_splits(path, progress=progress)


def _check_target(args) -> None:
    from trm_jax.tasks.sudoku.files import targets

    if args.num_aug and args.format == "csv":
        raise InputError("--num-aug stores variants in arrays only; a CSV source is augmented while training")
    if args.num_aug < 0:
        raise InputError(f"--num-aug is {args.num_aug}: give 0 or more")
    for path in targets(args.output_dir, args.format):
        check_free(path, args.force)


def _write(args, train, test) -> int:
    from trm_jax.tasks.sudoku.files import write_splits

    write_splits(args.output_dir, args.format, train, test, augmentations=args.num_aug, seed=args.seed)
    for split, boards in (("train", train), ("test", test)):
        print(f"{split}: {_described(boards)}, {boards.clues.mean():.1f} clues")
    print(f"written to {args.output_dir} ({args.format})")
    settings = {"data.source": args.format, "data.path": args.output_dir, "data.size": train.size,
                "data.train_puzzles": 0, "data.test_puzzles": 0}  # fmt: skip
    if args.format == "arrays":
        settings["data.augmentations"] = args.num_aug
    shown = " ".join(f"--set {key}={shlex.quote(str(value))}" for key, value in settings.items())
    print(f"next: trm train demo {shown}", file=sys.stderr)
    return 0


def _build(args) -> int:
    from trm_jax.tasks.sudoku.source import load_boards

    args.format = args.format or ("arrays" if args.num_aug else "csv")
    _check_target(args)
    cfg = _config(args)
    with telling("generating" if cfg.source == "generated" else "verifying") as progress:
        train, test = load_boards(cfg, progress=progress)
    return _write(args, train, test)


def _verify(args) -> int:
    from trm_jax.tasks.sudoku.verify import require_disjoint

    splits = _splits(args.path)
    for name, boards in splits.items():
        print(f"{name}: {_described(boards)}, each with one solution, its answer")
    if len(splits) == 2:
        require_disjoint(*splits.values())
        print("train and test share no puzzle, not even up to symmetry")
    print(f"next: trm data sudoku stats {shlex.quote(str(args.path))}", file=sys.stderr)
    return 0


def _stats(args) -> int:
    if args.generated == (args.path is not None):
        raise InputError("give either a path or --generated")
    if args.generated:
        from trm_jax.tasks.sudoku.source import load_boards

        with telling("generating") as progress:
            splits = dict(
                zip(("train", "test"), load_boards(_config(args, source="generated"), progress=progress), strict=True)
            )
        follow_up = f"build --output-dir puzzles --size {args.size}"
    else:
        splits = _splits(args.path)
        follow_up = f"show {shlex.quote(str(args.path))}"
    for name, boards in splits.items():
        ratings = boards.ratings
        print(f"{name}: {_described(boards)} from {boards.origin}")
        middle = sorted(ratings)[len(ratings) // 2]
        print(f"rating: mean {ratings.mean():.1f}, median {middle}, max {ratings.max()}")
        print("clues\n" + _histogram(boards.clues, [(n, n) for n in range(boards.size**2 + 1)]))
        powers = [(0, 0)] + [(2**p, 2 ** (p + 1) - 1) for p in range(31)]
        print("rating\n" + _histogram(ratings, powers) + "\n")
    print(f"next: trm data sudoku {follow_up}", file=sys.stderr)
    return 0


def _described(boards) -> str:
    return f"{len(boards):,} puzzles of {boards.size}x{boards.size}"


def _histogram(values, ranges: list[tuple[int, int]]) -> str:
    """Text bars of the ranges (both ends included) between the first and the last that hold a value."""
    counts = [int(((values >= low) & (values <= high)).sum()) for low, high in ranges]
    held = [i for i, count in enumerate(counts) if count]
    lines = []
    for (low, high), count in list(zip(ranges, counts, strict=True))[held[0] : held[-1] + 1]:
        name = f"{low}" if low == high else f"{low}-{high}"
        lines.append(f"{name:>12} {count:>8,} {'#' * -(-count * _BAR // max(counts))}")
    return "\n".join(lines)


def _export(args) -> int:
    _check_target(args)
    splits = _splits(args.path)
    if set(splits) != {"train", "test"}:
        raise InputError(f"{args.path} holds no train and test split: name a folder that holds both")
    return _write(args, splits["train"], splits["test"])


def _show(args) -> int:
    from trm_jax.tasks.sudoku.pictures import board_text
    from trm_jax.tasks.sudoku.text import format_line

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
    print(f"next: trm solve RUN {line}", file=sys.stderr)
    return 0
