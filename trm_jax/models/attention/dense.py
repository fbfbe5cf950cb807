"""Attention in plain XLA: the scores are materialised; what every other implementation is held against."""

from functools import partial

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trm_jax.models.attention.dropout import dropping


def dense(
    q, k, v, *, causal: bool, scale: float, segments: jax.Array | None = None, words=None, rate: float = 0.0
) -> jax.Array:
    """As `trm_jax.models.attention.attention`; words: of `dropout.words`, for dropout at this rate."""
    heads = q.shape[2]
    mask = _mask(q.shape[1], heads, causal, segments)
    # One batch axis in front: XLA then puts no transposes of its own around the products.
    q, k, v = (einops.rearrange(x, "b t h k -> (b h) t k") for x in (q, k, v))
    words = None if words is None else einops.rearrange(words, "two b h t -> two (b h) t")
    out = _attend(q, k, v, mask, words, scale, rate)
    return einops.rearrange(out, "(b h) t k -> b t h k", h=heads)


def _mask(length: int, heads: int, causal: bool, segments: jax.Array | None) -> jax.Array | None:
    """Which token (row) sees which (column): bool [1 or B * heads, T, T]; None when all see all."""
    mask = np.tril(np.ones((1, length, length), bool)) if causal else None
    if segments is not None:
        same = jnp.repeat(segments[:, :, None] == segments[:, None, :], heads, axis=0)
        mask = same if mask is None else same & mask
    return mask


def _dot(x, y, contract_x: int, contract_y: int):
    """Product of [N, ., .] and [N, ., .] for every N, accumulated and returned in float32."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    dims = (((contract_x,), (contract_y,)), ((0,), (0,)))
    return lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)


@partial(jax.custom_vjp, nondiff_argnums=(5, 6))
def _attend(q, k, v, mask, words, scale, rate):
    return _attend_fwd(q, k, v, mask, words, scale, rate)[0]


def _attend_fwd(q, k, v, mask, words, scale, rate):
    scores = _dot(q, k, 2, 2)
    if mask is not None:
        scores = jnp.where(mask, scores, jnp.finfo(jnp.float32).min)
    # The output [T, K] is normalised instead of the weights [T, T], and the scale is folded into the exponent.
    weights = jnp.exp(scale * (scores - scores.max(-1, keepdims=True)))
    inverse = 1.0 / weights.sum(-1, keepdims=True)
    weights = weights.astype(v.dtype)
    out = (_dot(dropping(words, rate)(weights), v, 2, 1) * inverse).astype(v.dtype)
    return out, (q, k, v, words, weights, inverse, out)


def _attend_bwd(scale, rate, kept, g):
    q, k, v, words, weights, inverse, out = kept
    drop = dropping(words, rate)  # again: it is cheaper to make than to keep
    g32 = g.astype(jnp.float32) * inverse
    mean = (g32 * out.astype(jnp.float32)).sum(-1, keepdims=True)
    g = g32.astype(v.dtype)
    g_scores = weights.astype(jnp.float32) * (drop(_dot(g, v, 2, 2)) - mean) * scale
    g_scores = g_scores.astype(v.dtype)
    grads = _dot(g_scores, k, 2, 1), _dot(g_scores, q, 1, 1), _dot(drop(weights), g, 1, 1)
    return *(grad.astype(v.dtype) for grad in grads), None, None


_attend.defvjp(_attend_fwd, _attend_bwd)
