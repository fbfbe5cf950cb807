"""Weights in 8 and 4 bits, held against the numbers of tests/golden/llm (NumPy; the gguf package for blocks)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trm_jax.errors import InputError
from trm_jax.models import quant

EXACT = {"int8": (127, None), "int4": (7, 32)}


@pytest.fixture(scope="module")
def golden(golden_folder):
    with np.load(golden_folder / "llm" / "quant.npz") as file:
        return dict(file)


@pytest.fixture(scope="module")
def blocks(golden_folder):
    with np.load(golden_folder / "llm" / "gguf_blocks.npz") as file:
        return dict(file)


@pytest.mark.parametrize("how", EXACT)
def test_codes_scales_and_products_are_the_golden_ones(golden, how):
    leaf = jax.jit(quant.quantise, static_argnums=(1, 2, 3))(golden["w"].T, how, EXACT[how][1], jnp.float32)
    stored = leaf.codes if how == "int8" else leaf.packed
    np.testing.assert_array_equal(stored, golden["int8_codes" if how == "int8" else "int4_packed"])
    # XLA multiplies by the inverse of a constant where NumPy divides: a unit of the last place. Sums in another order.
    np.testing.assert_allclose(leaf.scale, golden[f"{how}_scale"], rtol=3e-7)
    np.testing.assert_allclose(quant.linear(jnp.asarray(golden["x"]), leaf), golden[f"{how}_y"], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", quant.BLOCKS)
def test_blocks_of_a_gguf_file_are_read_bit_for_bit(blocks, kind):
    leaf = quant.BLOCKS[kind](jnp.asarray(blocks[f"{kind}/raw"]))
    values = blocks[f"{kind}/values"]
    for read in (quant.dequantise, jax.jit(quant.dequantise)):
        np.testing.assert_array_equal(np.asarray(read(leaf)).T.view(np.uint32), values.view(np.uint32))
    assert quant.bytes_of(leaf) == blocks[f"{kind}/raw"].size
    x = np.random.default_rng(0).normal(size=(2, 512)).astype(np.float32)
    np.testing.assert_allclose(quant.linear(jnp.asarray(x), leaf), x @ values.T, rtol=1e-4, atol=1e-4)


def test_a_scale_and_a_minimum_lose_nothing_of_a_four_bit_file(blocks):
    """Q4_1's own grid: groups as files have them come back, with a scale above 0 and both ends of it in use."""
    values = np.concatenate([blocks["Q4_1/values"], np.zeros((1, 512), np.float32)])
    raw = blocks["Q4_1/raw"].reshape(3, 16, 20)
    codes = np.concatenate([raw[..., 4:] & 15, raw[..., 4:] >> 4], -1)
    usual = (raw[..., :2].copy().view(np.float16)[..., 0] > 0) & (codes.min(-1) == 0) & (codes.max(-1) == 15)
    whole = np.concatenate([usual, np.ones((1, 16), bool)])
    assert whole.sum() > 16
    again = np.asarray(quant.dequantise(quant.quantise(values.T, "int4-min"))).T
    np.testing.assert_array_equal(again.reshape(4, 16, 32)[whole], values.reshape(4, 16, 32)[whole])


weights = hnp.arrays(
    np.float32, (64, 2), elements=st.floats(-4, 4, width=32).map(lambda x: x if abs(x) > 1e-3 else 0.0)
)


@pytest.mark.parametrize("how", quant.KINDS)
@settings(max_examples=20, deadline=None)
@given(w=weights)
def test_every_weight_is_within_half_a_step(how, w):
    leaf = jax.jit(quant.quantise, static_argnums=1)(w, how)
    scale = np.asarray(leaf.scale, np.float32).reshape(2, -1)
    step = np.repeat(scale, 64 // scale.shape[1], 1).T
    # Beside half a step, the rounding of sums in float32 of numbers up to 8.
    assert np.all(np.abs(np.asarray(quant.dequantise(leaf)) - w) <= step / 2 + 2e-6)


def test_bytes_are_half_a_byte_or_one_and_the_scales():
    w = jax.ShapeDtypeStruct((3, 128, 48), jnp.bfloat16)
    sizes = {how: quant.bytes_of(jax.eval_shape(lambda w, how=how: quant.quantise(w, how), w)) for how in quant.KINDS}
    n = 3 * 128 * 48
    assert sizes == {"int8": n + 3 * 48 * 2, "int4": n // 2 + n // 64 * 2, "int4-min": n // 2 + n // 32 * 4}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("how", quant.KINDS)
def test_products_and_their_gradients_are_those_of_the_numbers_that_stand_for(golden, how, dtype):
    leaf = quant.quantise(golden["w"].T, how)
    x = jnp.asarray(golden["x"], dtype)
    w = quant.dequantise(leaf)
    g = jax.random.normal(jax.random.key(0), (5, 48)).astype(dtype)
    y, back = jax.vjp(lambda x: quant.linear(x, leaf), x)
    exact, exact_back = jax.vjp(lambda x: jnp.matmul(x, w, precision="highest"), x.astype(jnp.float32))
    assert y.dtype == back(g)[0].dtype == dtype
    # In bfloat16 operands have 8 digits: relative to the largest number, which is a sum of many.
    tolerance = {"float32": 1e-5, "bfloat16": 1e-2}[dtype]
    for found, expected in ((y, exact), (back(g)[0], exact_back(g.astype(jnp.float32))[0])):
        assert np.max(np.abs(found.astype(jnp.float32) - expected)) <= tolerance * np.max(np.abs(expected))


@pytest.mark.parametrize("how", quant.KINDS)
def test_leaves_are_stacked_over_layers_and_scanned(how):
    w = jax.random.normal(jax.random.key(1), (3, 64, 64))
    leaf = quant.quantise(w, how)
    x = jax.random.normal(jax.random.key(2), (4, 64))
    scanned, _ = jax.lax.scan(lambda x, w: (jnp.tanh(quant.linear(x, w)), None), x, leaf)
    for i in range(3):
        x = jnp.tanh(quant.linear(x, quant.quantise(w[i], how)))
    np.testing.assert_allclose(scanned, x, rtol=1e-5, atol=1e-5)


def test_what_is_quantised_cannot_be_quantised_again():
    with pytest.raises(InputError, match="quantised already.*Int8"):
        quant.quantise(quant.quantise(jnp.ones((4, 4)), "int8"), "int4")
    with pytest.raises(InputError, match="group of 64 does not divide 96"):
        quant.quantise(jnp.ones((96, 4)), "int4")
    with pytest.raises(InputError, match="choose one of int8, int4, int4-min"):
        quant.quantise(jnp.ones((64, 4)), "fp4")
