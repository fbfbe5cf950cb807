"""One attention function with a choice of implementation."""

import einops
import jax
import jax.numpy as jnp
from jax import lax

IMPLEMENTATIONS = ("dense",)


def attention(q: jax.Array, k: jax.Array, v: jax.Array, *, impl: str = "dense") -> jax.Array:
    """Bidirectional attention of q, k, v [B, T, H, K] -> [B, T, H, K], scaled by K**-0.5, softmax in float32.

    impl: "dense" is plain XLA and materialises the [B, H, T, T] scores; fused kernels join under their names.
    """
    if impl != "dense":
        raise ValueError(f"attention implementation {impl!r} is not one of {IMPLEMENTATIONS}")
    # One batch axis in front: XLA then puts no transposes of its own around the products.
    out = _dense(*(einops.rearrange(x, "b t h k -> (b h) t k") for x in (q, k, v)))
    return einops.rearrange(out, "(b h) t k -> b t h k", h=q.shape[2])


def _dot(x, y, contract_x: int, contract_y: int):
    """Product of [N, ., .] and [N, ., .] for every N, accumulated and returned in float32."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    dims = (((contract_x,), (contract_y,)), ((0,), (0,)))
    return lax.dot_general(x, y, dims, precision=precision, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _dense(q, k, v):
    return _dense_fwd(q, k, v)[0]


def _dense_fwd(q, k, v):
    scores = _dot(q, k, 2, 2)
    # The output [T, K] is normalised instead of the weights [T, T], and the scale is folded into the exponent.
    weights = jnp.exp(q.shape[-1] ** -0.5 * (scores - scores.max(-1, keepdims=True)))
    inverse = 1.0 / weights.sum(-1, keepdims=True)
    weights = weights.astype(v.dtype)
    out = (_dot(weights, v, 2, 1) * inverse).astype(v.dtype)
    return out, (q, k, v, weights, inverse, out)


def _dense_bwd(kept, g):
    q, k, v, weights, inverse, out = kept
    g32 = g.astype(jnp.float32) * inverse
    mean = (g32 * out.astype(jnp.float32)).sum(-1, keepdims=True)
    g = g32.astype(v.dtype)
    g_scores = weights.astype(jnp.float32) * (_dot(g, v, 2, 2) - mean) * q.shape[-1] ** -0.5
    g_scores = g_scores.astype(v.dtype)
    grads = _dot(g_scores, k, 2, 1), _dot(g_scores, q, 1, 1), _dot(weights, g, 1, 1)
    return tuple(grad.astype(v.dtype) for grad in grads)


_dense.defvjp(_dense_fwd, _dense_bwd)
