"""Attention on a TPU that keeps the scores on the chip: JAX's splash attention, which wants lengths of 128 and more."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu import splash_attention as library

from trm_jax.models import target
from trm_jax.models.layers import round_up

_BLOCK = 512
_LONG = 4096  # tokens, from which on the library would take many seconds to look through a mask of numbers


def splash(q, k, v, *, causal: bool, scale: float, segments: jax.Array | None = None) -> jax.Array:
    """As `trm_jax.models.attention.attention`. Anywhere but on a TPU the kernels are interpreted, slowly."""
    length = q.shape[1]
    padded = round_up(length, 128 if length <= _BLOCK else _BLOCK)
    out_of = partial(_attend, causal, length, padded)

    def by_heads(x):
        return jnp.pad(x.swapaxes(1, 2), ((0, 0), (0, 0), (0, padded - length), (0, 0)))

    if segments is not None:  # the rows of the padding are in the last one: every row must see something
        segments = jnp.pad(segments, ((0, 0), (0, padded - length)), mode="edge")
    q = (q.astype(jnp.float32) * scale).astype(q.dtype)  # the library has no scale
    return out_of(by_heads(q), by_heads(k), by_heads(v), segments)[:, :, :length].swapaxes(1, 2)


def _kernel(causal: bool, length: int, padded: int, heads: int):
    """The library's kernel on [H, padded, K]; no row but of the padding sees keys of the padding."""
    if causal and padded >= _LONG:
        mask = library.CausalMask((padded, padded))
    else:
        seen = np.tile(np.arange(padded) < length, (padded, 1))
        mask = library.NumpyMask(np.tril(seen) if causal else seen)
    block = min(padded, _BLOCK)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute")
    return library.make_splash_mha(
        library.MultiHeadMask([mask] * heads),
        block_sizes=library.BlockSizes(**{f"block_{name}": block for name in names}, use_fused_bwd_kernel=True),
        head_shards=1,
        q_seq_shards=1,
        interpret=target.platform() != "tpu",
    )


def _precision(dtype):
    """The library's products take the precision that is set when they are traced."""
    return jax.default_matmul_precision("highest" if dtype == jnp.float32 else "default")


# Differentiated by hand for the sake of that precision: the backward pass is traced when nobody has set it any more.
@partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _attend(causal, length, padded, q, k, v, segments):
    return _attend_fwd(causal, length, padded, q, k, v, segments)[0]


def _attend_fwd(causal, length, padded, q, k, v, segments):
    ids = None if segments is None else library.SegmentIds(segments, segments)
    kernel = _kernel(causal, length, padded, q.shape[1])
    with _precision(q.dtype):
        return jax.vjp(lambda *qkv: jax.vmap(kernel)(*qkv, ids), q, k, v)


def _attend_bwd(causal, length, padded, back, g):
    with _precision(g.dtype):
        return *back(g), None


_attend.defvjp(_attend_fwd, _attend_bwd)
