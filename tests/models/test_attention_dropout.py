"""Dropout of attention's weights: which are dropped, and that every implementation drops and differentiates alike.

Where all scores are equal and v is the identity, the output shows which weights were kept.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_attention import NEAR, compiled, exact, rows_of, segments_of
from trm_jax import sharding
from trm_jax.models import target
from trm_jax.models.attention import attention, fastest

DROPPING = ("dense", "flash")


_attend = jax.jit(attention, static_argnames=("impl", "dropout"))


def keys_of(rows: int) -> np.ndarray:
    """Keys that differ by a bit or two, as no random ones do."""
    return np.stack([np.zeros(rows), np.arange(rows)], 1).astype(np.uint32)


def kept(keys, heads: int, length: int, rate: float, impl: str = "dense", head: int = 0) -> np.ndarray:
    """Which weights: bool [B, H, T, T]; head: the size, from T on."""
    zeros = jnp.zeros((len(keys), length, heads, head or length))
    v = jnp.broadcast_to(jnp.eye(length, zeros.shape[3])[:, None], zeros.shape)
    shown = _attend(zeros, zeros, v, impl=impl, dropout=rate, keys=keys)
    return np.asarray(shown[..., :length].transpose(0, 2, 1, 3) > 0)


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_the_share_that_is_kept(rate):
    """Of all, of each row and head, of each query, of each key: five standard errors."""
    found = kept(keys_of(8), 4, 64, rate)
    for axes in ((0, 1, 2, 3), (2, 3), (0, 1, 3), (0, 1, 2)):
        number = np.prod([found.shape[axis] for axis in axes])
        assert np.abs(found.mean(axes) - (1 - rate)).max() < 5 * (rate * (1 - rate) / number) ** 0.5


def test_masks_of_rows_heads_and_tokens_have_nothing_to_do_with_each_other():
    """Correlations of the masks with themselves, moved by a row, head, query or key, or mirrored: five errors."""
    found = 2.0 * kept(keys_of(8), 4, 64, 0.5) - 1
    moved = [np.roll(found, by, axis) for axis in range(4) for by in (1, 2)]
    moved += [np.roll(found, (1, 1), axes) for axes in ((0, 1), (2, 3))]
    assert max(abs((found * other).mean()) for other in moved) < 5 / found.size**0.5
    above = np.triu_indices(64, 1)
    mirrored = found[..., *above] * found.swapaxes(2, 3)[..., *above]
    assert abs(mirrored.mean()) < 5 / mirrored.size**0.5


def test_the_mask_stays_what_it_is():
    """A run that goes on with another version drops what it would have dropped. Computed in Python's integers."""
    found = np.packbits(kept(np.array([[1, 2]], np.uint32), 2, 8, 0.25)).tobytes().hex()
    assert found == "ff9dd89feff7bf7feffbfb7bfbb7b657"


@pytest.mark.parametrize("head", [40, 300])
def test_blocks_do_not_matter(head):
    """A block holds 64 rows of a head of 40, and 16 of one of 300: one block, and three."""
    keys = keys_of(2)
    np.testing.assert_array_equal(kept(keys, 3, 40, 0.3, "flash", head), kept(keys, 3, 40, 0.3))


@pytest.mark.parametrize(
    ("length", "head", "causal", "segmented", "dtype"),
    [
        (33, 16, False, True, "float32"),
        (97, 16, True, False, "bfloat16"),
        (97, 64, True, True, "float32"),  # blocks of 32
        (97, 64, False, False, "float32"),
    ],
)
def test_values_and_gradients_against_float64(length, head, causal, segmented, dtype):
    rng, keys, rate = np.random.default_rng(0), keys_of(2), 0.4
    arrays = [jnp.asarray(x, dtype) for x in rows_of(rng, 2, length, 2, head)]
    segments = segments_of(rng, 2, length) if segmented else None
    truth = exact(*arrays, causal, segments, dropped=kept(keys, 2, length, rate) / (1 - rate))
    for impl in DROPPING:
        for found, expected in zip(compiled(impl, causal, dropout=rate)(*arrays, segments, keys), truth, strict=True):
            assert found.dtype == dtype
            most = NEAR[dtype] * max(np.abs(expected).max(), 1)
            np.testing.assert_allclose(np.float64(found), expected, rtol=0, atol=most)


