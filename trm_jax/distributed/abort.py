"""One line and an exit code of ours where C++ ends the process.

JAX's coordination service ends a process that has lost another by abort(), in a thread of C++: Python raises nothing,
and the exit code would be 134.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def on_abort(tell: Callable[[str], tuple[int, str]], hold_stderr: bool = False) -> Iterator[None]:
    """Context in which abort() ends this process with the exit code and the error line of `tell(printed)`.

    hold_stderr: what is written to standard error, by C++ too, is kept in the meantime, given to `tell` as `printed`,
    and shown when the context ends without an abort.
    """
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as held:

        def printed() -> bytes:
            sys.stderr.flush()
            return os.pread(held.fileno(), 1 << 20, 0)

        @ctypes.CFUNCTYPE(None, ctypes.c_int)
        def handler(_):
            code = 70
            try:
                code, line = tell(printed().decode(errors="replace"))
                os.write(stderr, f"error: {line}\n".encode())
            finally:
                os._exit(code)

        libc = ctypes.CDLL(None)
        libc.signal.argtypes, libc.signal.restype = (ctypes.c_int, ctypes.c_void_p), ctypes.c_void_p
        before = libc.signal(signal.SIGABRT, ctypes.cast(handler, ctypes.c_void_p))
        if hold_stderr:
            os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            text = printed()
            os.dup2(stderr, 2)
            os.close(stderr)
            os.write(2, text)
            libc.signal(signal.SIGABRT, before)
