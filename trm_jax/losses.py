"""Losses of TRM: token cross-entropy over stablemax or softmax, and the halting loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

IGNORE = -100  # label of a token that is neither trained nor scored
TOKEN_LOSSES = ("stablemax", "softmax")


def log_stablemax(logits: jax.Array) -> jax.Array:
    """log of stablemax over the last axis, in float32.

    stablemax(x) = s(x) / sum s(x) with s(x) = x + 1 for x >= 0 and 1 / (1 - x) below. Both branches are kept away
    from the other's pole by a second `where`: the naive form has a NaN gradient at a logit of exactly 1.
    """
    x = logits.astype(jnp.float32)
    # Not maximum and minimum: their gradient is halved at a tie, and a logit of exactly 0 is one.
    positive, negative = jnp.where(x >= 0, x, 0.0), jnp.where(x >= 0, 0.0, x)
    s = jnp.where(x >= 0, positive + 1.0, 1.0 / (1.0 - negative))
    log_s = jnp.where(x >= 0, jnp.log1p(positive), -jnp.log1p(-negative))
    return log_s - jnp.log(jnp.sum(s, axis=-1, keepdims=True))


def token_cross_entropy(logits: jax.Array, labels: jax.Array, kind: str = "stablemax") -> jax.Array:
    """Cross-entropy [B, S] in float32 of logits [B, S, V] and labels [B, S]; 0 where the label is IGNORE."""
    if kind not in TOKEN_LOSSES:
        raise ValueError(f"token loss {kind!r} is not one of {', '.join(TOKEN_LOSSES)}")
    log_p = log_stablemax(logits) if kind == "stablemax" else jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    valid = labels != IGNORE
    picked = jnp.take_along_axis(log_p, jnp.where(valid, labels, 0)[..., None], axis=-1)[..., 0]
    return jnp.where(valid, -picked, 0.0)


def act_loss(
    logits, q_halt, labels, kind: str = "stablemax", weights: jax.Array | None = None
) -> tuple[jax.Array, dict]:
    """Loss of one supervision step, summed over the sequences (divide by the global batch), and its parts.

    sum over sequences of the mean token loss, plus half the halting loss: binary cross-entropy of q_halt [B]
    against "every valid token is right". weights [B]: a factor of each sequence's losses. Returns (loss, {"lm_loss",
    "q_loss"}), float32 scalars.
    """

    def total(losses):  # [B, ...]
        return jnp.sum(losses if weights is None else (losses.T * weights).T)

    valid = labels != IGNORE
    lm_loss = total(token_cross_entropy(logits, labels, kind) / jnp.maximum(valid.sum(-1, keepdims=True), 1))
    right = jnp.all((jnp.argmax(logits, -1) == labels) | ~valid, axis=-1)
    q_loss = total(optax.sigmoid_binary_cross_entropy(q_halt, right.astype(q_halt.dtype)))
    return lm_loss + 0.5 * q_loss, {"lm_loss": lm_loss, "q_loss": q_loss}
