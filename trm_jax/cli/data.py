"""`trm data sudoku|maze build|verify|stats|export|show`, `trm data arc fetch|verify`."""

from __future__ import annotations

import argparse
import importlib
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import fields
from types import ModuleType

from trm_jax.cli.arguments import add_command, add_documented, any_path, check_free, command, local_path, seed, whole
from trm_jax.errors import InputError

_BAR = 40  # characters of the longest bar of a histogram


def add_parser(subparsers) -> None:
    data = subparsers.add_parser("data", help="make, check, describe and convert data sets")
    kinds = data.add_subparsers(title="kinds of data", metavar="KIND", required=True)
    for kind, help_, make, flags in (
        ("sudoku", "Sudoku puzzles of 4x4, 6x6, 9x9 and 16x16", _build_sudoku, _add_sudoku_flags),
        ("maze", "mazes with a start, a goal and a shortest path", _build_maze, _add_maze_flags),
    ):
        parser = kinds.add_parser(kind, help=help_)
        commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
        build = add_documented(commands, "build", make, make.__doc__)
        _add_target(build, kind)
        build.add_argument("--path", default="", help="source csv: the folder to read")
        build.add_argument("--test-file", default="test.csv", help="source csv or hub: the test file's name")
        for flag, name, text in (("--subsample-size", "train_puzzles", "training"), ("--test", "test_puzzles", "test")):
            build.add_argument(flag, dest=name, type=whole, default=1000, help=f"{text} puzzles; 0 = all of the source")
        flags(build)
        _add_readers(commands, kind)
    commands = kinds.add_parser("arc", help="tasks of ARC-AGI").add_subparsers(
        title="commands", metavar="COMMAND", required=True
    )
    get = add_documented(commands, "fetch", _fetch_arc, _fetch_arc.__doc__)
    get.add_argument("folder", type=local_path, help="where they are put, a folder each")
    get.add_argument("--sets", nargs="+", metavar="NAME", help="(all)")
    verify = add_documented(commands, "verify", _verify_arc, _verify_arc.__doc__)
    verify.add_argument("tested", type=any_path, help="the set whose test pairs are held out")
    verify.add_argument("trained", type=any_path, nargs="*", help="sets that are trained on besides")


def _add_sudoku_flags(build: argparse.ArgumentParser) -> None:
    build.add_argument("--source", choices=("generated", "csv", "hub"), default="generated")
    build.add_argument("--hub-repo", default="sapientinc/sudoku-extreme", help="source hub: the data set")
    build.add_argument("--size", type=whole, default=9, help="4, 6, 9 or 16 (9)")
    build.add_argument("--min-rating", type=whole, default=0, help="generator: least guesses of the solver (0)")
    build.add_argument("--max-rating", type=whole, default=-1, help="generator: most guesses; -1 = no bound")
    build.add_argument("--extra-clues", type=whole, default=0, help="generator: clues added to a minimal puzzle (0)")


def _add_maze_flags(build: argparse.ArgumentParser) -> None:
    build.add_argument("--source", choices=("generated", "perfect", "csv", "hub"), default="generated")
    build.add_argument("--hub-repo", default="sapientinc/maze-30x30-hard-1k", help="source hub: the data set")
    build.add_argument("--height", type=whole, default=30, help="rows of cells (30)")
    build.add_argument("--width", type=whole, default=30, help="columns of cells (30)")
    build.add_argument("--min-moves", type=whole, default=109, help="generators: least moves of a shortest path (109)")
    build.add_argument("--max-moves", type=whole, default=140, help="source perfect: most moves (140)")


def _add_readers(commands, kind: str) -> None:
    for name, run, summary, description, example in (
        ("verify", _verify, "check every row of a file or folder",
         "Check every puzzle and its answer, and that train and test are disjoint.", "puzzles"),
        ("stats", _stats, "count puzzles, with histograms", "Print the number of puzzles and histograms.",
         "puzzles/train.csv"),
        ("export", _export, "convert between CSV and the official arrays",
         "Read a folder of train.csv and test.csv or of the official arrays, write it in the other format.",
         "puzzles --format arrays --output-dir arrays" + " --num-aug 1000" * (kind == "sudoku")),
        ("show", _show, "print puzzles", "Print puzzles and their solutions.", "puzzles/test.csv --row 3 --count 2"),
    ):  # fmt: skip
        reader = add_command(commands, name, summary, description, f"  trm data {kind} {name} {example}\n", run)
        reader.set_defaults(kind=kind)
        reader.add_argument("path", type=any_path, help="a CSV file, a folder of train.csv and test.csv, or of arrays")
        if kind == "maze":
            reader.add_argument("--height", type=whole, default=0, help="rows of cells (default: square mazes)")
            reader.add_argument("--width", type=whole, default=0, help="columns of cells")
        if name == "export":
            _add_target(reader, kind)
        if name == "show":
            reader.add_argument("--row", type=whole, default=1, help="the first puzzle to print, from 1 (1)")
            reader.add_argument("--count", type=whole, default=1, help="how many (1)")


