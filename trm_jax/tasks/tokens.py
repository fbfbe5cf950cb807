from __future__ import annotations

import jax.numpy as jnp

from trm_jax.losses import IGNORE


def score_tokens(answers, labels, counted) -> dict:
    valid = labels != IGNORE
    num_valid = valid.sum(-1)
    right = ((answers == labels) & valid).sum(-1)
    counted = counted & (num_valid > 0)
    per_row = {
        "count": jnp.ones(counted.shape),
        "accuracy": right / jnp.maximum(num_valid, 1),
        "exact_accuracy": right == num_valid,
    }
    return {name: jnp.sum(jnp.where(counted, x, 0).astype(jnp.float32)) for name, x in per_row.items()}


def finish_means(sums) -> dict[str, float]:
    count = float(sums["count"])
    names = [n for n in sums if n.endswith(("accuracy",))]
    return {n: float(sums[n] / count) for n in ("accuracy", "exact_accuracy")} if count else {}
