"""TPU slices by name: how their chips are laid out, what a program may use of them, how they are linked."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from trm_jax.configs.resolve import nearest
from trm_jax.errors import InputError
from trm_jax.planning import hardware
from trm_jax.planning.hardware import Device


@dataclass(frozen=True)
class _Layout:
    """Slices of one generation. `numbers`: those in their names that are known; shapes of `dimensions` dimensions.

    usable_gib: of a chip's memory, what libtpu 0.0.42 lets a program have. link_gb_s: of one link in one direction.
    A dimension closes to a ring where `ring` says so: of all of them, or of one.
    """

    numbers: tuple[int, ...]
    dimensions: int
    usable_gib: float
    link_gb_s: float
    link_source: str
    whole_multiples: int  # dimensions close to rings when all are multiples of this ...
    alone: bool = False  # ... or each for itself
    chip_config: str = ""


_CUBES = tuple(8 << k for k in range(10))
_SQUARES = (1, 4, 8, 16, 32, 64, 128, 256)
LAYOUTS = {
    # Two cores that work as one device; without the name libtpu shows each core as a device of its own.
    "v4": _Layout(
        _CUBES, 3, 30.75, 45, "all-reduce bandwidth of a pod, 1.1 PB/s over 4,096 chips of 6 links", 4,
        chip_config="megacore",
    ),
    "v5p": _Layout(_CUBES, 3, 95.74, 100, "1,200 GB/s a chip, both directions of 6 links", 4),
    "v5e": _Layout(_SQUARES, 2, 15.75, 50, "400 GB/s a chip, both directions of 4 links", 16, alone=True),
    "v6e": _Layout(_SQUARES, 2, 31.25, 100, "800 GB/s a chip, both directions of 4 links", 16, alone=True),
}  # fmt: skip


@dataclass(frozen=True)
class Topology:
    """A slice: `device` holds its chips, hosts, peak and bandwidth; `shape` is that of its chips."""

    device: Device
    shape: tuple[int, ...]
    usable_bytes: int  # of one chip
    link_bytes_s: float  # of one link in one direction
    link_source: str
    links: int  # of the chip that has the fewest
    libtpu: dict  # arguments of jax's get_topology_desc

    @property
    def name(self) -> str:
        return self.device.name


def known() -> str:
    """The names that `find` takes, for a person."""
    return "; ".join(
        ", ".join(f"{generation}-{number}" for number in layout.numbers) for generation, layout in LAYOUTS.items()
    )


def _shape(chips: int, dimensions: int) -> tuple[int, ...]:
    """The usual shape of a slice: 2x2x1, 2x2x2, 2x2x4, 2x4x4, ... or 1x1, 2x2, 2x4, 4x4, ..."""
    if chips == 1:
        return (1,) * dimensions
    shape = [2, 2, 1][:dimensions]
    while math.prod(shape) < chips:
        last_of_the_smallest = max(i for i, size in enumerate(shape) if size == min(shape))
        shape[last_of_the_smallest] *= 2
    return tuple(shape)


def find(name: str) -> Topology:
    """The slice of that name: v4-64 is 2x4x4 chips on 8 hosts. Raises InputError with all names that are known."""
    name = hardware.slice_name(name)
    match = re.fullmatch(r"(\w+)-([1-9][0-9]*)", name)
    layout = LAYOUTS.get(match[1]) if match else None
    if layout is None or int(match[2]) not in layout.numbers:
        names = known()
        raise InputError(f"no topology {name!r}.{nearest(name, re.findall(r'[^ ,;]+', names))} Known are {names}")
    device = hardware.find(name)
    shape = _shape(device.chips, layout.dimensions)
    wide = [size for size in shape if size > 1]
    rings = [size % layout.whole_multiples == 0 for size in shape]
    closed = [r for r, size in zip(rings, shape, strict=True) if size > 1] if layout.alone else [all(rings)] * len(wide)
    arguments = {"topology_name": f"{match[1]}:{'x'.join(map(str, shape))}"}
    if layout.chip_config:
        arguments["chip_config_name"] = layout.chip_config
    if device.chips == 1:
        arguments["chips_per_host_bounds"] = (1, 1, 1)
    return Topology(
        device,
        shape,
        int(layout.usable_gib * 2**30),
        layout.link_gb_s * 1e9,
        layout.link_source,
        sum(1 + ring for ring in closed),
        arguments,
    )


def devices(topology: Topology) -> list:
    """Its JAX devices, which only compile. Raises InputError where the installed libtpu shows others than it has."""
    from jax.experimental import topologies

    found = topologies.get_topology_desc(platform="tpu", num_slices=1, **topology.libtpu).devices
    if len(found) != topology.device.chips:
        raise InputError(
            f"{topology.name} has {topology.device.chips} chips, and this libtpu shows {len(found)} devices for "
            f"{topology.libtpu['topology_name']}; install the one that belongs to this jax: pip install 'jax[tpu]'"
        )
    return list(found)
