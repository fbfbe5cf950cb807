"""Losses against their definitions in float64."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from trm_jax.losses import act_loss, log_stablemax, token_cross_entropy
from trm_jax.models import IGNORE


def exact_log_p(logits, kind: str = "stablemax") -> np.ndarray:
    x = np.float64(logits)
    if kind == "softmax":
        s = np.exp(x - x.max(-1, keepdims=True))
    else:
        s = np.where(x >= 0, x + 1, 1 / (1 - np.minimum(x, 0)))
    return np.log(s) - np.log(s.sum(-1, keepdims=True))


def exact_gradient(logits, labels, kind: str = "stablemax") -> np.ndarray:
    """d(sum of token losses)/d logits: (p - onehot) for softmax, times s'/s for stablemax."""
    x = np.float64(logits)
    p, onehot = np.exp(exact_log_p(x, kind)), np.eye(x.shape[-1])[labels]
    if kind == "softmax":
        return p - onehot
    return (p - onehot) * np.where(x >= 0, 1 / (1 + np.maximum(x, 0)), 1 / (1 - np.minimum(x, 0)))


@partial(jax.jit, static_argnames="kind")
def loss_and_gradient(logits, labels, kind: str = "stablemax"):
    return jax.value_and_grad(lambda x: token_cross_entropy(x, labels, kind).sum())(logits)


CORNERS = st.sampled_from([1.0, 0.0, -0.0, -1.0, 1e-30, -1e-30, 0.5])


@settings(max_examples=100)
@given(
    hnp.arrays(np.float32, (8, 11), elements=st.one_of(CORNERS, st.floats(-20, 20, width=32))),
    hnp.arrays(np.int32, 8, elements=st.integers(0, 10)),
)
def test_stablemax_agrees_with_float64(logits, labels):
    """Loss within 1e-6, gradient within 1e-7 and 3e-7 of itself: float32's resolution. Corners are drawn often."""
    _, gradient = loss_and_gradient(logits, labels)
    exact = -np.take_along_axis(exact_log_p(logits), labels[:, None], 1)[:, 0]
    np.testing.assert_allclose(token_cross_entropy(logits, labels), exact, rtol=0, atol=1e-6)
    np.testing.assert_allclose(gradient, exact_gradient(logits, labels), rtol=3e-7, atol=1e-7)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_no_nan_for_logits_of_exactly_one(dtype):
    """1 / (1 - x) has its pole there: the naive form's gradient is 0 * inf."""
    logits = jnp.asarray([[1.0] * 11, [1.0, -1.0, 0.0] + [1.0] * 8], dtype)
    labels = np.array([0, 1], np.int32)
    loss, gradient = loss_and_gradient(logits, labels)
    assert gradient.dtype == dtype
    exact = -np.take_along_axis(exact_log_p(np.float64(logits)), labels[:, None], 1).sum()
    assert loss == pytest.approx(exact, abs=1e-6)
    # The gradient is rounded to the logits' dtype at the end.
    resolution = max(1e-7, float(jnp.finfo(dtype).eps))
    np.testing.assert_allclose(np.float64(gradient), exact_gradient(np.float64(logits), labels), atol=resolution)

    def naive(x):
        s = jnp.where(x >= 0, x + 1, 1 / (1 - x))
        return jnp.log(s / s.sum(-1, keepdims=True))[0, 0]

    assert np.isnan(np.float32(jax.grad(naive)(logits))).any()  # so this test would notice


