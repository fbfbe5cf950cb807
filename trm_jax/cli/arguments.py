"""Arguments that several commands share."""

from __future__ import annotations

import argparse
import inspect
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path


def add_command(subparsers, name: str, summary: str, description: str, examples: str, run) -> argparse.ArgumentParser:
    """A subcommand with a description, examples under `--help` and its `run` function."""
    raw, epilog = argparse.RawDescriptionHelpFormatter, f"examples:\n{examples}"
    parser = subparsers.add_parser(name, help=summary, description=description, epilog=epilog, formatter_class=raw)
    parser.set_defaults(run=run)
    return parser


def add_documented(subparsers, name: str, run, doc: str | None) -> argparse.ArgumentParser:
    """The same from a docstring: "`trm NAME`: SUMMARY.", the description, "examples:" and the examples."""
    first, _, examples = inspect.cleandoc(doc or "").partition("\n\nexamples:\n")
    first, _, description = first.partition("\n\n")
    summary = first.partition(": ")[2].rstrip(".")
    return add_command(subparsers, name, summary, description or summary, f"{examples}\n", run)


def add_names(parser, what: str, nargs: str = "+") -> None:
    parser.add_argument("words", nargs=nargs, metavar="NAME|GROUP|PATTERN", help=f"{what} (trm list shows names)")


def console(**how):
    """rich's console, whose reader may leave (head, less): `main` ends the command quietly then."""
    from rich.console import Console

    class Quiet(Console):
        def on_broken_pipe(self):
            raise  # the error that is being handled; rich would exit with code 1

    return Quiet(**how)


def add_set(parser) -> None:
    text = "change settings, for example --set model.L_cycles=8 optim.lr=3e-4 (trm show NAME lists them)"
    parser.add_argument("--set", metavar="SECTION.NAME=VALUE", action="append", nargs="+", default=[], help=text)


def settings(args) -> list[str]:
    """What was given with --set, as it was."""
    return [text for group in args.set for text in group]


def changes(args) -> dict[str, str]:
    """The settings given with --set."""
    from trm_jax.configs.resolve import parse_assignments

    return parse_assignments(settings(args))


def set_again(assignments: list[str]) -> list[str]:
    """The words of a command line that set these again: ['optim.lr=1'] -> ['--set', 'optim.lr=1']."""
    return ["--set", *assignments] if assignments else []


def options_again(*options: tuple[str, Any, Any]) -> list[str]:
    """The words of a command line that give options (flag, value, default) again: those that are not the default.

    A value of True stands for a flag without one.
    """
    given = [(flag, value) for flag, value, default in options if value != default]
    return [word for flag, value in given for word in ([flag] if value is True else [flag, str(value)])]


def command(*words: object) -> str:
    """A `trm` command line that can be pasted into a shell."""
    return shlex.join(["trm", *map(str, words)])


def at_least(least: int) -> Callable[[str], int]:
    """An argument that counts: a whole number of at least `least`."""

    def count(text: str) -> int:
        if not (text.isascii() and text.isdigit()) or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
        return whole(text)

    return count


positive = at_least(1)


def whole(text: str) -> int:
    """An argument that is a whole number of 64 bits, which is what compiled code takes."""
    if not abs(int(text)) < 2**63:
        raise argparse.ArgumentTypeError(f"{text} is too large")
    return int(text)


def seed(text: str) -> int:
    """An argument that is a seed."""
    from trm_jax.settings import SEEDS

    if int(text) not in SEEDS:
        raise argparse.ArgumentTypeError(f"{text} is no seed; give a whole number from 0 to {SEEDS[-1]}")
    return int(text)


def any_path(text: str) -> AnyPath:
    """An argument that names a file or folder of this machine, or in a bucket (gs://...)."""
    try:
        return as_path(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def local_path(text: str, why: str = "; give a local path and copy it there later") -> Path:
    """An argument that names a file or folder of this machine; why: what a person reads of one in a bucket."""
    path = any_path(text)
    if not isinstance(path, Path):
        raise argparse.ArgumentTypeError(f"{text} is not on this machine{why}")
    return path


def check_free(path: AnyPath, force: bool) -> None:
    """Raise InputError when `path` is a folder, or exists and was not to be replaced."""
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file")
    if path.exists() and not force:
        raise InputError(f"{path} exists; give another name or --force to replace it")
