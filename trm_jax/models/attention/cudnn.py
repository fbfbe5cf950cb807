"""Attention by NVIDIA's cuDNN."""

import jax
import jax.numpy as jnp

from trm_jax.errors import InputError


def cudnn(q, k, v, *, causal: bool, scale: float, segments: jax.Array | None = None) -> jax.Array:
    """As `trm_jax.models.attention.attention`. Raises InputError for segments and for float32."""
    if segments is not None:
        raise InputError("attention_impl cudnn knows no segments; choose flash")
    if q.dtype == jnp.float32:
        raise InputError("attention_impl cudnn computes in bfloat16 or float16; set one of them or choose flash")
    length, lengths = q.shape[1], None
    if length % 2:  # its backward pass refuses odd lengths
        q, k, v = (jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v))
        lengths = jnp.full(q.shape[0], length, jnp.int32)
    out = jax.nn.dot_product_attention(
        q,
        k,
        v,
        scale=scale,
        is_causal=causal,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation="cudnn",
    )
    return out[:, :length]
