"""Attention against a plain computation in float64, and what causality and segments let through."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_jax.models.attention import IMPLEMENTATIONS, attention


def plainly(q, k, v, causal=False, segments=None, scale=None):
    """Softmax attention of [B, T, H, K] in the dtype given, differentiable by JAX's own rules."""
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    scores = jnp.einsum("bqhk,bmhk->bhqm", q, k) * scale
    seen = jnp.ones(scores.shape[-2:], bool)
    if causal:
        seen = jnp.tril(seen)
    if segments is not None:
        seen = seen & (segments[:, None, :, None] == segments[:, None, None, :])
    return jnp.einsum("bhqm,bmhk->bqhk", jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1), v)


@st.composite
def cases(draw):
    """q, k, v of odd sizes, some of them large enough that softmax is one-hot; causality, segments, scale."""
    sizes = [draw(st.integers(1, top)) for top in (3, 7, 3, 5)]
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    q, k, v = draw(st.sampled_from([0.1, 1.0, 30.0])) * rng.standard_normal((3, *sizes))
    segments = draw(st.sampled_from([None, np.sort(rng.integers(0, 3, sizes[:2]), axis=1).astype(np.int32)]))
    return (q, k, v / np.abs(v).max()), draw(st.booleans()), segments, draw(st.sampled_from([None, 0.3]))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
@settings(max_examples=25)
@given(case=cases())
def test_against_float64(impl, case):
    """Values and gradients: 2e-6 of the largest is float32's rounding of a few sums."""
    qkv, causal, segments, scale = case
    how = {"causal": causal, "segments": segments, "scale": scale}
    pull = np.random.default_rng(1).standard_normal(qkv[0].shape)
    with jax.enable_x64(True):
        exact, back = jax.vjp(lambda *x: plainly(*x, **how), *map(jnp.float64, qkv))
        exact_grads = back(jnp.float64(pull))
    ours, back = jax.vjp(lambda *x: attention(*x, **how, impl=impl), *map(jnp.float32, qkv))
    for found, expected in zip((ours, *back(jnp.float32(pull))), (exact, *exact_grads), strict=True):
        # Scores of up to 5,000 are rounded to 3e-4 in float32, which large inputs' gradients see.
        near = 2e-6 if np.abs(qkv[0]).max() < 10 else 5e-3
        np.testing.assert_allclose(found, expected, rtol=0, atol=near * max(np.abs(expected).max(), 1))


@pytest.mark.parametrize("impl", IMPLEMENTATIONS)
def test_what_a_token_sees_has_a_gradient_and_nothing_else(impl):
    q, k, v = jnp.asarray(np.random.default_rng(0).standard_normal((3, 1, 6, 2, 4)), jnp.float32)
    segments = jnp.array([[0, 0, 0, 1, 1, 1]])

    def seen(**how):
        jacobian = jax.jacrev(lambda v: attention(q, k, v, impl=impl, **how)[0].sum((-1, -2)))(v)
        return np.abs(jacobian[:, 0]).max((-1, -2)) > 0

    np.testing.assert_array_equal(seen(), np.ones((6, 6), bool))
    np.testing.assert_array_equal(seen(causal=True), np.tril(np.ones((6, 6), bool)))
    same = np.equal.outer(*[np.asarray(segments[0])] * 2)
    np.testing.assert_array_equal(seen(segments=segments), same)
    np.testing.assert_array_equal(seen(causal=True, segments=segments), np.tril(same))


def test_an_unknown_implementation():
    x = jnp.zeros((1, 2, 1, 2))
    with pytest.raises(ValueError, match="'flash9' is not one of dense"):
        attention(x, x, x, impl="flash9")
