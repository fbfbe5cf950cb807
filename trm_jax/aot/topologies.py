"""TPU slices that are not here, as devices that only compile."""

from __future__ import annotations

from trm_jax.errors import InputError
from trm_jax.planning import Device, hardware


def find(name: str) -> Device:
    """The slice of that name: v4-64 is 2x4x4 chips on 8 hosts. Raises InputError for another device."""
    device = hardware.find(name)
    if not device.shape:
        raise InputError(f"{name} is no TPU slice of a known shape; take one such as v4-8, v4-16, v4-64, v5e-16, v6e-4")
    return device


def libtpu_arguments(topology: Device) -> dict:
    """Of jax's get_topology_desc."""
    generation = topology.name.partition("-")[0]
    arguments = {"topology_name": f"{generation}:{'x'.join(map(str, topology.shape))}"}
    if generation == "v4":  # two cores that work as one device; else libtpu shows each as a device of its own
        arguments["chip_config_name"] = "megacore"
    if topology.chips == 1:
        arguments["chips_per_host_bounds"] = (1, 1, 1)
    return arguments


def devices(topology: Device) -> list:
    """Its JAX devices, which only compile. Raises InputError where the installed libtpu shows others than it has."""
    from jax.experimental import topologies

    arguments = libtpu_arguments(topology)
    found = topologies.get_topology_desc(platform="tpu", num_slices=1, **arguments).devices
    if len(found) != topology.chips:
        raise InputError(
            f"{topology.name} has {topology.chips} chips, and this libtpu shows {len(found)} devices for "
            f"{arguments['topology_name']}; install the one that belongs to this jax: pip install 'jax[tpu]'"
        )
    return list(found)
