"""Silence for what other libraries' threads say about an error that has been raised, and reported, already.

Orbax gives up a save or a restore at its first error and closes its event loop. Reads and writes that TensorStore has
under way then find no loop to report to, and Python prints a traceback for each.
"""

from __future__ import annotations

import sys
import threading


def drop_stray_tracebacks() -> None:
    """From now on print no traceback of a late TensorStore callback or of a coroutine that Orbax abandoned."""
    report, report_ignored = sys.excepthook, sys.unraisablehook

    def excepthook(kind, error, traceback):
        late = threading.current_thread() is not threading.main_thread() and str(error) == "Event loop is closed"
        if not late:
            report(kind, error, traceback)

    def unraisablehook(ignored):
        code = getattr(ignored.object, "cr_code", None)
        if code is None or "orbax" not in code.co_filename:
            report_ignored(ignored)

    sys.excepthook, sys.unraisablehook = excepthook, unraisablehook
