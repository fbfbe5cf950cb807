"""The devices that a plan knows: memory, peak, bandwidth and price, each with its source and date.

Peaks are dense bfloat16 datasheet rates with float32 accumulation: leads, not measurements.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from trm_jax.configs.resolve import nearest
from trm_jax.errors import InputError

SOURCE, DATE = "data sheets", "2025-12-09"
PRICE_SOURCE, PRICE_DATE = "the users' documents, one cloud of rented GPUs", "2025-12-09"


@dataclass(frozen=True)
class Device:
    """What a run gets to run on: `chips` alike, each one JAX device, on `hosts` machines.

    Memory, peak and bandwidth are of one chip; the price is of all of them together.
    """

    name: str
    title: str
    memory_gb: float
    peak_tflops: float
    bandwidth_tb_s: float
    dollars_per_hour: float | None = None
    chips: int = 1
    hosts: int = 1
    other_price: str = ""  # what a second document says, in dollars an hour
    measured: str = ""
    source: str = SOURCE
    date: str = DATE
    price_source: str = PRICE_SOURCE
    price_date: str = PRICE_DATE


@dataclass(frozen=True)
class TpuGeneration:
    """A TPU chip, and the numbers that name its slices: cores for v4 and v5p (two a chip), chips for the others.

    A slice of up to `one_host_chips` is one machine; larger ones are machines of four chips.
    """

    memory_gb: float
    peak_tflops: float
    bandwidth_tb_s: float
    cores_in_name: int  # of a chip
    one_host_chips: int
    numbers: range | tuple[int, ...]


GPUS = {
    device.name: device
    for device in (
        Device("h200", "H200", 141, 989, 4.8, measured="790 TFLOP/s in a large matmul, 4.3 TB/s in a copy"),
        Device("h100", "H100 80GB", 80, 989, 3.35, 3.89, other_price="8-12"),
        Device("a100", "A100 80GB", 80, 312, 2.0, 2.79, other_price="2.5-3.5"),
        Device("2xa100", "2 x A100 40GB", 40, 312, 1.55, 3.58, chips=2, other_price="1.5-2 each"),
        Device("l40s", "L40S", 48, 362, 0.86, 1.14),
        Device("a40", "A40", 48, 150, 0.70, 0.79),
        Device("5090", "RTX 5090", 32, 210, 1.79, 0.335, price_source="the ARC transformer's author"),
        Device("4090", "RTX 4090", 24, 165, 1.01, 0.74),
        Device("3090", "RTX 3090", 24, 71, 0.94, 0.44),
        Device("a10", "A10", 24, 125, 0.60, 0.36),
    )
}

_POWERS = (1, 4, 8, 16, 32, 64, 128, 256)
TPUS = {
    "v4": TpuGeneration(32, 275, 1.2, cores_in_name=2, one_host_chips=4, numbers=range(8, 8193, 8)),
    "v5p": TpuGeneration(95, 459, 2.77, cores_in_name=2, one_host_chips=4, numbers=range(8, 12289, 8)),
    "v5e": TpuGeneration(16, 197, 0.82, cores_in_name=1, one_host_chips=8, numbers=_POWERS),
    "v6e": TpuGeneration(32, 918, 1.64, cores_in_name=1, one_host_chips=8, numbers=_POWERS),
}
EXAMPLES = (*GPUS, "v4-8", "v4-64", "v5p-64", "v5e-16", "v6e-16")


def slice_name(name: str) -> str:
    """A TPU slice as this table writes it: Google's API says v5litepod-16 for v5e-16. Other names stay."""
    return re.sub("^v5litepod-", "v5e-", name)


def find(name: str) -> Device:
    """The device of that name; a TPU slice is GENERATION-NUMBER (v4-64 is 32 chips on 8 hosts).

    Raises InputError with the nearest names, or with the numbers that a slice may have.
    """
    name = slice_name(name)
    if name in GPUS:
        return GPUS[name]
    generation, _, number = name.partition("-")
    if generation not in TPUS or not re.fullmatch("0|[1-9][0-9]*", number):
        raise InputError(
            f"no device {name!r} in the table.{nearest(name, EXAMPLES)} It holds {', '.join(GPUS)} and slices of "
            f"{', '.join(TPUS)} such as v4-64"
        )
    tpu = TPUS[generation]
    if int(number) not in tpu.numbers:
        first, *_, last = tpu.numbers
        raise InputError(
            f"there is no slice {name}: {generation} comes in {first}, {tpu.numbers[1]}, {tpu.numbers[2]}, ... {last} "
            f"{'cores, two a chip' if tpu.cores_in_name == 2 else 'chips'}"
        )
    chips = int(number) // tpu.cores_in_name
    return Device(
        name,
        f"TPU {name}",
        tpu.memory_gb,
        tpu.peak_tflops,
        tpu.bandwidth_tb_s,
        chips=chips,
        hosts=1 if chips <= tpu.one_host_chips else chips // 4,
    )


def override(
    device: Device,
    *,
    dollars_per_hour: float | None = None,
    peak_tflops: float | None = None,
    bandwidth_tb_s: float | None = None,
    memory_gb: float | None = None,
) -> Device:
    """The device with the given figures in place of the table's."""
    given = {
        "dollars_per_hour": dollars_per_hour,
        "peak_tflops": peak_tflops,
        "bandwidth_tb_s": bandwidth_tb_s,
        "memory_gb": memory_gb,
    }
    return dataclasses.replace(device, **{name: value for name, value in given.items() if value is not None})
