"""Silence about what is no news: errors that have been reported already, and a TPU that is not here.

Orbax gives up a save or a restore at its first error and closes its event loop. The reads and writes that TensorStore
still has under way then find no loop to report to, and Python prints a traceback for each of them, and for each
coroutine that Orbax has abandoned.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import MutableMapping
from pathlib import Path

# What libtpu, asked for a TPU where there is none, complains of not knowing.
_NO_TPU = {"TPU_SKIP_MDS_QUERY": "1", "TPU_WORKER_HOSTNAMES": "localhost", "TPU_ACCELERATOR_TYPE": "v4-8"}


def drop_stray_tracebacks() -> None:
    """From now on print no traceback of a late TensorStore callback or of a coroutine that Orbax has abandoned."""
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
