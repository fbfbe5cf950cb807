"""Standard streams that are closed, lack a letter or have no reader, and silence about what is no news on them."""

from __future__ import annotations

import errno
import importlib.util
import io
import logging
import os
import select
import sys
import warnings
from collections.abc import MutableMapping
from pathlib import Path

_LOST = (errno.EPIPE, errno.EIO)  # the reader of a pipe, the other side of a terminal


class _Outliving(io.FileIO):
    """A file to which writing goes on, without effect, once nobody reads it."""

    def write(self, content) -> int:
        try:
            return super().write(content)
        except OSError as error:
            if error.errno not in _LOST:
                raise
            return len(content)


def mend() -> None:
    """Let standard streams that were closed by whoever started this (as daemons do) be empty, and letters that an
    encoding lacks be question marks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, mode))
        elif mode == "w" and stream.encoding.lower() != "utf-8":
            stream.reconfigure(errors="replace")


def outlive_readers() -> None:
    """From now on a lost reader of standard output or error ends nothing: for commands that only tell of their work."""
    for name in ("stdout", "stderr"):
        old = getattr(sys, name)
        old.flush()
        binary = io.BufferedWriter(_Outliving(os.dup(old.fileno()), "w"))  # the old one closes its own
        setattr(sys, name, io.TextIOWrapper(binary, old.encoding, old.errors, line_buffering=True))


def reader_left() -> bool:
    """Whether standard output is a pipe that nobody reads any more."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def drop_unread() -> None:
    """Let what standard output cannot get rid of go nowhere; else the interpreter would complain of it at its end."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


# What libtpu, asked for a TPU where there is none, complains of not knowing.
_NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v4-8"}


def drop_stray_tracebacks() -> None:
    """From now on print no traceback of a late TensorStore callback or of a coroutine that Orbax has abandoned.

    Orbax gives up at its first error and closes its event loop. What TensorStore still has under way then finds no loop
    to report to, and Python prints a traceback for each.
    """
    report = sys.unraisablehook

    def unraisablehook(ignored):
        late = ignored.object is None and str(ignored.exc_value) == "Event loop is closed"
        code = getattr(ignored.object, "cr_code", None)
        if not late and (code is None or "orbax" not in code.co_filename):
            report(ignored)

    sys.unraisablehook = unraisablehook
    # The same ones again, as asyncio and the collector of garbage see them. Orbax (absl) and the clients of buckets log
    # each error that they raise as well, with a traceback for each thread that it passes.
    for name in ("asyncio", "absl", "gcsfs", "google.auth"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)


def keep_libtpu_quiet(environ: MutableMapping[str, str] = os.environ, root: Path = Path("/")) -> None:
    """Where libtpu is installed and no TPU is here, answer what it would complain of each time that JAX starts.

    To be called before JAX is imported. It finds no TPU either way, and other devices as before.
    """
    from trm_jax.cli.health.devices import tpu_chips

    if importlib.util.find_spec("libtpu") and not tpu_chips(root) and not any(root.glob("dev/vfio/[0-9]*")):
        for name, answer in _NO_TPU.items():
            environ.setdefault(name, answer)
