"""The devices that JAX finds, whether they compute rightly, and those that it overlooks."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from trm_jax.cli.health.check import Check, Subject, gib, installed_version, pip_install
from trm_jax.cli.health.probe import Device, run_probe

# float32 sums of 64 products differ by some 1e-7, approximations of tanh by some 1e-5, bfloat16 by over 1e-3.
DEVICE_TOLERANCE = 1e-4
# PCI ids of TPU v2 to v7 under Google's vendor id, whose network cards must not count.
GOOGLE_VENDOR = "0x1ae0"
TPU_DEVICES = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}
CUDA13_DRIVER = 580  # the oldest NVIDIA driver that runs CUDA 13
# Variables that stop JAX from starting when their value is wrong for this machine.
STARTUP_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "LD_LIBRARY_PATH", "JAX_PLATFORMS")


def devices(subject: Subject) -> Iterator[Check]:
    """The devices by kind, and whether each computes what numpy computes."""
    if subject.probe.failure:
        yield _failed_start(subject)
    else:
        kinds = Counter((device.platform, device.kind, device.memory_bytes) for device in subject.probe.devices)
        yield Check("devices", "ok", "; ".join(_describe(*kind, count) for kind, count in kinds.items()))
        yield from judge(subject.probe.devices)


def _describe(platform: str, kind: str, memory_bytes: int | None, count: int) -> str:
    name = platform if kind == platform else f"{platform} {kind}"
    return f"{count} x {name}" + (f", {gib(memory_bytes)} each" if memory_bytes else "")


def judge(devices: Sequence[Device]) -> Iterator[Check]:
    """A row for each device that fails to compute or computes wrongly (NaN included), else one for all."""
    broken = [device for device in devices if device.failure or not device.error <= DEVICE_TOLERANCE]
    for device in broken:
        detail = device.failure or f"differs from numpy by {device.error:.1e} (limit {DEVICE_TOLERANCE})"
        reinstall = pip_install("--upgrade --force-reinstall jax jaxlib")
        remedy = "nvidia-smi   # who uses it?" if device.platform == "gpu" else reinstall
        yield Check(f"device {device.name}", "fail", detail, remedy)
    if not broken:
        worst = max(device.error for device in devices)
        yield Check("computation", "ok", f"agrees with numpy on every device (difference {worst:.1e})")


def _failed_start(subject: Subject) -> Check:
    """Finds the environment variables without which JAX would start, if they are the reason."""
    failure = subject.probe.failure
    if subject.probe.timed_out:
        remedy = "trm doctor --device-timeout 600   # on a TPU slice: on all its workers at once"
        return Check("devices", "fail", failure, remedy)
    timeout_s = subject.device_timeout_s
    suspects = {name: subject.environ[name] for name in STARTUP_VARIABLES if subject.environ.get(name)}
    others = {name: value for name, value in subject.environ.items() if name not in suspects}
    if suspects and not run_probe(others, timeout_s).failure:
        alone = [name for name in suspects if run_probe({**others, name: suspects[name]}, timeout_s).failure]
        guilty = alone or list(suspects)
        settings = " ".join(f"{name}={suspects[name]}" for name in guilty)
        detail = f"JAX does not start with {settings}: {failure}"
        return Check("devices", "fail", detail, f"unset {' '.join(guilty)}")
    return Check("devices", "fail", f"JAX does not start: {failure}", pip_install("--upgrade jax jaxlib"))


def accelerators(subject: Subject) -> Iterator[Check]:
    """GPUs and TPUs that the operating system shows, held against those that JAX found."""
    found = {device.platform for device in subject.probe.devices}
    platforms = subject.environ.get("JAX_PLATFORMS", "")
    driver = nvidia_driver(subject.root)
    if nvidia_gpus(subject.root):
        cuda = "cuda12" if driver and driver < CUDA13_DRIVER else "cuda13"
        named = f"NVIDIA GPU (driver {driver or 'unknown'})"
        plugin = installed_version("jax-cuda13-plugin") or installed_version("jax-cuda12-plugin")
        yield overlooked("gpu", named, "gpu" in found, bool(plugin), platforms, f"--upgrade 'jax[{cuda}]'")
    elif driver:
        remedy = "docker run --gpus all ...   # or ask for it in the job's description"
        yield Check("gpu", "warn", f"NVIDIA driver {driver} is loaded and no GPU is passed in here", remedy)
    if tpu_chips(subject.root):
        plugin = installed_version("libtpu")
        yield overlooked("tpu", "TPU", "tpu" in found, bool(plugin), platforms, "--upgrade 'jax[tpu]'")


def overlooked(name: str, hardware: str, used: bool, plugin: bool, platforms: str, requirement: str) -> Check:
    """Why JAX does not use this hardware: no plugin, `platforms` (JAX_PLATFORMS) without it, or a fault."""
    backend = {"gpu": "cuda"}.get(name, name)
    if used:
        return Check(name, "ok", f"{hardware} is in use by JAX")
    if not plugin:
        return Check(name, "warn", f"{hardware} is here, but this JAX has no plugin for it", pip_install(requirement))
    if platforms and not {name, backend} & set(platforms.split(",")):
        return Check(name, "warn", f"{hardware} is left out by JAX_PLATFORMS={platforms}", "unset JAX_PLATFORMS")
    detail = f"{hardware} is here and its plugin installed, yet JAX does not find it"
    return Check(name, "fail", detail, f"JAX_PLATFORMS={backend} trm doctor   # shows the error")


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
