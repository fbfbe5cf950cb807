"""Adam as PyTorch rounds it, as an optax transformation."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax


def scale_by_adam(b1: float = 0.9, b2: float = 0.999, eps: float = 1e-8) -> optax.GradientTransformation:
    """`optax.scale_by_adam`, but with bias corrections 1 - b^t that are right to float32's last digits.

    optax subtracts b^t in float32 from 1, which for b2 = 0.999 is off by 1e-5 of what is left. So each element of an
    early step is too short by half as much, and together a loss feels that. The state is optax's.
    """

    def update(grads, state, params=None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        first, second = (-jnp.expm1(count.astype(jnp.float32) * np.log(b)) for b in (b1, b2))
        updates = jax.tree.map(lambda m, v: (m / first) / (jnp.sqrt(v / second) + eps), mu, nu)
        return updates, optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(optax.scale_by_adam().init, update)
