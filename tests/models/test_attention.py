"""Every implementation of attention against float64, and what causality and segments let through.

Kernels are interpreted where their device is missing, which takes a compilation of seconds for each shape; so the
inputs of one shape share it.
"""

import functools
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_jax import sharding
from trm_jax.errors import InputError
from trm_jax.models import target
from trm_jax.models.attention import attention, fastest

KERNELS = ("flash", "splash")  # those that can be interpreted
# Largest difference over largest magnitude (at least 1): float32's rounding of a few sums; for two bytes, a rounding of
# every array on the way, three or four of which meet in a gradient.
NEAR = {"float32": 2e-6, "float16": 4e-3, "bfloat16": 3e-2}


def exact(q, k, v, g, causal=False, segments=None, scale=None, dropped=1.0):
    """(output, gradients of q, k, v) in float64 of attention on [B, T, H, K], whose output has the gradient g.

    dropped: factors [B, H, T, T] of softmax's weights.
    """
    q, k, v, g = (np.asarray(x, np.float64) for x in (q, k, v, g))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    seen = np.ones((q.shape[1], q.shape[1]), bool)
    seen = np.tril(seen) if causal else seen
    if segments is not None:
        seen = seen & np.equal(segments[:, None, :, None], segments[:, None, None, :])
    scores = np.where(seen, scale * np.einsum("bqhk,bmhk->bhqm", q, k), -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    of_weights = np.einsum("bqhk,bmhk->bhqm", g, v) * dropped
    of_scores = scale * weights * (of_weights - (weights * of_weights).sum(-1, keepdims=True))
    return (
        np.einsum("bhqm,bmhk->bqhk", weights * dropped, v),
        np.einsum("bhqm,bmhk->bqhk", of_scores, k),
        np.einsum("bhqm,bqhk->bmhk", of_scores, q),
        np.einsum("bhqm,bqhk->bmhk", weights * dropped, g),
    )


@functools.cache
def compiled(impl: str, causal: bool, scale: float | None = None, dropout: float = 0.0):
    """ours(q, k, v, g, segments, keys): as `exact`, by `impl`."""

    @jax.jit
    def ours(q, k, v, g, segments, keys=None):
        def attend(*qkv):
            drops = {"dropout": dropout, "keys": keys}
            return attention(*qkv, causal=causal, segments=segments, scale=scale, impl=impl, **drops)

        out, back = jax.vjp(attend, q, k, v)
        return out, *back(g)

    return ours


def assert_near(impl, arrays, causal, segments, scale=None, dtype="float32", near=None):
    arrays = [jnp.asarray(x, dtype) for x in arrays]
    found = compiled(impl, causal, scale)(*arrays, segments)
    for ours, expected in zip(found, exact(*arrays, causal, segments, scale), strict=True):
        assert ours.dtype == dtype
        most = (near or NEAR[dtype]) * max(np.abs(expected).max(), 1)
        np.testing.assert_allclose(np.float64(ours), expected, rtol=0, atol=most)


def rows_of(rng, *sizes):
    """q, k, v and the output's gradient [B, T, H, K]."""
    return list(rng.standard_normal((4, *sizes)))


def test_a_long_causal_mask_is_computed_where_it_is_used(monkeypatch):
    """Of two rows in three segments, whose end is padded; in a program of its own, for the scale is."""
    monkeypatch.setattr(importlib.import_module("trm_jax.models.attention.splash"), "_LONG", 1)
    segments = jnp.array(np.repeat([[0, 1, 2], [0, 0, 1]], 30, axis=1), jnp.int32)
    assert_near("splash", rows_of(np.random.default_rng(3), 2, 90, 2, 8), True, segments, scale=0.31)


def segments_of(rng, *sizes):
    return np.sort(rng.integers(0, 3, sizes), axis=1).astype(np.int32)


@st.composite
def cases(draw, sizes=(3, 7, 3, 5)):
    """q, k, v, g of odd sizes, some of them large enough that softmax is one-hot; causality, segments, scale."""
    sizes = [draw(st.integers(1, top)) for top in sizes]
    rng, factor = np.random.default_rng(draw(st.integers(0, 1000))), draw(st.sampled_from([0.1, 1.0, 30.0]))
    q, k, v, g = rows_of(rng, *sizes)
    segments = segments_of(rng, *sizes[:2]) if draw(st.booleans()) else None
    # Scores of up to 5,000 are rounded to 3e-4 in float32, which large inputs' gradients see.
    near = 2e-6 if factor * np.abs([q, k]).max() < 10 else 5e-3
    scaled = factor * q, factor * k, v / np.abs(v).max(), g
    return scaled, draw(st.booleans()), segments, draw(st.sampled_from([None, 0.3])), near


@pytest.mark.parametrize(
    "impl, examples, sizes", [("dense", 12, (3, 7, 3, 5)), *((k, 3, (2, 40, 2, 20)) for k in KERNELS)]
)
def test_any_shape_against_float64(impl, examples, sizes):
    @settings(max_examples=examples)
    @given(case=cases(sizes))
    def holds(case):
        arrays, causal, segments, scale, near = case
        assert_near(impl, arrays, causal, segments, scale, near=near)

    holds()


def adversarial(rng, *sizes):
    """name -> (arrays, segments, tolerance)."""
    q, k, v, g = rows_of(rng, *sizes)
    length, none = sizes[1], np.zeros(sizes[:2], np.int32)
    dominant = k.copy()
    dominant[:, length // 2] *= 20
    return {
        "random": ((q, k, v, g), none, None),
        "large scores": ((30 * q, 30 * k, v, g), none, 5e-3),
        "one dominant key": ((q, dominant, v, g), none, 2e-5),
        "equal keys": ((q, np.ones_like(k), v, g), none, None),
        "zero queries": ((0 * q, k, v, g), none, None),
        "segments": ((q, k, v, g), segments_of(rng, *sizes[:2]), None),
        "segments of one token": ((q, k, v, g), np.tile(np.arange(length, dtype=np.int32), (sizes[0], 1)), None),
    }


@pytest.mark.parametrize(
    "length, causal", [(1, False), (2, True), (97, False), (127, True), (128, False), (129, False), (129, True)]
)
@pytest.mark.parametrize("impl", ["dense", *KERNELS])
def test_adversarial_inputs(impl, length, causal):
    """Lengths around a block of 128."""
    for arrays, segments, near in adversarial(np.random.default_rng(0), 1, length, 1, 6).values():
        assert_near(impl, arrays, causal, segments, near=near)


def test_flash_in_many_blocks():
    """A head of 300 in float32 fills a block with 16 rows: five blocks, the last with one row.

    Where a gradient vanishes, sums of 300 products of size 1 cancel: hence 1e-5.
    """
    for arrays, segments, near in adversarial(np.random.default_rng(0), 1, 65, 1, 300).values():
        assert_near("flash", arrays, True, segments, near=near or 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("impl", KERNELS)
def test_kernels_on_900_cells(impl, causal):
    rng = np.random.default_rng(0)
    assert_near(impl, rows_of(rng, 1, 916, 2, 64), causal, segments_of(rng, 1, 916))
    assert_near(impl, rows_of(rng, 1, 916, 1, 64), causal, None, dtype="bfloat16")


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("impl", ["dense", *KERNELS])
def test_two_byte_activations(impl, dtype):
    assert_near(impl, rows_of(np.random.default_rng(0), 2, 97, 2, 16), False, None, dtype=dtype)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("impl", ["dense", *KERNELS])
def test_what_a_token_sees_has_a_gradient_and_nothing_else(impl, causal):
    """Row t of the batch asks for the gradient of token t's output alone."""
    q, k, v, _ = rows_of(np.random.default_rng(0), 6, 6, 1, 4)
    arrays = [jnp.asarray(x, jnp.float32) for x in (q, k, v, np.eye(6)[:, :, None, None] * np.ones(4))]
    for segments in (np.zeros(6, np.int32), np.array([0, 0, 0, 1, 1, 1], np.int32)):
        *_, of_k, of_v = compiled(impl, causal, None)(*arrays, np.tile(segments, (6, 1)))
        seen = np.equal.outer(segments, segments)
        seen = np.tril(seen) if causal else seen
        np.testing.assert_array_equal(np.abs(of_v).max((-1, -2)) > 0, seen)
        assert not np.abs(of_k).max((-1, -2))[~seen].any()


@pytest.mark.parametrize("impl", KERNELS)
def test_devices_share_rows_and_heads(impl):
    """Each of four devices has half of the rows and one of the heads: no array is gathered."""
    mesh = sharding.make_mesh(data=2, tensor=2, devices=jax.devices()[:4])
    rng = np.random.default_rng(0)
    arrays, segments = [jnp.asarray(x, jnp.float32) for x in rows_of(rng, 2, 5, 2, 4)], segments_of(rng, 2, 5)
    lies = jax.NamedSharding(mesh, jax.P("data", None, "tensor", None))
    shared = jax.jit(
        sharding.traced_on(mesh, sharding.Rules())(compiled(impl, True, None).__wrapped__),
        in_shardings=(*(lies,) * 4, jax.NamedSharding(mesh, jax.P("data"))),
    )
    for found, expected in zip(shared(*arrays, segments), exact(*arrays, True, segments), strict=True):
        assert found.sharding.is_equivalent_to(lies, 4)
        np.testing.assert_allclose(found, expected, atol=2e-6 * max(np.abs(expected).max(), 1))
    assert "all-gather" not in shared.lower(*arrays, segments).compile().as_text()


def test_heads_that_devices_cannot_share():
    x = jnp.zeros((2, 4, 3, 2))
    with (
        sharding.traced_on(sharding.make_mesh(tensor=2, devices=jax.devices()[:2]), sharding.Rules()),
        pytest.raises(InputError, match="3 heads cannot be shared by 2 devices"),
    ):
        attention(x, x, x, impl="flash")


@pytest.mark.filterwarnings("ignore:The Pallas Triton backend is deprecated:DeprecationWarning")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
@pytest.mark.parametrize("length", [97, 916])
def test_flash_is_lowered_to_triton(length, dtype, dropout):
    """Without a GPU: that Triton's arrays have sizes it takes. One kernel forward; one backward, two in blocks."""
    x, segments = jax.ShapeDtypeStruct((2, length, 2, 48), dtype), jax.ShapeDtypeStruct((2, length), "int32")
    keys = jax.ShapeDtypeStruct((2, 2), "uint32")
    try:
        device = {"abstract_device": jax.sharding.AbstractDevice("NVIDIA H200", None, "gpu")}
    except AttributeError:
        device = {}
    mesh = jax.sharding.AbstractMesh((1,), ("x",), **device)
    with target.made_for("gpu"), jax.sharding.use_abstract_mesh(mesh):
        ours = jax.jit(compiled("flash", True, dropout=dropout).__wrapped__)
        text = ours.trace(x, x, x, x, segments, keys).lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("__gpu$xla.gpu.triton") == (2 if dtype == "bfloat16" and length == 97 else 3)


def test_cudnn_where_it_cannot_be_used():
    x = jnp.zeros((1, 3, 1, 8), jnp.bfloat16)
    with pytest.raises(InputError, match="cudnn knows no segments; choose flash"):
        attention(x, x, x, segments=jnp.zeros((1, 3), jnp.int32), impl="cudnn")
    with pytest.raises(InputError, match="bfloat16 or float16"):
        attention(*[x.astype(jnp.float32)] * 3, impl="cudnn")


@pytest.mark.skipif("jax.default_backend() != 'gpu'", reason="it needs a GPU")
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("length", [97, 98, 916])
def test_cudnn_against_float64(length, causal):
    assert_near("cudnn", rows_of(np.random.default_rng(0), 2, length, 2, 64), causal, None, dtype="bfloat16")


@pytest.mark.parametrize(
    ("platform", "capability", "dtype", "length", "segmented", "chosen"),
    [
        ("cpu", 0.0, "bfloat16", 916, False, "dense"),
        ("gpu", 9.0, "bfloat16", 97, False, "flash"),
        ("gpu", 8.0, "bfloat16", 916, False, "cudnn"),
        ("gpu", 7.5, "float16", 916, False, "dense"),
        ("gpu", 9.0, "float16", 916, True, "flash"),
        ("gpu", 9.0, "float32", 916, False, "dense"),
        ("tpu", 0.0, "bfloat16", 97, False, "dense"),
        ("tpu", 0.0, "bfloat16", 916, True, "splash"),
    ],
)
def test_auto_takes_what_was_measured_to_be_the_fastest(platform, capability, dtype, length, segmented, chosen):
    with target.made_for(platform, capability):
        assert fastest(length, jnp.dtype(dtype), segmented) == chosen


def test_auto_on_a_cpu_is_dense_bit_for_bit():
    q, k, v, _ = (jnp.asarray(x, jnp.float32) for x in rows_of(np.random.default_rng(0), 1, 300, 1, 4))
    np.testing.assert_array_equal(attention(q, k, v, impl="auto"), attention(q, k, v, impl="dense"))


def test_an_unknown_implementation():
    x = jnp.zeros((1, 2, 1, 2))
    with pytest.raises(ValueError, match="'flash9' is not one of auto, dense"):
        attention(x, x, x, impl="flash9")
