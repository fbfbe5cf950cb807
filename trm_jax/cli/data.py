"""`trm data sudoku build|verify|stats|export|show`."""

from __future__ import annotations

import argparse
import shlex
import sys
import time

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
        "Draw or generate puzzles, prove each, check that the splits are disjoint up to symmetry, write.",
        "  trm data sudoku build --output-dir puzzles\n"
        "  trm data sudoku build --output-dir small --size 6 --subsample-size 2000 --test 500\n"
        "  trm data sudoku build --output-dir hard --min-rating 20 --subsample-size 200 --test 100\n"
        "  trm data sudoku build --output-dir arrays --num-aug 9\n",
        _build,
    )
    build.add_argument("--output-dir", type=any_path, required=True, help="folder to write to")
    _add_source(build)
    build.add_argument("--format", choices=("csv", "arrays"), help="what to write (csv; with --num-aug, arrays)")
    build.add_argument("--num-aug", type=whole, default=0, help="arrays: stored variants of a training puzzle (0)")
    build.add_argument("--force", action="store_true", help="replace files that exist")

    verify = add_command(
        commands,
        "verify",
        "prove every row of a file or folder",
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
    _add_source(stats, only_generator=True)

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
    export.add_argument("--output-dir", type=any_path, required=True, help="folder to write to")
    export.add_argument("--format", choices=("csv", "arrays"), required=True, help="what to write")
    export.add_argument("--num-aug", type=whole, default=0, help="arrays: stored variants of a training puzzle (0)")
    export.add_argument("--seed", type=seed, default=0, help="of the stored variants (0)")
    export.add_argument("--force", action="store_true", help="replace files that exist")

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


def _add_source(parser: argparse.ArgumentParser, *, only_generator: bool = False) -> None:
    if not only_generator:
        parser.add_argument("--source", choices=("generated", "csv", "hub", "arrays"), default="generated")
        parser.add_argument("--path", default="", help="source csv or arrays: the folder to read")
        parser.add_argument("--test-file", default="test.csv", help="source csv or hub: the test file's name")
        parser.add_argument("--hub-repo", default="sapientinc/sudoku-extreme", help="source hub: the data set")
    parser.add_argument("--size", type=whole, default=9, help="4, 6 or 9 (9)")
    parser.add_argument("--subsample-size", type=whole, default=1000, help="training puzzles; 0 = all of the source")
    parser.add_argument("--test", type=whole, default=1000, help="test puzzles; 0 = all of the source")
    parser.add_argument("--min-rating", type=whole, default=0, help="generator: least guesses of the solver (0)")
    parser.add_argument("--max-rating", type=whole, default=-1, help="generator: most guesses; -1 = no bound")
    parser.add_argument("--extra-clues", type=whole, default=0, help="generator: clues added to a minimal puzzle (0)")
    parser.add_argument("--seed", type=seed, default=0, help="of the generator and of the draw (0)")


def _config(args, **fixed):
    from trm_jax.tasks.sudoku.source import SudokuConfig

    names = {"subsample_size": "train_puzzles", "test": "test_puzzles"}
    known = ("source", "path", "test_file", "hub_repo", "size", "subsample_size", "test", "min_rating",
             "max_rating", "extra_clues", "seed")  # fmt: skip
    given = {names.get(name, name): getattr(args, name) for name in known if hasattr(args, name)}
    return SudokuConfig(**given | fixed)


class _Progress:
    """A line that rewrites itself on a terminal; elsewhere a line every ten seconds."""

    def __init__(self, what: str) -> None:
        self._what, self._last, self._open = what, time.monotonic(), False

    def __call__(self, done: int, total: int) -> None:
        now = time.monotonic()
        terminal = sys.stderr.isatty()
        if now - self._last < (0.2 if terminal else 10):
            return
        self._last, self._open = now, terminal
        print(
            f"{self._what}: {done:,} of {total:,}",
            end="\r" if terminal else "\n",
            file=sys.stderr,
            flush=True,
        )

    def close(self) -> None:
        if self._open:
            print(file=sys.stderr)
            self._open = False


def _splits(path: AnyPath) -> dict:
    """The proven boards of every split at a path: a CSV file, a folder of them, or a folder of arrays."""
    from trm_jax.tasks.sudoku import files as sudoku_files

    progress = _Progress("proving")
    try:
        return sudoku_files.read_splits(path, progress=progress)
    finally:
        progress.close()


def _write(args, train, test) -> None:
    from trm_jax.tasks.sudoku import files as sudoku_files

    for path in sudoku_files.targets(args.output_dir, args.format):
        check_free(path, args.force)
    sudoku_files.write_splits(args.output_dir, args.format, train, test, augmentations=args.num_aug, seed=args.seed)
    for split, boards in (("train", train), ("test", test)):
        print(f"{split}: {_described(boards)}, {_clues(boards).mean():.1f} clues")
    print(f"written to {args.output_dir} ({args.format})")
    settings = {"data.source": args.format, "data.path": args.output_dir, "data.size": train.size,
                "data.train_puzzles": 0, "data.test_puzzles": 0}  # fmt: skip
    if args.format == "arrays":
        settings["data.augmentations"] = args.num_aug
    shown = " ".join(f"--set {key}={shlex.quote(str(value))}" for key, value in settings.items())
    print(f"next: trm train demo {shown}", file=sys.stderr)


def _build(args) -> int:
    from trm_jax.tasks.sudoku import files as sudoku_files
    from trm_jax.tasks.sudoku import source as sudoku

    args.format = args.format or ("arrays" if args.num_aug else "csv")
    for path in sudoku_files.targets(args.output_dir, args.format):
        check_free(path, args.force)
    _check_variants(args)
    cfg = _config(args)
    progress = _Progress("generating" if cfg.source == "generated" else "proving")
    try:
        train, test = sudoku.load_boards(cfg, progress=progress)
    finally:
        progress.close()
    _write(args, train, test)
    return 0


def _check_variants(args) -> None:
    if args.num_aug and args.format == "csv":
        raise InputError("--num-aug stores variants in arrays only; a CSV source is augmented while training")
    if args.num_aug < 0:
        raise InputError(f"--num-aug is {args.num_aug}: give 0 or more")


def _verify(args) -> int:
    from trm_jax.tasks.sudoku.disjoint import require_disjoint

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
        from trm_jax.tasks.sudoku import source as sudoku

        progress = _Progress("generating")
        try:
            train, test = sudoku.load_boards(_config(args, source="generated"), progress=progress)
        finally:
            progress.close()
        splits = {"train": train, "test": test}
        follow_up = "trm data sudoku build --output-dir puzzles --size " + str(args.size)
    else:
        splits = _splits(args.path)
        follow_up = f"trm data sudoku show {shlex.quote(str(args.path))}"
    for name, boards in splits.items():
        ratings = boards.ratings
        print(f"{name}: {_described(boards)} from {boards.origin}")
        middle = sorted(ratings)[len(ratings) // 2]
        print(f"rating: mean {ratings.mean():.1f}, median {middle}, max {ratings.max()}")
        print("clues\n" + _histogram(_clues(boards), [(n, n) for n in range(boards.size**2 + 1)]))
        powers = [(0, 0)] + [(2**p, 2 ** (p + 1) - 1) for p in range(31)]
        print("rating\n" + _histogram(ratings, powers) + "\n")
    print(f"next: {follow_up}", file=sys.stderr)
    return 0


def _described(boards) -> str:
    return f"{len(boards):,} puzzles of {boards.size}x{boards.size}"


def _clues(boards):
    return (boards.questions > 0).sum(axis=1)


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
    _check_variants(args)
    splits = _splits(args.path)
    if set(splits) != {"train", "test"}:
        raise InputError(f"{args.path} holds no train and test split: name a folder that holds both")
    _write(args, splits["train"], splits["test"])
    return 0


def _show(args) -> int:
    from trm_jax.tasks.sudoku.boards import format_grid, format_line

    splits = _splits(args.path)
    for name, boards in splits.items():
        if not 1 <= args.row <= len(boards) or args.count < 1:
            raise InputError(f"{boards.origin} has puzzles 1..{len(boards)}: give --row and --count within them")
        for row in range(args.row - 1, min(args.row - 1 + args.count, len(boards))):
            print(f"{name} {row + 1}: {boards.sources[row]}, rating {boards.ratings[row]}")
            print(f"{format_line(boards.questions[row])}\n")
            left = format_grid(boards.questions[row]).splitlines()
            right = format_grid(boards.answers[row]).splitlines()
            print("\n".join(f"{a}    {b}" for a, b in zip(left, right, strict=True)) + "\n")
    last = format_line(next(reversed(splits.values())).questions[args.row - 1])
    print(f"next: trm solve RUN {last}", file=sys.stderr)
    return 0
