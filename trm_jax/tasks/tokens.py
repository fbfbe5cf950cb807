"""Scores of tasks whose answer is one token for each token of the puzzle."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from trm_jax.data.dataset import IGNORED

SCORES = ("accuracy", "exact_accuracy")


def score_tokens(answers, labels, counted) -> dict:
    """Scores of answers [B, S] against labels [B, S], summed over the sequences where `counted` [B] holds.

    "count" sequences; "accuracy" their mean token accuracies; "exact_accuracy" sequences with every valid token right.
    float32 scalars. Labels of -100 are not valid; a sequence without a valid one is not counted.
    """
    import jax.numpy as jnp  # here, for commands that score nothing and start sooner without it

    valid = labels != IGNORED
    num_valid = valid.sum(-1)
    right = ((answers == labels) & valid).sum(-1)
    counted = counted & (num_valid > 0)
    per_sequence = {
        "count": jnp.ones_like(num_valid),
        "accuracy": right / jnp.maximum(num_valid, 1),
        "exact_accuracy": right == num_valid,
    }
    return {name: jnp.sum(jnp.where(counted, x, 0).astype(jnp.float32)) for name, x in per_sequence.items()}


def finish_means(sums: Mapping[str, float]) -> dict[str, float]:
    """On the host: the means of `score_tokens` over "count" sequences; empty when none was counted."""
    count = float(sums["count"])
    return {name: float(np.float64(sums[name]) / count) for name in SCORES} if count else {}
