"""Optimisers, schedules and the puzzle table's update, against independent loops."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import NamedSharding, PartitionSpec

from trm_jax import optim
from trm_jax.models.params import ParamSpec, constant


def tree(seed: int, scale: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)
    shapes = {"kernel": (3, 4), "bias": (4,)}
    return {name: jnp.asarray(scale * rng.standard_normal(s), jnp.float32) for name, s in shapes.items()}


def declared(params: dict) -> dict:
    kinds = {name: "matrix" if x.ndim > 1 else "vector" for name, x in params.items()}
    return {name: ParamSpec(x.shape, (None,) * x.ndim, constant(0.0), kinds[name]) for name, x in params.items()}


def train(name: str, schedule, params: dict, grads: list, **how) -> dict:
    """Parameters after an update with each of the gradients, at the rates schedule(1), schedule(2), ..."""
    state = optim.build(name, declared(params), 0.0).init(params)

    @jax.jit
    def update(g, state, params, lr):
        updates, state = optim.build(name, declared(params), lr, **how).update(g, state, params)
        return optax.apply_updates(params, updates), state

    for t, g in enumerate(grads, 1):
        params, state = update(g, state, params, jnp.float32(schedule(t)))
    return params


def warmup_cosine(lr, warmup_steps, total_steps, min_ratio=1.0):
    return lambda t: optim.warmup_cosine(t, lr, warmup_steps, total_steps, min_ratio)


def run(tx, params, grads: list):
    state = tx.init(params)
    update = jax.jit(lambda g, s, p: tx.update(g, s, p))
    for g in grads:
        updates, state = update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params, state


def assert_trees_close(a, b, **tolerance):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, **tolerance), a, b)


def adam_atan2(params, grads, schedule, b1, b2, weight_decay):
    """The reference's update in float64: decay first, first bias correction outside atan2."""
    p = {n: np.float64(x) for n, x in params.items()}
    m, v = ({n: np.zeros_like(x) for n, x in p.items()} for _ in range(2))
    for t, g in enumerate(grads, 1):
        lr = schedule(t)
        for n in p:
            p[n] *= 1 - lr * weight_decay
            m[n] += (1 - b1) * (np.float64(g[n]) - m[n])
            v[n] += (1 - b2) * (np.float64(g[n]) ** 2 - v[n])
            p[n] -= lr / (1 - b1**t) * np.arctan2(m[n], np.sqrt(v[n]) / np.sqrt(1 - b2**t))
    return p


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e4])
def test_adam_atan2_against_a_loop(scale):
    """1e-6: float32 rounding of ten updates of parameters near 1; there is no epsilon, so any scale works."""
    params, grads = tree(0), [tree(t, scale) for t in range(1, 11)]
    schedule = warmup_cosine(1e-2, 4, 10, 0.1)
    ours = train("adam_atan2", schedule, params, grads, b1=0.9, b2=0.95, weight_decay=0.5)
    expected = adam_atan2(params, grads, lambda t: float(schedule(t)), 0.9, 0.95, 0.5)
    assert_trees_close(ours, expected, rtol=0, atol=1e-6)


def test_first_adam_atan2_update():
    """With the correction outside, atan2(0.1 g, |g|) / 0.1 = 0.9967: nearly the full rate, not pi/4 of it."""
    params = {"w": jnp.zeros(3)}
    ours = train("adam_atan2", lambda t: 1.0, params, [{"w": jnp.array([5.0, -1e-6, 0.0])}])
    np.testing.assert_allclose(ours["w"], [-0.99669, 0.99669, 0.0], atol=1e-5)


@pytest.mark.parametrize("name", ["adamw", "lion"])
def test_against_optax(name):
    params, grads = tree(0), [tree(t) for t in range(1, 8)]
    schedule = warmup_cosine(3e-3, 3, 7, 0.0)
    ours = train(name, schedule, params, grads, b1=0.9, b2=0.95, weight_decay=0.2)
    theirs, _ = run(
        getattr(optax, name)(lambda count: schedule(count + 1), b1=0.9, b2=0.95, weight_decay=0.2), params, grads
    )
    assert_trees_close(ours, theirs, rtol=1e-6, atol=1e-7)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), ours, params)
    assert min(jax.tree.leaves(moved)) > 1e-3


@pytest.mark.parametrize("name", optim.OPTIMIZERS)
def test_decay_is_decoupled_and_on_every_parameter(name):
    """Without gradients p *= 1 - lr * decay, biases too, in every optimiser."""
    params = tree(0)
    none = jax.tree.map(jnp.zeros_like, params)
    ours = train(name, lambda t: 0.1, params, [none] * 2, weight_decay=0.5)
    assert_trees_close(ours, jax.tree.map(lambda p: p * 0.95**2, params), rtol=1e-6)


def test_a_rule_for_each_kind(monkeypatch):
    """An optimiser may treat matrices in one way and the rest in another: here by Lion, and by Adam."""
    monkeypatch.setitem(optim.OPTIMIZERS, "mixed", {"matrix": optax.scale_by_lion, "*": optax.scale_by_adam})
    params, grads = tree(0), [tree(t) for t in range(1, 5)]
    ours, _ = run(optim.build("mixed", declared(params), 1e-2), params, grads)
    for name, rule in (("kernel", "lion"), ("bias", "adamw")):
        alone = train(rule, lambda t: 1e-2, {name: params[name]}, [{name: g[name]} for g in grads])
        np.testing.assert_allclose(ours[name], alone[name], rtol=1e-6)


def test_unknown_optimiser():
    with pytest.raises(ValueError, match="'sgd' is not one of adam_atan2, adamw, lion"):
        optim.build("sgd", {}, 1.0)


