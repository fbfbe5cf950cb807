"""The devices that JAX finds, whether they compute rightly, and those that it overlooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from trm_jax.cli.health import Check, installed_version, pip_install
from trm_jax.cli.health.probe import Device

GOOGLE_VENDOR = "0x1ae0"  # in PCI ids; of its devices TPU v2 to v7, and not its network cards
TPU_DEVICES = {"0x0027", "0x0056", "0x005e", "0x0062", "0x0063", "0x006f", "0x0076"}
_GPU_PLUGIN = "'jax[cuda13]'   # 'jax[cuda12]' for a driver older than 580 (nvidia-smi)"
REINSTALL = pip_install("--force-reinstall jax jaxlib")
# Variables that stop JAX from starting when their value is wrong for this machine.
STARTUP_VARIABLES = ("XLA_FLAGS", "LIBTPU_INIT_ARGS", "LD_LIBRARY_PATH", "JAX_PLATFORMS")


def devices(found: Sequence[Device], failure: str, environ: Mapping[str, str]) -> Iterator[Check]:
    """The devices by kind, and those that do not compute rightly; or why there are none."""
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
