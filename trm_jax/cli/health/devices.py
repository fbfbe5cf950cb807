"""The devices that JAX finds, whether they compute, and those that it overlooks.

An unknown XLA flag aborts a process and a TPU that waits for its neighbours blocks for ever. So `run_probe` asks JAX in
a process of its own, which is this file as a program and prints one line of JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from trm_jax.cli.health import Check, installed_version, pip_install

GOOGLE_VENDOR = "0x1ae0"  # in PCI ids; of its devices TPU v2 to v7, and not its network cards
TPU_DEVICES = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}
_GPU_PLUGIN = "'jax[cuda13]'   # 'jax[cuda12]' for a driver older than 580 (nvidia-smi)"
REINSTALL = pip_install("--force-reinstall jax jaxlib")
# Variables that stop JAX from starting when their value is wrong for this machine.
STARTUP_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "LD_LIBRARY_PATH", "JAX_PLATFORMS")


@dataclass(frozen=True)
class Device:
    """One device as JAX sees it; `failure`: why it cannot be used."""

    name: str
    platform: str
    kind: str
    memory_bytes: int | None = None
    failure: str = ""


def devices(found: Sequence[Device], failure: str, environ: Mapping[str, str]) -> Iterator[Check]:
    """The devices by kind, and those that do not compute; or why there are none."""
    if failure:
        suspects = " ".join(name for name in STARTUP_VARIABLES if environ.get(name))
        yield Check("devices", "fail", failure, f"unset {suspects}   # or {REINSTALL}" if suspects else REINSTALL)
        return
    memory = {device: f" of {device.memory_bytes / 2**30:.1f} GiB" if device.memory_bytes else "" for device in found}
    kinds = Counter(device.kind + memory[device] for device in found)
    yield Check("devices", "ok", "; ".join(f"{count} x {kind}" for kind, count in kinds.items()))
    for device in found:
        if device.failure:
            remedy = "nvidia-smi   # who uses it?" if device.platform == "gpu" else REINSTALL
            yield Check(f"device {device.name}", "fail", device.failure, remedy)


def accelerators(found: Sequence[Device], environ: Mapping[str, str], root: Path = Path("/")) -> Iterator[Check]:
    """GPUs and TPUs that the operating system shows and JAX overlooks: no plugin, JAX_PLATFORMS, or a fault."""
    used = {device.platform for device in found}
    platforms = set(filter(None, environ.get("JAX_PLATFORMS", "").split(",")))
    for name, backend, here, plugins, install in (
        ("gpu", "cuda", nvidia_gpus(root), ("jax-cuda13-plugin", "jax-cuda12-plugin"), _GPU_PLUGIN),
        ("tpu", "tpu", tpu_chips(root), ("libtpu",), "'jax[tpu]'"),
    ):
        if not here or name in used:
            continue
        status = "warn"
        if not any(map(installed_version, plugins)):
            detail, remedy = "this JAX has no plugin for it", pip_install(f"--upgrade {install}")
        elif platforms and not {name, backend} & platforms:
            detail, remedy = f"it is left out by JAX_PLATFORMS={environ['JAX_PLATFORMS']}", "unset JAX_PLATFORMS"
        else:
            detail, status = "its plugin does not find it", "fail"
            remedy = f"JAX_PLATFORMS={backend} trm doctor   # shows the error"
        yield Check(name, status, f"a {name.upper()} is here, but {detail}", remedy)


def nvidia_gpus(root: Path) -> int:
    """Device files of GPUs; /dev/dxg is that of Windows' Linux subsystem."""
    return len([*root.glob("dev/nvidia[0-9]*"), *root.glob("dev/dxg")])


def tpu_chips(root: Path) -> int:
    """TPU chips on the PCI bus or, where that is hidden, as device files."""
    cards = [path.parent for path in root.glob("sys/bus/pci/devices/*/vendor")]
    google = [card for card in cards if (card / "vendor").read_text().strip() == GOOGLE_VENDOR]
    chips = [card for card in google if (card / "device").read_text().strip() in TPU_DEVICES]
    return len(chips) or len([*root.glob("dev/accel[0-9]*")])


def run_probe(environ: Mapping[str, str], timeout_s: float = 120.0) -> tuple[tuple[Device, ...], str]:
    """(devices as JAX sees them under these environment variables, why there are none: empty when JAX starts)."""
    command = [sys.executable, "-m", "trm_jax.cli.health.devices"]
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
    """The fields of `Device` for each local device, after a small matrix product on it."""
    import jax
    import numpy as np

    def examine(device: jax.Device) -> dict:
        found = {"name": str(device), "platform": device.platform, "kind": device.device_kind}
        x = np.ones((64, 64), np.float32)
        try:
            if (np.asarray(jax.device_put(x, device) @ x) != 64).any():
                return found | {"failure": "it computes wrong numbers"}
            return found | {"memory_bytes": (device.memory_stats() or {}).get("bytes_limit")}
        except Exception as error:  # whatever a backend raises is this device's finding, not the probe's end
            return found | {"failure": f"{type(error).__name__}: {error}".splitlines()[0]}

    return [examine(device) for device in jax.local_devices()]


if __name__ == "__main__":
    print(json.dumps(probe()))
