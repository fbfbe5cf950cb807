"""The devices that a plan knows: memory, peak, bandwidth and price, each with its source and date.

Peaks are dense bfloat16 datasheet rates with float32 accumulation: leads, not measurements.
"""

from __future__ import annotations

import contextlib
import math
import re
from dataclasses import dataclass

from trm_jax.configs.resolve import nearest
from trm_jax.errors import InputError
from trm_jax.models import target

SOURCE = "data sheets, 2025-12-09"
PRICE_SOURCE = "the users' documents, one cloud of rented GPUs, 2025-12-09"
_OTHER = PRICE_SOURCE + "; another document says "


@dataclass(frozen=True)
class Device:
    """What a run gets to run on: `chips` alike, each one JAX device, on `hosts` machines.

    Memory, peak and bandwidth are of one chip; the price is of all of them together. Of a TPU slice: `shape` is how its
    chips are laid out, empty where that is not known; `usable_gib` what libtpu 0.0.42 lets a program have of a chip's
    memory; `link_gb_s` the rate of one link between chips in one direction.
    """

    name: str
    title: str
    memory_gb: float
    peak_tflops: float
    bandwidth_tb_s: float
    dollars_per_hour: float | None = None
    price_source: str = PRICE_SOURCE
    chips: int = 1
    hosts: int = 1
    shape: tuple[int, ...] = ()
    usable_gib: float = 0.0
    link_gb_s: float = 0.0
    link_source: str = ""

    @property
    def links(self) -> int:
        """Of the chip that has the fewest: one in each dimension of the shape, two where it closes to a ring.

        Three dimensions close when all are multiples of 4; of two each does by itself, when it is a multiple of 16.
        """
        flat = len(self.shape) == 2
        rings = [size % 16 == 0 if flat else all(one % 4 == 0 for one in self.shape) for size in self.shape]
        return sum(1 + ring for ring, size in zip(rings, self.shape, strict=True) if size > 1)

    def target(self):
        """A context: programs, and what is estimated of them, are for this device; for the one at hand where the table
        has none of the name."""
        if self.name in GPUS:
            return target.made_for("gpu", 8.0)  # Ampere or newer
        return target.made_for("tpu") if self.name.partition("-")[0] in TPUS else contextlib.nullcontext()

    @property
    def usable_bytes(self) -> int:
        """Of a TPU chip's memory, what a program may use."""
        return int(self.usable_gib * 2**30)


_GPUS = (
    Device("h200", "H200 (measured: 790 TFLOP/s in a large matmul, 4.3 TB/s in a copy)", 141, 989, 4.8),
    Device("h100", "H100 80GB", 80, 989, 3.35, 3.89, _OTHER + "8-12"),
    Device("a100", "A100 80GB", 80, 312, 2.0, 2.79, _OTHER + "2.5-3.5"),
    Device("2xa100", "2 x A100 40GB", 40, 312, 1.55, 3.58, _OTHER + "1.5-2 each", chips=2),
    Device("l40s", "L40S", 48, 362, 0.86, 1.14),
    Device("a40", "A40", 48, 150, 0.70, 0.79),
    Device("5090", "RTX 5090", 32, 210, 1.79, 0.335, "the ARC transformer's author, 2025-12-09"),
    Device("4090", "RTX 4090", 24, 165, 1.01, 0.74),
    Device("3090", "RTX 3090", 24, 71, 0.94, 0.44),
    Device("a10", "A10", 24, 125, 0.60, 0.36),
)
GPUS = {device.name: device for device in _GPUS}

_POWERS = (1, 4, 8, 16, 32, 64, 128, 256)
_V4_LINKS = "all-reduce bandwidth of a pod, 1.1 PB/s over 4,096 chips of 6 links"
_LINKS = "GB/s a chip, both directions of"
_OF_A_CHIP = ("memory_gb", "peak_tflops", "bandwidth_tb_s", "usable_gib", "link_gb_s", "link_source")
# generation: figures of a chip; then how slices are named and built: cores of a chip in the number (or 1: it counts
# chips), most chips of one machine (larger slices are machines of four), dimensions of the shape, possible numbers.
TPUS = {
    "v4": (32, 275, 1.2, 30.75, 45, _V4_LINKS, 2, 4, 3, range(8, 8193, 8)),
    "v5p": (95, 459, 2.77, 95.74, 100, f"1,200 {_LINKS} 6 links", 2, 4, 3, range(8, 12289, 8)),
    "v5e": (16, 197, 0.82, 15.75, 50, f"400 {_LINKS} 4 links", 1, 8, 2, _POWERS),
    "v6e": (32, 918, 1.64, 31.25, 100, f"800 {_LINKS} 4 links", 1, 8, 2, _POWERS),
}


def find(name: str) -> Device:
    """The device of that name; a TPU slice is GENERATION-NUMBER (v4-64 is 32 chips on 8 hosts).

    Raises InputError with the nearest names, or with the numbers that a slice may have.
    """
    name = re.sub("^v5litepod-", "v5e-", name)  # as Google's API says it
    if name in GPUS:
        return GPUS[name]
    generation, _, number = name.partition("-")
    if generation not in TPUS or not re.fullmatch("0|[1-9][0-9]*", number):
        near = nearest(name, (*GPUS, "v4-8", "v4-64", "v5p-64", "v5e-16", "v6e-16"))
        table = f"{', '.join(GPUS)} and slices of {', '.join(TPUS)} such as v4-64"
        raise InputError(f"no device {name!r} in the table.{near} It holds {table}")
    *chip, cores, one_host, dimensions, numbers = TPUS[generation]
    if int(number) not in numbers:
        first, second, third, *_, last = numbers
        sizes = f"{first}, {second}, {third}, ... {last} {'cores, two a chip' if cores == 2 else 'chips'}"
        raise InputError(f"there is no slice {name}: {generation} comes in {sizes}")
    chips = int(number) // cores
    slice_of = {"chips": chips, "hosts": 1 if chips <= one_host else chips // 4, "shape": _shape(chips, dimensions)}
    return Device(name, f"TPU {name}", **dict(zip(_OF_A_CHIP, chip, strict=True)), **slice_of)


def of_kind(kind: str) -> Device | None:
    """The device of the table that JAX calls `kind` ("NVIDIA H100 80GB HBM3"); None where it is not there."""
    words = re.split("[ -]", kind.lower())
    return next((device for name, device in GPUS.items() if name in words), None)


def find_slice(name: str) -> Device:
    """The TPU slice of that name, of known shape. Raises InputError for another device."""
    device = find(name)
    if not device.shape:
        raise InputError(f"{name} is no TPU slice of a known shape; take one such as v4-8, v4-16, v4-64, v5e-16, v6e-4")
    return device


def _shape(chips: int, dimensions: int) -> tuple[int, ...]:
    """The usual shape of a slice: 2x2x1, 2x2x2, 2x2x4, 2x4x4, ... or 1x1, 2x2, 2x4, 4x4, ...; of others none."""
    shape = [1] * dimensions if chips == 1 else [2, 2, 1][:dimensions]
    while math.prod(shape) < chips:
        last_of_the_smallest = max(i for i, size in enumerate(shape) if size == min(shape))
        shape[last_of_the_smallest] *= 2
    return tuple(shape) if math.prod(shape) == chips else ()