def test_the_mean_over_keys_is_attention_without_dropout():
    """Of 4,000 keys: five standard errors of each number."""
    q, k, v, _ = (jnp.asarray(x, jnp.float32) for x in rows_of(np.random.default_rng(0), 1, 6, 2, 4))
    many = [jnp.broadcast_to(x, (4000, *x.shape[1:])) for x in (q, k, v)]
    found = np.asarray(_attend(*many, dropout=0.2, keys=keys_of(4000)))
    error = found.std(0) / len(found) ** 0.5
    assert (np.abs(found.mean(0) - attention(q, k, v)[0]) < 5 * error).all()


@pytest.mark.parametrize("impl", DROPPING)
def test_eight_devices_drop_what_one_drops(impl):
    """Each has one row of four and one of two heads. 2e-6: the order of sums."""
    mesh = sharding.make_mesh(data=4, tensor=2, devices=jax.devices()[:8])
    arrays = [jnp.asarray(x, jnp.float32) for x in rows_of(np.random.default_rng(0), 4, 9, 2, 4)]
    inputs, ours = (*arrays, np.zeros((4, 9), np.int32), keys_of(4)), compiled(impl, True, dropout=0.3)
    lies, of_rows = jax.NamedSharding(mesh, jax.P("data", None, "tensor", None)), jax.NamedSharding(mesh, jax.P("data"))
    shared = jax.jit(
        sharding.traced_on(mesh, sharding.Rules())(ours.__wrapped__), in_shardings=(*(lies,) * 4, of_rows, of_rows)
    )
    for found, expected in zip(shared(*inputs), ours(*inputs), strict=True):
        assert found.sharding.is_equivalent_to(lies, 4)
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * np.abs(expected).max())
    assert "all-gather" not in shared.lower(*inputs).compile().as_text()


@pytest.mark.parametrize("impl", DROPPING)
def test_without_a_rate_or_without_keys_there_is_no_dropout_in_the_program(impl):
    arrays, keys = [jnp.ones((2, 5, 2, 4), jnp.float32)] * 4, keys_of(2)

    def program(dropout, keys):
        return jax.jit(compiled(impl, True, dropout=dropout).__wrapped__).lower(*arrays, None, keys).as_text()

    plain = jax.jit(compiled(impl, True).__wrapped__).lower(*arrays, None).as_text()
    assert program(0.1, None) == plain
    assert "shift_right" not in program(0.0, keys)
    assert "shift_right" in program(0.1, keys)


@pytest.mark.parametrize("impl", ["cudnn", "splash"])
def test_implementations_that_cannot_drop(impl):
    x = jnp.zeros((1, 4, 1, 8), jnp.bfloat16)
    with pytest.raises(ValueError, match=f"{impl} drops no weights; choose auto, dense or flash"):
        attention(x, x, x, impl=impl, dropout=0.1, keys=keys_of(1))


def test_a_rate_that_drops_all():
    x = jnp.zeros((1, 4, 1, 8))
    with pytest.raises(ValueError, match="dropout is 1.0"):
        attention(x, x, x, dropout=1.0, keys=keys_of(1))


@pytest.mark.parametrize(
    ("platform", "capability", "dtype", "chosen"),
    [
        ("gpu", 8.0, "bfloat16", "flash"),
        ("gpu", 7.5, "float16", "dense"),
        ("gpu", 9.0, "float32", "dense"),
        ("tpu", 0.0, "bfloat16", "dense"),
        ("cpu", 0.0, "bfloat16", "dense"),
    ],
)
def test_auto_takes_one_that_can_drop(platform, capability, dtype, chosen):
    with target.made_for(platform, capability):
        assert fastest(916, jnp.dtype(dtype), dropping=True) == chosen
