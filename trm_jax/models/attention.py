"""One attention function with a choice of implementation."""

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
    precision = lax.Precision.HIGHEST if q.dtype == jnp.float32 else None
    scores = jnp.einsum(
        "bqhk,bmhk->bhqm", q, k, precision=precision, preferred_element_type=jnp.float32
    ) * (q.shape[-1] ** -0.5)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bhqm,bmhk->bqhk", weights, v, precision=precision)
