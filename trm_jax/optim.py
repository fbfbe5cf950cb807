"""Optimisers as optax transforms: AdamATan2, AdamW, Lion, and the puzzle table's sparse sign-SGD.

Learning rates follow the reference's counting: update number t starts at 1 and warms up with t / warmup.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

Schedule = Callable[[jax.Array], jax.Array]

OPTIMIZERS = ("adam_atan2", "adamw", "lion")


def warmup_cosine(lr: float, warmup_steps: int, total_steps: int, min_ratio: float = 1.0) -> Schedule:
    """Learning rate of update t = 1, 2, ...: linear warm-up, then cosine to `min_ratio * lr` (1.0 = constant)."""

    def schedule(t):
        t = jnp.asarray(t, jnp.float32)
        progress = (t - warmup_steps) / jnp.maximum(1, total_steps - warmup_steps)
        cosine = min_ratio + jnp.maximum(0.0, (1 - min_ratio) * 0.5 * (1 + jnp.cos(jnp.pi * progress)))
        return lr * jnp.where(t < warmup_steps, t / jnp.maximum(1, warmup_steps), cosine)

    return schedule


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


def make(
    name: str,
    schedule: Schedule,
    *,
    b1: float = 0.9,
    b2: float = 0.95,
    weight_decay: float = 0.0,
    decay_mask: Any = None,
) -> optax.GradientTransformation:
    """The named optimiser with decoupled decay `p *= 1 - lr * weight_decay` on every parameter (or `decay_mask`'s)."""
    if name == "adam_atan2":
        scale = scale_by_adam_atan2(b1, b2)
    elif name == "adamw":
        scale = optax.scale_by_adam(b1, b2)
    elif name == "lion":
        scale = optax.scale_by_lion(b1, b2)
    else:
        raise ValueError(f"optimiser {name!r} is not one of {', '.join(OPTIMIZERS)}")
    return optax.chain(
        scale,
        optax.add_decayed_weights(weight_decay, decay_mask),
        # optax counts from 0; the reference's first update is number 1.
        optax.scale_by_learning_rate(lambda count: schedule(count + 1)),
    )


def sparse_sign_sgd(table: jax.Array, ids: jax.Array, row_grads: jax.Array, lr, weight_decay: float) -> jax.Array:
    """Sign-SGD on the touched rows of `table` [N, E] only.

    The gradients row_grads [B, E] of equal ids [B] are summed first; then, once per id,
    `w = w * (1 - lr * weight_decay) - lr * sign(sum)`, with sign(0) = 0. Untouched rows do not change, so memory and
    work depend on B, not on N.
    """
    batch = ids.shape[0]
    order = jnp.argsort(ids, stable=True)
    sorted_ids = ids[order]
    starts = jnp.concatenate([jnp.ones((1,), bool), sorted_ids[1:] != sorted_ids[:-1]])
    segment = jnp.cumsum(starts) - 1
    summed = jax.ops.segment_sum(row_grads[order], segment, num_segments=batch, indices_are_sorted=True)
    # Unused segments point past the table: gathered rows are ignored, scattered ones dropped.
    touched = jnp.full((batch,), table.shape[0], ids.dtype).at[segment].set(sorted_ids)
    rows = jnp.take(table, touched, axis=0, mode="clip")
    return table.at[touched].set(rows * (1.0 - lr * weight_decay) - lr * jnp.sign(summed), mode="drop")


def ema(average, params, decay: float):
    """Exponential moving average of a tree: `decay * average + (1 - decay) * params`."""
    return optax.incremental_update(params, average, step_size=1.0 - decay)