def test_random_bfloat16_rows():
    """20,000 rows in which a logit of 1.0 is common."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.standard_normal((20_000, 11)), jnp.bfloat16)
    assert (logits == 1).any(-1).sum() > 20
    labels = rng.integers(0, 11, 20_000)
    exact = np.float64(logits.astype(jnp.float32))
    losses = token_cross_entropy(logits, labels)
    np.testing.assert_allclose(losses, -exact_log_p(exact)[np.arange(20_000), labels], atol=1e-6)
    _, gradient = loss_and_gradient(logits.astype(jnp.float32), labels)
    np.testing.assert_allclose(gradient, exact_gradient(exact, labels), atol=1e-7)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits_stay_finite(size):
    logits = np.float32([[size, -size, 0.0]])
    for kind in ("stablemax", "softmax"):
        for label in range(3):
            loss, gradient = loss_and_gradient(logits, np.array([label]), kind)
            assert np.isfinite(loss) and np.isfinite(gradient).all(), (kind, label)


def test_probabilities_sum_to_one():
    logits = np.random.default_rng(0).standard_normal((50, 11)).astype(np.float32) * 10
    np.testing.assert_allclose(np.exp(log_stablemax(logits)).sum(-1), 1, rtol=1e-6)


def test_softmax_is_a_choice():
    rng = np.random.default_rng(1)
    logits = rng.standard_normal((2, 5, 7)).astype(np.float32) * 3
    labels = rng.integers(0, 7, (2, 5))
    expected = -np.take_along_axis(exact_log_p(logits, "softmax"), labels[..., None], -1)[..., 0]
    np.testing.assert_allclose(token_cross_entropy(logits, labels, "softmax"), expected, atol=1e-6)
    _, gradient = loss_and_gradient(logits, labels, "softmax")
    np.testing.assert_allclose(gradient, exact_gradient(logits, labels, "softmax"), atol=2e-7)
    assert np.abs(token_cross_entropy(logits, labels) - expected).max() > 0.1
    with pytest.raises(ValueError, match="'hinge' is not one of stablemax, softmax"):
        token_cross_entropy(logits, labels, "hinge")


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
def test_ignored_labels_cost_nothing_and_get_no_gradient(kind):
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((3, 4, 5)).astype(np.float32)
    labels = rng.integers(0, 5, (3, 4))
    labels[0, 1:3] = IGNORE
    labels[2] = IGNORE
    losses = token_cross_entropy(logits, labels, kind)
    np.testing.assert_array_equal(losses == 0, labels == IGNORE)
    _, gradient = loss_and_gradient(logits, labels, kind)
    np.testing.assert_array_equal(np.asarray(gradient)[labels == IGNORE], 0)
    assert (np.abs(gradient).max(-1) > 0)[labels != IGNORE].all()


@pytest.mark.parametrize("kind", ["stablemax", "softmax"])
def test_act_loss_by_hand(kind):
    """Sum over sequences of the mean over valid tokens, half the halting loss; nothing is divided by the batch."""
    rng = np.random.default_rng(3)
    logits = rng.standard_normal((4, 6, 5)).astype(np.float32)
    labels = logits.argmax(-1)
    labels[0, :2] = IGNORE  # right where it counts
    labels[1, 0] = (labels[1, 0] + 1) % 5  # one token wrong
    labels[3] = IGNORE  # nothing to say: no token loss, no division by zero
    q_halt = np.float32([2.0, 2.0, -1.5, 0.5])
    right = np.array([1, 0, 1, 1])
    log_p = exact_log_p(logits, kind)
    lm = 0.0
    for row in range(4):
        valid = labels[row] != IGNORE
        if valid.any():
            lm -= np.mean([log_p[row, i, labels[row, i]] for i in np.flatnonzero(valid)])
    q = np.sum(np.log1p(np.exp(-np.where(right, q_halt, -q_halt))))
    loss, parts = act_loss(logits, q_halt, labels, kind)
    assert parts["lm_loss"] == pytest.approx(lm, rel=1e-6)
    assert parts["q_loss"] == pytest.approx(q, rel=1e-6)
    assert loss == pytest.approx(lm + 0.5 * q, rel=1e-6)
    gradient = jax.grad(lambda q: act_loss(logits, q, labels, kind)[0])(jnp.asarray(q_halt))
    np.testing.assert_allclose(gradient, 0.5 * (1 / (1 + np.exp(-q_halt)) - right), atol=1e-6)
