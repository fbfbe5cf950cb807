"""Dropout of attention's weights: which are kept is a pure function of the row's key, the head and the two tokens.

So every implementation drops the same ones, whatever its blocks and wherever a row or a head lies. A query and a key
have a word each, made once; a kernel mixes the two of them, which is all that it does for a weight.
"""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np


def _mix(x: jax.Array) -> jax.Array:
    """A permutation of uint32 that scatters: lowbias32, found by C. Wellons (github.com/skeeto/hash-prospector)."""
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ x >> np.uint32(shift)) * np.uint32(factor)
    return x ^ x >> np.uint32(16)


def words(keys: jax.Array, heads: int, length: int) -> jax.Array:
    """Of every token as a query, and as a key: uint32 [2, B, H, T]; keys uint32 [B, 2], one for each row."""
    x = _mix(jnp.arange(1, 2 * heads + 1, dtype=jnp.uint32)).reshape(2, 1, heads, 1)
    for part in (keys[None, :, :1, None], keys[None, :, 1:, None], jnp.arange(length, dtype=jnp.uint32)):
        x = _mix(x ^ part)
    return x


def kept(of_queries: jax.Array, of_keys: jax.Array, rate: float) -> jax.Array:
    """Which weights are kept: bool [..., Q, K], of words [..., Q] and [..., K]."""
    return _mix(of_queries[..., :, None] ^ of_keys[..., None, :]) >= np.uint32(rate * 2**32)


def dropping(words: Sequence | None, rate: float) -> Callable[[jax.Array], jax.Array]:
    """What drops of an array [..., Q, K], by the words of its queries and keys; nothing where there are none.

    What is kept grows, so that the mean over keys stays.
    """
    if words is None:
        return lambda x: x
    keep = kept(*words, rate)
    return lambda x: jnp.where(keep, x.astype(jnp.float32) * (1 / (1 - rate)), 0).astype(x.dtype)
