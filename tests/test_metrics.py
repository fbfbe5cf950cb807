"""Scores of answers, by hand and against a loop."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trm_jax.metrics import SCORES, means, score_sums
from trm_jax.models import IGNORE


def test_by_hand():
    labels = np.array([[1, 2, IGNORE, 3], [1, 1, 1, 1], [2, 2, 2, 2], [IGNORE] * 4])
    answers = np.array([[1, 2, 9, 3], [1, 1, 0, 0], [2, 2, 2, 2], [0, 0, 0, 0]])
    q_halt = np.float32([1.0, 0.0, 3.0, 1.0])  # 0 says "right"
    steps = np.int32([3, 16, 2, 4])
    counted = np.array([True, True, False, True])  # the last has no valid token: not counted either
    sums = score_sums(answers, q_halt, steps, labels, counted)
    assert {name: float(x) for name, x in sums.items()} == {
        "count": 2,
        "accuracy": 1 + 0.5,
        "exact_accuracy": 1,
        "q_halt_accuracy": 1,
        "steps": 19,
    }
    assert {x.dtype for x in sums.values()} == {np.dtype("float32")}
    assert means(sums) == {"accuracy": 0.75, "exact_accuracy": 0.5, "q_halt_accuracy": 0.5, "steps": 9.5}


def test_nothing_counted_means_no_scores():
    sums = score_sums(np.zeros((2, 3)), np.zeros(2), np.ones(2), np.zeros((2, 3)), np.zeros(2, bool))
    assert all(x == 0 for x in sums.values())
    assert means(sums) == {}


@given(st.integers(1, 5), st.integers(1, 6), st.data())
def test_against_a_loop(rows, tokens, data):
    def draw(shape, elements, dtype):
        return data.draw(hnp.arrays(dtype, shape, elements=elements))

    labels = draw((rows, tokens), st.sampled_from([IGNORE, 0, 1]), np.int32)
    answers = draw((rows, tokens), st.integers(0, 1), np.int32)
    q_halt = draw(rows, st.floats(-2, 2, width=32), np.float32)
    steps = draw(rows, st.integers(1, 16), np.int32)
    counted = draw(rows, st.booleans(), bool)
    expected = dict.fromkeys(("count", *SCORES), 0.0)
    for i in range(rows):
        valid = [j for j in range(tokens) if labels[i, j] != IGNORE]
        if not counted[i] or not valid:
            continue
        right = [answers[i, j] == labels[i, j] for j in valid]
        expected["count"] += 1
        expected["accuracy"] += sum(right) / len(right)
        expected["exact_accuracy"] += all(right)
        expected["q_halt_accuracy"] += (q_halt[i] >= 0) == all(right)
        expected["steps"] += steps[i]
    sums = score_sums(answers, q_halt, steps, labels, counted)
    assert sums.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(sums[name], value, rtol=1e-6, err_msg=name)
    if expected["count"]:
        for name, mean in means(sums).items():
            np.testing.assert_allclose(mean, expected[name] / expected["count"], rtol=1e-6, err_msg=name)
