"""NorMuon as an optax transformation: orthogonalised momentum, evened out over the rows of each matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from trm_jax.models import target

_COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # of the quintic iteration of Muon


class NorMuonState(NamedTuple):
    momentum: Any
    second: Any  # [..., out] mean squares of the rows


def newton_schulz(matrices: jax.Array, dtype: Any = None, steps: int = 5) -> jax.Array:
    """About the nearest orthogonal matrices to [..., out, in], float32: singular values near 1.

    dtype: of the iteration; None is bfloat16, and float32 on a CPU, where bfloat16 products are far slower. The devices
    of a mesh share a stack of matrices.
    """
    dtype = dtype or (jnp.float32 if target.platform() == "cpu" else jnp.bfloat16)
    precision = lax.Precision.HIGHEST if dtype == jnp.float32 else None
    a, b, c = _COEFFICIENTS

    def iterate(x, _):
        gram = jnp.matmul(x, x.mT, precision=precision)
        return a * x + jnp.matmul(
            b * gram + c * jnp.matmul(gram, gram, precision=precision), x, precision=precision
        ), None

    def orthogonal(matrices):
        x = matrices.astype(dtype)
        tall = x.shape[-2] > x.shape[-1]
        x = x.mT if tall else x
        x = x / (_norm(x).astype(dtype) + jnp.asarray(1e-7, dtype))
        x, _ = lax.scan(iterate, x, length=steps)
        return x.mT if tall else x

    # Each kind of matrix by itself, gathered before it is float32. Of the presets' 32 matrices each of 32 chips has 4:
    # 1.6e11 FLOPs of 1.3e12, and sends 132 MB. With one matrix each, of whichever kind, it would have up to 0.8e11, but
    # results of unlike sizes, padded: 293 MB sent, and 5.9 GB through its memory in place of 2.3, which takes longer.
    return (target.shared_out(orthogonal, matrices) if matrices.ndim > 2 else orthogonal(matrices)).astype(jnp.float32)


def _norm(x: jax.Array) -> jax.Array:
    """Frobenius norms [..., 1, 1] in float32."""
    return jnp.sqrt(jnp.sum(jnp.square(x.astype(jnp.float32)), axis=(-2, -1), keepdims=True))


def scale_by_normuon(beta: float = 0.95, beta2: float = 0.95, dtype: Any = None) -> optax.GradientTransformation:
    """Muon whose rows are divided by their running root mean square (arXiv 2510.05491), for arrays [..., out, in].

    The result has the norm of the orthogonalised momentum times sqrt(max(1, out / in)). Gradients of zero give zero.
    dtype: of `newton_schulz`.
    """

    def init(params):
        second = jax.tree.map(lambda p: jnp.zeros(p.shape[:-1], jnp.float32), params)
        return NorMuonState(jax.tree.map(jnp.zeros_like, params), second)

    def update(grads, state, params=None):
        del params
        momentum = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, state.momentum, grads)
        found = jax.tree.map(lambda m, g: newton_schulz((1 - beta) * g + beta * m, dtype), momentum, grads)
        second = jax.tree.map(
            lambda v, u: beta2 * v + (1 - beta2) * jnp.mean(jnp.square(u), axis=-1), state.second, found
        )

        def even(u, v):
            rows = u / (jnp.sqrt(v) + 1e-10)[..., None]
            out, inner = u.shape[-2:]
            return rows * (_norm(u) / (_norm(rows) + 1e-10)) * max(1.0, out / inner) ** 0.5

        return jax.tree.map(even, found, second), NorMuonState(momentum, second)

    return optax.GradientTransformation(init, update)
