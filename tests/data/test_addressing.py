import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm_jax.data.addressing import Addressing
from trm_jax.errors import InputError


def addresses(addressing, steps, variants=11):
    """(groups, variants) of whole steps, flattened in order."""
    slots = np.arange(addressing.batch_size)
    pairs = [addressing.lookup(step, slots, np.full(addressing.groups, variants)) for step in steps]
    return tuple(np.concatenate(part) for part in zip(*pairs, strict=True))


@given(seed=st.integers(-(2**63), 2**63 - 1), batch=st.integers(1, 40), groups=st.integers(1, 25))
def test_every_epoch_visits_every_group_once_across_batch_borders(seed, batch, groups):
    steps = -(-3 * groups // batch)
    visited = addresses(Addressing(seed, batch, groups), range(steps))[0][: 3 * groups]
    for epoch in visited.reshape(3, groups):
        assert sorted(epoch) == list(range(groups))


@given(step=st.integers(0, 10**9), split=st.integers(1, 63))
def test_slots_may_be_asked_for_in_any_parts(step, split):
    addressing, variants = Addressing(5, 64, 10, None), np.full(10, 1001)
    whole = addressing.lookup(step, np.arange(64), variants)
    parts = [addressing.lookup(step, slots, variants) for slots in (np.arange(split), np.arange(split, 64))]
    for all_slots, part_a, part_b in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(all_slots, np.concatenate([part_a, part_b]))


@given(batch=st.integers(1, 30), groups=st.integers(1, 20), epochs=st.integers(1, 6))
def test_an_interval_starts_with_a_fresh_epoch_and_drops_the_incomplete_batch(batch, groups, epochs):
    if epochs * groups < batch:
        with pytest.raises(InputError, match="do not fill one batch"):
            Addressing(0, batch, groups, epochs)
        return
    addressing = Addressing(0, batch, groups, epochs)
    per_interval = addressing.steps_per_interval
    assert per_interval == epochs * groups // batch
    for interval in range(3):
        steps = range(interval * per_interval, (interval + 1) * per_interval)
        numbers = np.concatenate([addressing.numbers(step, np.arange(batch)) for step in steps])
        start = interval * epochs * groups
        np.testing.assert_array_equal(numbers, np.arange(start, start + per_interval * batch))


def test_orders_and_variants_change_with_seed_and_epoch():
    one, two = addresses(Addressing(1, 50, 50), range(4)), addresses(Addressing(2, 50, 50), range(4))
    orders = {epoch.tobytes() for groups, _ in (one, two) for epoch in groups.reshape(4, 50)}
    assert len(orders) == 8
    assert (one[1] != two[1]).any()


def test_variants_are_drawn_uniformly_for_each_group():
    """22,000 draws of 11 variants. Chi-squared, 10 degrees of freedom: 40 is passed once in 60,000 times."""
    groups, variants = addresses(Addressing(3, 100, 100), range(220))
    for chosen in (variants, variants[groups < 50], variants[::2]):
        counts = np.bincount(chosen, minlength=11)
        assert len(counts) == 11
        expected = counts.sum() / 11
        assert ((counts - expected) ** 2 / expected).sum() < 40


def test_groups_may_differ_in_their_number_of_variants():
    sizes = np.array([1, 3, 10])
    addressing = Addressing(0, 300, 3)
    groups, variants = addressing.lookup(0, np.arange(300), sizes)
    for group, size in enumerate(sizes):
        assert sorted(set(variants[groups == group])) == list(range(size))


@pytest.mark.parametrize("batch, groups", [(0, 5), (5, 0)])
def test_nothing_to_draw_is_refused(batch, groups):
    with pytest.raises(InputError, match="at least 1"):
        Addressing(0, batch, groups)
