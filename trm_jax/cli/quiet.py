"""Silence about errors that have been raised, and reported, already.

Orbax gives up a save or a restore at its first error and closes its event loop. The reads and writes that TensorStore
still has under way then find no loop to report to, and Python prints a traceback for each of them, and for each
coroutine that Orbax has abandoned.
"""

from __future__ import annotations

import logging
import sys
import warnings


def drop_stray_tracebacks() -> None:
    """From now on print no traceback of a late TensorStore callback or of a coroutine that Orbax has abandoned."""
    report = sys.unraisablehook

    def unraisablehook(ignored):
        late = ignored.object is None and str(ignored.exc_value) == "Event loop is closed"
        code = getattr(ignored.object, "cr_code", None)
        if not late and (code is None or "orbax" not in code.co_filename):
            report(ignored)

    sys.unraisablehook = unraisablehook
    # The same ones again, as asyncio and the collector of garbage see them.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