def _of(kind: str) -> ModuleType:
    """The files of a kind: how they are read, described, shown and written."""
    return importlib.import_module(f"trm_jax.tasks.{kind}.files")


def _add_target(parser: argparse.ArgumentParser, kind: str) -> None:
    parser.add_argument("--output-dir", type=any_path, required=True, help="folder to write to")
    parser.add_argument("--format", choices=("csv", "arrays"), help="what to write (csv; with --num-aug, arrays)")
    parser.set_defaults(num_aug=0)
    if kind == "sudoku":  # mazes are augmented while training
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


def _splits(args) -> dict:
    """The verified puzzles of every split at a path."""
    how = {"shape": (args.height, args.width)} if getattr(args, "height", 0) and args.width else {}
    return _of(args.kind).read_splits(args.path, progress=_telling("verifying"), **how)


def _check_target(args) -> None:
    """What to write is told by --num-aug where --format is not given."""
    from trm_jax.tasks.files import FILE_OF, SPLITS

    args.format = args.format or ("arrays" if args.num_aug else "csv")
    if args.num_aug < 0:
        raise InputError(f"--num-aug is {args.num_aug}: give 0 or more")
    if args.num_aug and args.format == "csv":
        raise InputError(
            f"--num-aug is {args.num_aug}: for arrays only; puzzles of CSV files are augmented while training"
        )
    for name in SPLITS:
        check_free(args.output_dir / FILE_OF[args.format].format(name), args.force)


def _write(args, train, test) -> int:
    kind = _of(args.kind)
    how = {"augmentations": args.num_aug, "seed": args.seed} if args.num_aug else {}
    kind.write_splits(args.output_dir, args.format, train, test, **how)
    for split, puzzles in (("train", train), ("test", test)):
        print(f"{split}: {kind.described(puzzles)}")
    print(f"written to {args.output_dir} ({args.format})")
    settings = [f"source={args.format}", f"path={args.output_dir}", *kind.settings(train)]
    settings += ["train_puzzles=0", "test_puzzles=0"]
    if args.format == "arrays" and args.kind == "sudoku":
        settings.append(f"augmentations={args.num_aug}")
    names = {"sudoku": "demo", "maze": "maze_small"}
    return _next("train", names[args.kind], "--set", *(f"data.{setting}" for setting in settings))


def _next(*words: object) -> int:
    """Say which command comes next; the exit code."""
    print(f"next: {command(*words)}", file=sys.stderr)
    return 0


def _build_sudoku(args) -> int:
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

    args.kind = "sudoku"
    return _build(args, SudokuConfig, load_boards)


def _build_maze(args) -> int:
    """`trm data maze build`: make train.csv and test.csv, or the official arrays.

    Draws or generates mazes, verifies each, checks that the splits are disjoint up to symmetry, writes. Generated ones
    are as those of Maze-Hard; perfect ones have a single path between any two cells.

    examples:
      trm data maze build --output-dir mazes
      trm data maze build --output-dir small --height 10 --width 10 --min-moves 12 --subsample-size 2000
      trm data maze build --output-dir unique --source perfect --min-moves 100
    """
    from trm_jax.tasks.maze import MazeConfig
    from trm_jax.tasks.maze.source import load_mazes

    args.kind = "maze"
    return _build(args, MazeConfig, load_mazes)


def _build(args, config: type, load: Callable) -> int:
    _check_target(args)
    cfg = config(**{f.name: getattr(args, f.name) for f in fields(config) if hasattr(args, f.name)})
    doing = "generating" if cfg.source in ("generated", "perfect") else "verifying"
    return _write(args, *load(cfg, progress=_telling(doing)))