def test_warm_up_counts_from_one():
    flat = warmup_cosine(2.0, 4, 100)
    np.testing.assert_allclose([flat(t) for t in range(1, 8)], [0.5, 1.0, 1.5, 2, 2, 2, 2], rtol=1e-6)
    np.testing.assert_allclose(flat(100), 2.0)
    # The training step's first update uses t = 1: this is what the optimiser is given.
    ours = train("lion", flat, {"w": jnp.zeros(1)}, [{"w": jnp.ones(1)}] * 2)
    np.testing.assert_allclose(ours["w"], [-(0.5 + 1.0)], rtol=1e-6)


def test_cosine_falls_to_its_floor_and_stays():
    schedule = warmup_cosine(1.0, 10, 110, 0.2)
    np.testing.assert_allclose(schedule(10), 1.0)
    np.testing.assert_allclose(schedule(35), 0.2 + 0.8 * 0.5 * (1 + np.cos(np.pi / 4)), rtol=1e-6)
    np.testing.assert_allclose(schedule(60), 0.6, rtol=1e-6)
    np.testing.assert_allclose(schedule(110), 0.2, rtol=1e-6)
    rates = [float(schedule(t)) for t in range(1, 111)]
    assert max(rates) == 1.0 and np.all(np.diff(rates[9:]) < 0) and np.all(np.diff(rates[:10]) > 0)


def test_no_warm_up():
    schedule = warmup_cosine(1.0, 0, 10, 0.0)
    assert float(schedule(1)) == pytest.approx(0.5 * (1 + np.cos(np.pi / 10)))
    assert float(schedule(10)) == pytest.approx(0.0, abs=1e-7)


def table_by_hand(table, ids, grads, lr, decay):
    table = np.float32(table).copy()
    for i in set(ids.tolist()):
        g = grads[ids == i].astype(np.float64).sum(0)
        table[i] = table[i] * np.float32(1 - lr * decay) - np.float32(lr) * np.sign(g).astype(np.float32)
    return table


@st.composite
def table_updates(draw):
    """A batch of 16 whose gradients are small integers, so that sums are exact and zeros are common."""
    rows = 8 * draw(st.integers(1, 3))
    ids = np.array(draw(st.lists(st.integers(0, rows - 1), min_size=16, max_size=16)), np.int32)
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    table = rng.standard_normal((rows, 6)).astype(np.float32)
    return table, ids, rng.integers(-2, 3, (16, 6)).astype(np.float32)


UPDATE = jax.jit(optim.sparse_sign_sgd)


@settings(max_examples=60)
@given(table_updates(), st.sampled_from([(0.1, 0.0), (0.01, 0.5)]))
def test_sparse_sign_sgd(update, rates):
    table, ids, grads = update
    lr, decay = rates
    ours = np.asarray(UPDATE(table, ids, grads, lr, decay))
    np.testing.assert_allclose(ours, table_by_hand(table, ids, grads, lr, decay), rtol=1e-6, atol=1e-7)
    untouched = np.setdiff1d(np.arange(len(table)), ids)
    assert ours[untouched].tobytes() == table[untouched].tobytes()


def test_sign_of_zero_is_zero_and_duplicates_are_summed_first():
    table = np.full((4, 3), 2.0, np.float32)
    ids = np.array([1, 3, 1], np.int32)
    grads = np.float32([[3, 1, 1], [0, -1, 5], [-3, 1, -2]])
    ours = np.asarray(UPDATE(table, ids, grads, 0.5, 0.2))
    np.testing.assert_allclose(ours[1], [1.8, 1.3, 2.3])  # 0, +, -: once, though the id came twice
    np.testing.assert_allclose(ours[3], [1.8, 2.3, 1.3])
    np.testing.assert_array_equal(ours[[0, 2]], 2.0)


def test_first_and_last_row_and_a_batch_of_one_id():
    table = np.zeros((8, 2), np.float32)
    ours = np.asarray(UPDATE(table, np.array([0, 7], np.int32), np.float32([[1, 1], [-1, -1]]), 1.0, 0.0))
    np.testing.assert_array_equal(ours[[0, 7]], [[-1, -1], [1, 1]])
    np.testing.assert_array_equal(ours[1:7], 0)
    ours = np.asarray(UPDATE(table, np.full(5, 3, np.int32), np.ones((5, 2), np.float32), 1.0, 0.0))
    np.testing.assert_array_equal(ours[3], [-1, -1])
    np.testing.assert_array_equal(np.delete(ours, 3, 0), 0)


@pytest.fixture(scope="module")
def sharded_update():
    """The update with the table's rows and the batch split over eight devices."""
    mesh = jax.make_mesh((8,), ("data",), devices=jax.devices("cpu"), axis_types=(jax.sharding.AxisType.Auto,))
    split, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    jitted = jax.jit(optim.sparse_sign_sgd, in_shardings=(split, split, split, whole, whole), out_shardings=split)
    return split, jitted


@settings(max_examples=30)
@given(update=table_updates())
def test_a_table_split_over_eight_devices(sharded_update, update):
    """Equal ids on different devices are summed over the global batch: the result is the unsplit one.

    To the last bit but one: another compilation may fuse multiplication and addition.
    """
    split, jitted = sharded_update
    table, ids, grads = update
    ours = jitted(table, ids, grads, 0.01, 0.5)
    assert ours.sharding == split and len(ours.addressable_shards) == 8
    np.testing.assert_allclose(ours, UPDATE(table, ids, grads, 0.01, 0.5), rtol=3e-7, atol=1e-8)
    untouched = np.setdiff1d(np.arange(len(table)), ids)
    np.testing.assert_array_equal(np.asarray(ours)[untouched], table[untouched])
