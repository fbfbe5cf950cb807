"""Standard streams that are closed, that cannot show a letter, or that nobody reads any more."""

from __future__ import annotations

import errno
import io
import os
import select
import sys

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
