"""`trm` as a process of another `trm`: on the cores named in TRM_CORES (0,1,...), and gone when the other is gone."""

from __future__ import annotations

import os
import signal
import threading
import time

GRACE_S = 60.0


def stop_with_parent() -> None:
    """Save and stop once standard input ends: its other end is open for as long as the other process is there."""
    while os.read(0, 1024):
        continue
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_S)
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    if cores := os.environ.get("TRM_CORES"):
        os.sched_setaffinity(0, map(int, cores.split(",")))  # before JAX counts them
    threading.Thread(target=stop_with_parent, daemon=True).start()
    from trm_jax.cli.main import entry

    entry()