def _verify(args) -> int:
    kind, splits = _of(args.kind), _splits(args)
    for name, puzzles in splits.items():
        print(f"{name}: {kind.described(puzzles)}, {kind.VERIFIED}")
    if len(splits) == 2:
        kind.require_disjoint(*splits.values())
        print("train and test share no puzzle, not even up to symmetry")
    return _next("data", args.kind, "stats", args.path)


def _fetch_arc(args) -> int:
    """`trm data arc fetch`: get the public sets from the repositories of their authors.

    training and evaluation are ARC-AGI-1, training2 and evaluation2 ARC-AGI-2, concept is ConceptARC. What comes is
    held against known digests; what is there stays.

    examples:
      trm data arc fetch arc
      trm data arc fetch arc --sets training evaluation
    """
    from trm_jax.tasks.arc.fetch import PUBLIC, fetch

    for name in args.sets or PUBLIC:
        print(fetch(name, args.folder) or f"{args.folder / name} is there")
    return _next("train", "arc_small", "--set", f"data.path={args.folder}")


def _verify_arc(args) -> int:
    """`trm data arc verify`: check tasks, and whether test pairs stand among the pairs that are trained on.

    Every file is read and checked. A test pair that equals a training pair, up to a symmetry and another colouring, is
    named, and so is a task that has demonstrations of another; one that stands in both sets under one id makes the exit
    code 1.

    examples:
      trm data arc verify arc/evaluation
      trm data arc verify arc/evaluation arc/training arc/concept
    """
    from trm_jax.tasks.arc.files import digest, read_tasks
    from trm_jax.tasks.arc.verify import overlaps

    tested, trained = read_tasks(args.tested), [read_tasks(path) for path in args.trained]
    for path, tasks in zip([args.tested, *args.trained], [tested, *trained], strict=True):
        pairs = sum(len(task.test) for task in tasks.values())
        print(f"{path}: {len(tasks)} tasks, {pairs} test pairs, sha256 {digest(tasks)}")
    twice = sorted(name for tasks in trained for name in tasks.keys() & tested.keys())
    for name in twice:
        print(f"task {name} is tested and trained on: a score on it means nothing")
    found = list(overlaps(tested, trained))
    for one in found:
        how = "is" if one.exact else "is, turned or recoloured,"
        print(f"task {one.task} test {one.test} {how} {one.side} {one.pair} of task {one.other}")
    print(f"{len({(one.task, one.test) for one in found})} test pairs stand among the training pairs")
    shared = Counter((one.task, one.other) for one in overlaps(tested, trained, of="train") if one.task not in twice)
    for (task, other), count in shared.items():
        print(f"task {task} shares {count} demonstration{'s' * (count > 1)} with task {other}: the same one, renamed?")
    return int(bool(twice))


def _stats(args) -> int:
    import numpy as np

    kind = _of(args.kind)
    for name, puzzles in _splits(args).items():
        print(f"{name}: {kind.described(puzzles)} from {puzzles.origin}")
        for what, values, name_of in kind.histograms(puzzles):
            print(what)
            numbers, counts = np.unique(values, return_counts=True)
            for number, count in zip(numbers, counts, strict=True):
                print(f"{name_of(number):>12} {count:>8,} {'#' * -(-count * _BAR // counts.max())}")
        print()
    return _next("data", args.kind, "show", args.path)


def _export(args) -> int:
    _check_target(args)
    splits = _splits(args)
    if set(splits) != {"train", "test"}:
        raise InputError(f"{args.path} holds no train and test split: name a folder that holds both")
    return _write(args, splits["train"], splits["test"])


def _show(args) -> int:
    kind, line = _of(args.kind), ""
    for name, puzzles in _splits(args).items():
        if not 1 <= args.row <= len(puzzles) or args.count < 1:
            raise InputError(f"{puzzles.origin} has puzzles 1..{len(puzzles)}: give --row and --count within them")
        for row in range(args.row - 1, min(args.row - 1 + args.count, len(puzzles))):
            about, line, sides = kind.shown(puzzles, row)
            print(f"{name} {row + 1}: {about}\n{line}\n")
            print("\n".join(f"{left}    {right}" for left, right in zip(*sides, strict=True)) + "\n")
    return _next("solve", "RUN", line)
