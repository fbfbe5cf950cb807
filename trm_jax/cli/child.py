"""`trm` as a process of a sweep: it stops when the sweep is gone, and says by its exit code what became of it.

python -m trm_jax.cli.child CORES COMMAND...   (CORES: 0,1,... that it may run on; empty: any)
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time

GRACE_S = 60.0


def stop_with_parent() -> None:
    """Save and stop once standard input ends: its other end is open for as long as the sweep lives."""
    while os.read(0, 1024):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


def main(argv: list[str]) -> int:
    """Run the command; its exit code."""
    cores, *command = argv
    if cores and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, map(int, cores.split(",")))  # before JAX counts them
    threading.Thread(target=stop_with_parent, daemon=True).start()
    from trm_jax.cli.main import main as trm
    from trm_jax.cli.quiet import drop_stray_tracebacks, keep_libtpu_quiet

    drop_stray_tracebacks()
    keep_libtpu_quiet()
    sys.argv = ["trm", *command]
    return trm(command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
