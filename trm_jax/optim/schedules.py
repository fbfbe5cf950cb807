"""Learning rates."""

from __future__ import annotations

import jax.numpy as jnp


def warmup_cosine(t, lr, warmup_steps, total_steps: int, min_ratio=1.0):
    """Learning rate of update t = 1, 2, ...: linear warm-up, then cosine to `min_ratio * lr` (1.0 = constant)."""
    t = jnp.asarray(t, jnp.float32)
    progress = (t - warmup_steps) / jnp.maximum(1, total_steps - warmup_steps)
    cosine = min_ratio + jnp.maximum(0.0, (1 - min_ratio) * 0.5 * (1 + jnp.cos(jnp.pi * progress)))
    return lr * jnp.where(t < warmup_steps, t / jnp.maximum(1, warmup_steps), cosine)


def warmup_stable_decay(t, lr, warmup_share: float, decay_share: float, total_steps: int):
    """Learning rate of update t = 1, 2, ...: up over `warmup_share` of the run, flat, down to 0 over `decay_share`.

    By the share of the run that is done before the update: the first one has rate 0 where there is a warm-up.
    """
    done = (jnp.asarray(t, jnp.float32) - 1) / total_steps
    up = done / warmup_share if warmup_share else jnp.ones_like(done)
    down = (1 - done) / decay_share if decay_share else jnp.ones_like(done)
    return lr * jnp.minimum(jnp.minimum(up, 1.0), down)
