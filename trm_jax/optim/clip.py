"""Clipping of gradients by their norm, of one model or of several side by side."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax


def norms(grads: Any, several: bool = False) -> jax.Array:
    """The norm of a tree of gradients, []; of `several` models along the first axis of every array, each one's, [N]."""
    return jax.vmap(optax.tree.norm)(grads) if several else optax.tree.norm(grads)


def clip(grads: Any, norm: jax.Array, most: float) -> Any:
    """Gradients whose norm is at most `most`, or as it is for 0; norm: theirs, of `norms`.

    Of several models each is clipped by itself, and one whose gradient is not finite has none.
    """

    def of_one(grads, norm):
        factor = jnp.minimum(1.0, most / (norm + 1e-6)) if most else 1.0
        return jax.tree.map(lambda g: g * factor, grads)

    return of_finite(jax.vmap(of_one)(grads, norm), norm) if norm.ndim else of_one(grads, norm)


def of_finite(tree: Any, norm: jax.Array) -> Any:
    """A tree of several models, zero for those whose norm [N] is not finite."""
    return jax.vmap(lambda tree, norm: jax.tree.map(lambda x: jnp.where(jnp.isfinite(norm), x, 0), tree))(tree, norm)
