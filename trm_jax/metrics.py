"""Scores of answers: sums on the device, means on the host."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from trm_jax.models.trm import IGNORE

SCORES = ("accuracy", "exact_accuracy", "q_halt_accuracy", "steps")


def score_sums(answers, q_halt, steps, labels, counted) -> dict:
    """Scores of answers [B, S] against labels [B, S], summed over the sequences where `counted` [B] holds.

    Counted are those that halted in training and the real ones in evaluation.

    "count" sequences; "accuracy" their mean token accuracies; "exact_accuracy" sequences with every valid token
    right; "q_halt_accuracy" where q_halt >= 0 agrees with that; "steps" supervision steps. float32 scalars.
    """
    valid = labels != IGNORE
    num_valid = valid.sum(-1)
    right = (answers == labels) & valid
    exact = right.sum(-1) == num_valid
    counted = counted & (num_valid > 0)
    per_sequence = {
        "count": jnp.ones_like(q_halt),
        "accuracy": right.sum(-1) / jnp.maximum(num_valid, 1),
        "exact_accuracy": exact,
        "q_halt_accuracy": (q_halt >= 0) == exact,
        "steps": steps,
    }
    return {name: jnp.sum(jnp.where(counted, x, 0).astype(jnp.float32)) for name, x in per_sequence.items()}


def halt_histogram(steps, counted, halt_max: int) -> jnp.ndarray:
    """How many of the sequences where `counted` [B] holds ended at step 1, 2, ... halt_max: float32 [halt_max]."""
    ends = (steps[:, None] == jnp.arange(1, halt_max + 1)) & counted[:, None]
    return ends.sum(0, dtype=jnp.float32)


def means(sums: dict) -> dict[str, float]:
    """Host-side means of fetched `score_sums`; empty when no sequence was counted."""
    count = float(sums["count"])
    if count == 0:
        return {}
    return {name: float(np.float64(sums[name]) / count) for name in SCORES}
