import numpy as np
import pytest

from trm_jax.data.loader import batches
from trm_jax.errors import InputError
from trm_jax.tasks.sudoku.source import training

SETTINGS = {"seed": 4, "batch_size": 24}


@pytest.fixture(scope="module")
def train(boards_of):
    return training(boards_of(6), augmentations=7, seed=1)


def collect(train, **kwargs):
    kwargs = {"slots": np.arange(24), "start_step": 0, "stop_step": 12, **SETTINGS, **kwargs}
    return list(batches(train, **kwargs))


def equal(one, two):
    assert len(one) == len(two)
    for a, b in zip(one, two, strict=True):
        assert a.keys() == b.keys() == {"inputs", "labels", "puzzle_ids"}
        for name in a:
            assert a[name].dtype == np.int32
            np.testing.assert_array_equal(a[name], b[name])


@pytest.mark.parametrize("threads", [0, 1, 4])
def test_batches_come_in_step_order_whatever_the_threads(train, threads):
    plain = [train.batch(step, np.arange(24), **SETTINGS) for step in range(12)]
    equal(collect(train, threads=threads), plain)


def test_starting_in_the_middle_goes_on_exactly(train):
    equal(collect(train)[5:], collect(train, start_step=5))
    interval = {"epochs_per_interval": 1}  # 60 groups: two whole batches, then a fresh epoch
    equal(collect(train, **interval)[5:], collect(train, start_step=5, **interval))


@pytest.mark.parametrize("hosts", [2, 3, 8])
def test_hosts_together_see_what_one_sees(train, hosts):
    parts = [collect(train, slots=np.arange(24)[host::hosts]) for host in range(hosts)]
    for step, whole in enumerate(collect(train)):
        for host in range(hosts):
            for name, values in parts[host][step].items():
                np.testing.assert_array_equal(values, whole[name][host::hosts])


def test_nothing_left_to_do(train):
    assert collect(train, start_step=12) == []


def test_short_intervals_are_refused_at_once(train):
    with pytest.raises(InputError, match="do not fill one batch"):
        batches(train, seed=0, batch_size=64, slots=np.arange(64), start_step=0, stop_step=1, epochs_per_interval=1)
