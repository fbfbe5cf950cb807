"""Random numbers that each row of a batch draws by itself: its place, its neighbours and the devices change nothing.

Keys are raw, [B, 2] uint32.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


def keys_of(seed: int, inputs: jax.Array) -> jax.Array:
    """Keys [B, 2] of puzzles [B, S], by their tokens alone: two sums with fixed random factors, modulo 2**32."""
    factors = np.random.default_rng(seed).integers(2**32, size=(2, inputs.shape[1]), dtype=np.uint32) | np.uint32(1)
    return jnp.sum((inputs[:, None].astype(jnp.uint32) + 1) * factors, axis=-1, dtype=jnp.uint32)


def fold(keys: jax.Array, number) -> jax.Array:
    """keys [B, 2] folded with one number, or with one for each row."""
    numbers = jnp.broadcast_to(number, keys.shape[:1])
    return jax.vmap(lambda k, n: jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(k), n)))(keys, numbers)


def draw(how: Callable, keys: jax.Array) -> jax.Array:
    """how(key) for each row by itself: [B, ...]."""
    return jax.vmap(lambda key: how(jax.random.wrap_key_data(key)))(keys)
