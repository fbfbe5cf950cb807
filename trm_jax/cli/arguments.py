"""Arguments that several commands share."""

from __future__ import annotations

import argparse

from trm_jax.errors import InputError


def add_command(subparsers, name: str, summary: str, description: str, examples: str, run) -> argparse.ArgumentParser:
    """A subcommand with a description, examples under `--help` and its `run` function."""
    parser = subparsers.add_parser(
        name,
        help=summary,
        description=description,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def add_set(parser) -> None:
    parser.add_argument(
        "--set",
        metavar="SECTION.NAME=VALUE",
        action="append",
        nargs="+",
        default=[],
        help="change settings, for example --set model.L_cycles=8 optim.lr=3e-4 (trm show NAME lists them)",
    )


def changes(args) -> dict[str, str]:
    """The settings given with --set."""
    from trm_jax.configs.resolve import parse_assignments

    return parse_assignments([text for group in args.set for text in group])


def positive(text: str) -> int:
    """An argument that counts: a whole number of at least 1."""
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least 1")
    return int(text)


def check_free(path, force: bool) -> None:
    """Raise InputError when `path` exists and was not to be replaced."""
    if path.exists() and not force:
        raise InputError(f"{path} exists; give another name or --force to replace it")
