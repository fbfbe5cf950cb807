"""Slices by name."""

import pytest

from trm_jax.aot import topologies
from trm_jax.errors import InputError


@pytest.mark.parametrize(
    "name, shape, hosts, links",
    [
        ("v4-8", (2, 2, 1), 1, 2),
        ("v4-16", (2, 2, 2), 2, 3),
        ("v4-32", (2, 2, 4), 4, 3),
        ("v4-64", (2, 4, 4), 8, 3),
        ("v4-128", (4, 4, 4), 16, 6),  # from here on a torus: two links in every dimension
        ("v4-256", (4, 4, 8), 32, 6),
        ("v4-512", (4, 8, 8), 64, 6),
        ("v5p-8", (2, 2, 1), 1, 2),
        ("v5p-64", (2, 4, 4), 8, 3),
        ("v5e-1", (1, 1), 1, 0),
        ("v5e-4", (2, 2), 1, 2),
        ("v5e-8", (2, 4), 1, 2),
        ("v5e-16", (4, 4), 4, 2),
        ("v5e-128", (8, 16), 32, 3),  # only the dimension of 16 is a ring
        ("v5e-256", (16, 16), 64, 4),
        ("v6e-32", (4, 8), 8, 2),
    ],
)
def test_the_shape_of_a_slice(name, shape, hosts, links):
    found = topologies.find(name)
    assert (found.name, found.shape, found.hosts, found.links) == (name, shape, hosts, links)
    assert topologies.libtpu_arguments(found)["topology_name"] == f"{name.split('-')[0]}:{'x'.join(map(str, shape))}"


def test_two_cores_of_a_v4_are_one_device():
    """Without the name libtpu shows v4-64 as 64 devices."""
    pod, chip = (topologies.libtpu_arguments(topologies.find(name)) for name in ("v4-64", "v5e-1"))
    assert pod == {"topology_name": "v4:2x4x4", "chip_config_name": "megacore"}
    assert chip["chips_per_host_bounds"] == (1, 1, 1)


def test_what_a_program_may_use_is_less_than_the_chip_has():
    for name, of_a_chip in (("v4-8", 32), ("v5e-4", 16), ("v5p-8", 96), ("v6e-4", 32)):
        assert 0.95 * of_a_chip < topologies.find(name).usable_bytes / 2**30 < of_a_chip


@pytest.mark.parametrize("name", ["v4-24", "h100", "2xa100"])
def test_a_device_of_no_known_shape(name):
    with pytest.raises(InputError, match=f"{name} is no TPU slice of a known shape"):
        topologies.find(name)


def test_the_name_that_google_gives_a_v5e():
    assert topologies.find("v5litepod-16") == topologies.find("v5e-16")
