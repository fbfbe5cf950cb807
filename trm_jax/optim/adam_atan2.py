"""AdamATan2 as an optax transformation."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class AdamATan2State(NamedTuple):
    count: jax.Array
    mu: Any
    nu: Any


def scale_by_adam_atan2(b1: float = 0.9, b2: float = 0.95) -> optax.GradientTransformation:
    """Adam whose ratio is taken by atan2, so there is no epsilon (arXiv 2407.05872).

    As in the reference the first moment's bias correction stands outside:
    atan2(m, sqrt(v) / sqrt(1 - b2^t)) / (1 - b1^t).
    """

    def init(params):
        return AdamATan2State(
            jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), jax.tree.map(jnp.zeros_like, params)
        )

    def update(grads, state, params=None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        t = count.astype(jnp.float32)
        first, second = 1.0 / (1 - b1**t), 1.0 / jnp.sqrt(1 - b2**t)
        updates = jax.tree.map(lambda m, v: first * jnp.arctan2(m, jnp.sqrt(v) * second), mu, nu)
        return updates, AdamATan2State(count, mu, nu)

    return optax.GradientTransformation(init, update)
