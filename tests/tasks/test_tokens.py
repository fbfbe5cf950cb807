"""Scores of answers token by token: what is counted, and what the means are of."""

import numpy as np
import pytest

from trm_jax.tasks.tokens import finish_means, score_tokens

LABELS = np.array([[1, 2, 3, 4], [1, 2, -100, -100], [-100] * 4, [5, 5, 5, 5]])
ANSWERS = np.array([[1, 2, 3, 9], [1, 2, 0, 0], [1, 2, 3, 4], [5, 5, 5, 5]])


def test_scores_are_means_of_sequences_and_ignored_tokens_do_not_count():
    sums = score_tokens(ANSWERS, LABELS, np.array([True, True, True, False]))
    # The third sequence has no valid token, the fourth is not counted.
    assert {name: float(value) for name, value in sums.items()} == {"count": 2, "accuracy": 1.75, "exact_accuracy": 1}
    assert {str(value.dtype) for value in sums.values()} == {"float32"}
    assert finish_means(sums) == {"accuracy": pytest.approx(0.875), "exact_accuracy": 0.5}


def test_nothing_counted_has_no_scores():
    assert finish_means(score_tokens(ANSWERS, LABELS, np.zeros(4, bool))) == {}
