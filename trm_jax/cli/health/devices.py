"""The devices that JAX finds, whether they compute rightly, and those that it overlooks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trm_jax.cli.health import Check, installed_version, pip_install
from trm_jax.cli.health.probe import Device

# float32 sums of 64 products differ by some 1e-7, approximations of tanh by some 1e-5, bfloat16 by over 1e-3.
DEVICE_TOLERANCE = 1e-4
GOOGLE_VENDOR = "0x1ae0"  # in PCI ids; of its devices TPU v2 to v7, and not its network cards
TPU_DEVICES = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}
CUDA13_DRIVER = 580  # the oldest NVIDIA driver that runs CUDA 13
# Variables that stop JAX from starting when their value is wrong for this machine.
STARTUP_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "LD_LIBRARY_PATH", "JAX_PLATFORMS")


def devices(found: Sequence[Device], failure: str, environ: Mapping[str, str]) -> Iterator[Check]:
    """The devices by kind, and whether each computes what numpy computes (NaN does not); or why there are none."""
    if failure:
        suspects = " ".join(name for name in STARTUP_VARIABLES if environ.get(name))
        remedy = pip_install("--upgrade jax jaxlib")
        yield Check("devices", "fail", failure, f"unset {suspects}   # or {remedy}" if suspects else remedy)
        return
    memory = {device: f" of {device.memory_bytes / 2**30:.1f} GiB" if device.memory_bytes else "" for device in found}
    kinds = Counter(device.kind + memory[device] for device in found)
    yield Check("devices", "ok", "; ".join(f"{count} x {kind}" for kind, count in kinds.items()))
    broken = [device for device in found if device.failure or not device.error <= DEVICE_TOLERANCE]
    for device in broken:
        detail = device.failure or f"differs from numpy by {device.error:.1e} (limit {DEVICE_TOLERANCE})"
        gpu, reinstall = device.platform == "gpu", pip_install("--force-reinstall jax jaxlib")
        yield Check(f"device {device.name}", "fail", detail, "nvidia-smi   # who uses it?" if gpu else reinstall)
    if not broken:
        yield Check("computation", "ok", "agrees with numpy on every device")


def accelerators(found: Sequence[Device], environ: Mapping[str, str], root: Path = Path("/")) -> Iterator[Check]:
    """GPUs and TPUs that the operating system shows and JAX overlooks: no plugin, JAX_PLATFORMS, or a fault."""
    used, driver = {device.platform for device in found}, nvidia_driver(root)
    platforms = set(filter(None, environ.get("JAX_PLATFORMS", "").split(",")))
    cuda = "cuda12" if driver and driver < CUDA13_DRIVER else "cuda13"
    for name, backend, here, plugins, requirement in (
        ("gpu", "cuda", nvidia_gpus(root), ("jax-cuda13-plugin", "jax-cuda12-plugin"), f"jax[{cuda}]"),
        ("tpu", "tpu", tpu_chips(root), ("libtpu",), "jax[tpu]"),
    ):
        if not here or name in used:
            continue
        status = "warn"
        if not any(map(installed_version, plugins)):
            detail, remedy = "this JAX has no plugin for it", pip_install(f"--upgrade '{requirement}'")
        elif platforms and not {name, backend} & platforms:
            detail, remedy = f"it is left out by JAX_PLATFORMS={environ['JAX_PLATFORMS']}", "unset JAX_PLATFORMS"
        else:
            detail, status = "its plugin does not find it", "fail"
            remedy = f"JAX_PLATFORMS={backend} trm doctor   # shows the error"
        yield Check(name, status, f"a {name.upper()} is here, but {detail}", remedy)
    if driver and not nvidia_gpus(root):
        remedy = "docker run --gpus all ...   # or ask for it in the job's description"
        yield Check("gpu", "warn", f"NVIDIA driver {driver} is loaded and no GPU is passed in here", remedy)


def nvidia_gpus(root: Path) -> int:
    """Device files of GPUs; /dev/dxg is that of Windows' Linux subsystem."""
    return len([*root.glob("dev/nvidia[0-9]*"), *root.glob("dev/dxg")])


def nvidia_driver(root: Path) -> int | None:
    """Major version of the loaded NVIDIA kernel module, None without one."""
    path = root / "proc/driver/nvidia/version"
    match = re.search(r"Kernel Module.*?\s(\d+)\.\d", path.read_text()) if path.is_file() else None
    return int(match[1]) if match else None


def tpu_chips(root: Path) -> int:
    """TPU chips on the PCI bus or, where that is hidden, as device files."""
    cards = [path.parent for path in root.glob("sys/bus/pci/devices/*/vendor")]
    google = [card for card in cards if (card / "vendor").read_text().strip() == GOOGLE_VENDOR]
    chips = [card for card in google if (card / "device").read_text().strip() in TPU_DEVICES]
    return len(chips) or len([*root.glob("dev/accel[0-9]*")])
