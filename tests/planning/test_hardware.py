"""The table of devices, and the names of TPU slices."""

import pytest

from trm_jax.aot.programs import libtpu_arguments
from trm_jax.errors import InputError
from trm_jax.planning import hardware


@pytest.mark.parametrize("name", [*hardware.GPUS, "v4-64", "v5p-8", "v5e-16", "v6e-1"])
def test_every_device_says_where_its_figures_come_from(name):
    device = hardware.find(name)
    assert device.name == name and device.title
    assert min(device.memory_gb, device.peak_tflops, device.bandwidth_tb_s, device.chips, device.hosts) > 0
    assert device.dollars_per_hour is None or device.dollars_per_hour > 0
    assert "2025-12-09" in device.price_source


def test_some_rows_of_the_table():
    h100 = hardware.find("h100")
    assert (h100.memory_gb, h100.dollars_per_hour, h100.peak_tflops, h100.bandwidth_tb_s) == (80, 3.89, 989, 3.35)
    pair = hardware.find("2xa100")
    assert (pair.chips, pair.memory_gb, pair.dollars_per_hour, pair.peak_tflops) == (2, 40, 3.58, 312)
    assert hardware.find("h200").dollars_per_hour is None
    assert "790 TFLOP/s" in hardware.find("h200").title
    assert hardware.find("5090").price_source != hardware.find("4090").price_source


@pytest.mark.parametrize(
    "name, chips, hosts",
    [
        ("v4-8", 4, 1),
        ("v4-64", 32, 8),
        ("v4-128", 64, 16),
        ("v5p-8", 4, 1),
        ("v5p-128", 64, 16),
        ("v5e-1", 1, 1),
        ("v5e-8", 8, 1),
        ("v5e-16", 16, 4),
        ("v6e-256", 256, 64),
    ],
)
def test_slices_count_cores_or_chips_by_their_generation(name, chips, hosts):
    device = hardware.find(name)
    assert (device.chips, device.hosts) == (chips, hosts)
    assert device.dollars_per_hour is None


def test_the_name_that_google_gives_a_v5e():
    assert hardware.find("v5litepod-16") == hardware.find("v5e-16")


def test_a_chip_of_a_slice():
    chip = hardware.find("v4-64")
    assert (chip.memory_gb, chip.peak_tflops, chip.bandwidth_tb_s) == (32, 275, 1.2)
    assert hardware.find("v6e-4").peak_tflops == 918


@pytest.mark.parametrize(
    "name, words",
    [
        ("h2000", "Did you mean h200"),
        ("v4", "slices of v4, v5p, v5e, v6e such as v4-64"),
        ("v4-", "no device 'v4-'"),
        ("v7x-8", "no device 'v7x-8'"),
        ("v4-²", "no device 'v4-²'"),
        ("", "no device ''"),
        ("v4-32-2", "no device 'v4-32-2'"),
        ("v4-63", "there is no slice v4-63: v4 comes in 8, 16, 24, ... 8192 cores, two a chip"),
        ("v4-064", "no device 'v4-064' in the table. Did you mean v4-64"),
        ("v4-0", "there is no slice v4-0"),
        ("v5e-3", "v5e comes in 1, 4, 8, ... 256 chips"),
        ("v5e-99999999999999999999", "there is no slice"),
    ],
)
def test_a_device_that_is_not_there(name, words):
    with pytest.raises(InputError) as error:
        hardware.find(name)
    assert words in str(error.value)


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
    found = hardware.find_slice(name)
    assert (found.name, found.shape, found.hosts, found.links) == (name, shape, hosts, links)
    assert libtpu_arguments(found)["topology_name"] == f"{name.split('-')[0]}:{'x'.join(map(str, shape))}"


def test_two_cores_of_a_v4_are_one_device():
    """Without the name libtpu shows v4-64 as 64 devices."""
    pod, chip = (libtpu_arguments(hardware.find_slice(name)) for name in ("v4-64", "v5e-1"))
    assert pod == {"topology_name": "v4:2x4x4", "chip_config_name": "megacore"}
    assert chip["chips_per_host_bounds"] == (1, 1, 1)


def test_what_a_program_may_use_is_less_than_the_chip_has():
    for name, of_a_chip in (("v4-8", 32), ("v5e-4", 16), ("v5p-8", 96), ("v6e-4", 32)):
        assert 0.95 * of_a_chip < hardware.find_slice(name).usable_bytes / 2**30 < of_a_chip


@pytest.mark.parametrize("name", ["v4-24", "h100", "2xa100"])
def test_a_device_of_no_known_shape(name):
    with pytest.raises(InputError, match=f"{name} is no TPU slice of a known shape"):
        hardware.find_slice(name)
