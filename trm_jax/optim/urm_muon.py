"""URM's Muon (arXiv 2512.14693) as an optax transformation: orthogonalised momentum of whole matrices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

# Of the five quintic iterations.
_COEFFICIENTS = (
    (7.2086, -15.5131, 9.0178),
    (3.9623, -2.5813, 0.4542),
    (3.9466, -2.5765, 0.4544),
    (3.8991, -2.5671, 0.4566),
    (3.7186, -2.5308, 0.4653),
)
_RMS = 0.2  # of an update of Adam, which the result is as large as


def _orthogonal(matrix: jax.Array) -> jax.Array:
    """About the nearest orthogonal matrix to one [n, m], float32."""
    x = matrix.T if matrix.shape[0] > matrix.shape[1] else matrix
    x = x / jnp.maximum(jnp.linalg.norm(x), 1e-7)

    def product(a, b):
        return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)

    for a, b, c in _COEFFICIENTS:
        gram = product(x, x.T)
        x = a * x + product(b * gram + c * product(gram, gram), x)
    return x.T if matrix.shape[0] > matrix.shape[1] else x


def scale_by_urm_muon(beta: float = 0.95) -> optax.GradientTransformation:
    """Muon for arrays [in, ...out], each of which is one matrix: momentum `m = beta m + g`, and the orthogonal matrix
    nearest to `g + beta m`, rounded to bfloat16, times 0.2 sqrt(longer side)."""

    def init(params):
        return optax.TraceState(jax.tree.map(jnp.zeros_like, params))

    def update(grads, state, params=None):
        del params
        trace: Any = jax.tree.map(lambda m, g: beta * m + g, state.trace, grads)

        def one(m, g):
            matrix = (g + beta * m).astype(jnp.bfloat16).astype(jnp.float32).reshape(len(g), -1)
            return (_RMS * max(matrix.shape) ** 0.5 * _orthogonal(matrix)).reshape(g.shape)

        return jax.tree.map(one, trace, grads), optax.TraceState(trace)

    return optax.GradientTransformation(init, update)


def scale_by_urm_adam(b1: float = 0.9, b2: float = 0.95, eps: float = 1e-8) -> optax.GradientTransformation:
    """Adam as it stands beside this Muon: epsilon is added to the root of the second moment before its correction."""

    def init(params):
        zeros = (jax.tree.map(jnp.zeros_like, params) for _ in range(2))
        return optax.ScaleByAdamState(jnp.zeros((), jnp.int32), *zeros)

    def update(grads, state, params=None):
        del params
        count = state.count + 1
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, grads)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * g * g, state.nu, grads)
        t = count.astype(jnp.float32)
        size = jnp.sqrt(1 - b2**t) / (1 - b1**t)
        return jax.tree.map(lambda m, v: size * m / (jnp.sqrt(v) + eps), mu, nu), optax.ScaleByAdamState(count, mu, nu)

    return optax.GradientTransformation(init, update)
