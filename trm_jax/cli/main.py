"""`trm`: the command line. One module per command; this one finds them and turns errors into lines and exit codes."""

from __future__ import annotations

import argparse
import errno
import importlib
import sys
import traceback
from contextlib import suppress

import trm_jax
from trm_jax.cli import streams
from trm_jax.cli.arguments import command
from trm_jax.errors import InputError, OutOfReach, StoppedEarly, causes, tensorstore_code
from trm_jax.storage.bucket import problem as storage_problem

# 69 and 70 are EX_UNAVAILABLE and EX_SOFTWARE of sysexits.h: Python's own code for an uncaught exception, 1, would say
# that the answer is no.
EXIT_DONE, EXIT_NO, EXIT_BAD_INPUT, EXIT_OUT_OF_REACH, EXIT_CRASHED, EXIT_STOPPED = 0, 1, 2, 69, 70, 75

COMMANDS = """
    listing plan compile train sweep report compare cost evaluate solve data arc ensemble
    lm finetune ttt refine convert bench doctor
""".split()

EPILOG = """examples:
  trm list                                       the experiments
  trm train demo --workdir runs/demo             learn Sudoku in five minutes on a laptop
  trm eval runs/demo                             score it on held-out puzzles
  trm data sudoku build --output-dir puzzles     make puzzles
  trm doctor                                     what is installed, what is missing, what to do about it

exit codes of all commands:
  0 done   1 the answer is no: training diverged, a puzzle is not solved, something is broken or does not fit
  2 bad input, a full disk, a permission that is missing: the same command again would not help
  69 a bucket does not answer: the same command resumes once it does   70 a fault of the program, with its traceback
  75 stopped and saved: the same command resumes   130 interrupted
"""

# What the operating system says when nothing is wrong with the program: (errno, what to do about it).
_REMEDIES = {
    errno.ENOSPC: "the disk is full; free some space, then run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space, then run the same command again",
    errno.EACCES: "no permission; choose a folder you may write to",
    errno.EPERM: "no permission; choose a folder you may write to",
    errno.EROFS: "the file system is read-only; choose another folder",
    errno.ENOTDIR: "a part of this path is a file; choose another folder",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
    errno.EFBIG: "a file would be larger than the limit on file sizes (ulimit -f); raise it",
}


def environment_problem(error: BaseException) -> str | None:
    """One line for an error that the machine, not the program, is to blame for; None for any other.

    It is known by the number that the operating system gave it, in an OSError or in what TensorStore makes of one.
    Texts say nothing: a TPU or a network may lack a permission as well, and that is tried again.
    """
    for cause in causes(error):
        number = cause.errno if isinstance(cause, OSError) else tensorstore_code(cause, "os_error_code")
        if number in _REMEDIES:
            where = getattr(cause, "filename", None)
            return f"{where}: {_REMEDIES[number]}" if where else _REMEDIES[number]
    return None


def report_failure(error: BaseException) -> int:
    """Print what a person needs of `error` and return the exit code."""
    if isinstance(error, StoppedEarly):
        print("stopped before the first step; the same command goes on", file=sys.stderr)
        return EXIT_STOPPED
    if isinstance(error, KeyboardInterrupt):
        print("interrupted", file=sys.stderr)
        return 130
    if isinstance(error, BrokenPipeError) and streams.reader_left():
        return EXIT_DONE  # quietly, as other tools do: head or less has seen enough
    if not isinstance(error, InputError):
        error = storage_problem(error) or error
    problem = str(error) if isinstance(error, InputError | OutOfReach) else environment_problem(error)
    with suppress(OSError):  # standard error may lie on the disk that is full
        sys.stderr.write(f"error: {problem}\n" if problem else "".join(traceback.format_exception(error)))
        sys.stderr.flush()
    if isinstance(error, OutOfReach):
        return EXIT_OUT_OF_REACH
    return EXIT_BAD_INPUT if problem else EXIT_CRASHED


class _Parser(argparse.ArgumentParser):
    def error(self, message):
        self.exit(EXIT_BAD_INPUT, f"error: {message}; see {self.prog} --help\n")


def parser() -> argparse.ArgumentParser:
    about = "Tiny recursive reasoners in JAX: train, evaluate, solve."
    raw = argparse.RawDescriptionHelpFormatter
    top = _Parser(prog="trm", description=about, epilog=EPILOG, formatter_class=raw)
    top.add_argument("--version", action="version", version=f"trm_jax {trm_jax.__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in COMMANDS:
        importlib.import_module(f"trm_jax.cli.{name}").add_parser(subparsers)
    return top


def main(argv: list[str] | None = None) -> int:
    """Run one command line; returns its exit code (see EPILOG)."""
    try:
        argv = sys.argv[1:] if argv is None else argv
        args = parser().parse_args(argv)
        args.typed = command(*argv)  # what made a file, as its header says
        code = args.run(args)
        sys.stdout.flush()
    except (Exception, KeyboardInterrupt) as error:
        code = report_failure(error)
        streams.drop_unread()
    return code


def entry() -> None:
    streams.mend()
    if sys.argv[1:2] in (["train"], ["sweep"]):
        streams.outlive_readers()
    streams.drop_stray_tracebacks()
    streams.keep_libtpu_quiet()
    sys.exit(main())
