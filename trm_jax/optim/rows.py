"""The optimiser of tables (`ParamSpec.kind` "rows"), of which a batch touches few rows."""

from __future__ import annotations

import jax
import jax.numpy as jnp


def sparse_sign_sgd(table: jax.Array, ids: jax.Array, row_grads: jax.Array, lr, weight_decay) -> jax.Array:
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
