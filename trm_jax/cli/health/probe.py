"""Asks JAX for its devices and computes on each, in a process of its own: a crash or a hang stays outside.

An unknown XLA flag aborts the process and a TPU that waits for its neighbours blocks for ever. So `run_probe` starts
this file as a program, which prints one line of JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass

# float32 sums of 64 products differ by some 1e-7, approximations of tanh by some 1e-5, bfloat16 by over 1e-3.
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Device:
    """One device as JAX sees it; `failure`: why it cannot be used, or how far it computes from what numpy does."""

    name: str
    platform: str
    kind: str
    memory_bytes: int | None = None
    failure: str = ""


def run_probe(environ: Mapping[str, str], timeout_s: float = 120.0) -> tuple[tuple[Device, ...], str]:
    """(devices as JAX sees them under these environment variables, why there are none: empty when JAX starts)."""
    # -P: the folder of the script must not come first on the path, its modules have everyday names.
    command = [sys.executable, "-P", __file__]
    try:
        done = subprocess.run(command, env=dict(environ), capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return (), f"JAX did not answer within {timeout_s:g} s (on a TPU slice ask on all its workers at once)"
    if done.returncode == 0:
        return tuple(Device(**found) for found in json.loads(done.stdout.splitlines()[-1])), ""
    complaints = [line for line in done.stderr.splitlines() if line.strip()]
    last = complaints[-1] if complaints else f"exit code {done.returncode}"
    # XLA's log lines begin with a date, a thread and a place in its source.
    return (), "JAX does not start: " + re.sub(r"^[IWEF]\d{4} .*?\] ", "", last)


def probe() -> list[dict]:
    """The fields of `Device` for each local device: a small jitted float32 computation, held against numpy."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    x = np.random.default_rng(0).standard_normal((64, 64), dtype=np.float32)
    expected = np.tanh(x @ x.T / 8).sum(axis=-1)

    @jax.jit
    def compute(x: jax.Array) -> jax.Array:
        # "highest": accelerators round float32 products to fewer bits by default.
        return jnp.tanh(jnp.matmul(x, x.T, precision="highest") / 8).sum(axis=-1)

    def examine(device: jax.Device) -> dict:
        found = {"name": str(device), "platform": device.platform, "kind": device.device_kind}
        try:
            got = np.asarray(compute(jax.device_put(x, device)))
            found["memory_bytes"] = (device.memory_stats() or {}).get("bytes_limit")
        except Exception as error:  # whatever a backend raises is this device's finding, not the probe's end
            return found | {"failure": f"{type(error).__name__}: {error}".splitlines()[0]}
        return found | {"failure": difference(got, expected)}

    return [examine(device) for device in jax.local_devices()]


def difference(got, expected) -> str:
    """What is wrong with numbers that a device computed; empty for the right ones (NaN is not)."""
    error = abs(got - expected).max() / abs(expected).max()
    return "" if error <= TOLERANCE else f"differs from numpy by {error:.1e} (limit {TOLERANCE})"


if __name__ == "__main__":
    print(json.dumps(probe()))
