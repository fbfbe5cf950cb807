"""NorMuon, its groups and its schedule against the author's code."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from trm_jax import optim
from trm_jax.models import params as P


@pytest.fixture(scope="module")
def golden(golden_folder):
    return np.load(golden_folder / "arc_transformer" / "normuon.npz")


@pytest.mark.parametrize("case", ["wide", "square", "qkv", "stacked", "zero"])
def test_four_updates(golden, case):
    """float32: 1e-5 for weights and momentum, 3e-5 for second moments of small squares; bfloat16: its own noise."""
    first = golden[f"{case}/init"].astype(np.float32)
    runs = {kind: [jnp.asarray(first), None] for kind in ("f32", "bf16")}
    for kind, dtype in (("f32", jnp.float32), ("bf16", jnp.bfloat16)):
        tx = optim.scale_by_normuon(dtype=dtype)
        weights, state = jnp.asarray(first), tx.init(jnp.asarray(first))
        for t in range(1, 5):
            updates, state = tx.update(jnp.asarray(golden[f"{case}/grad{t}"].astype(np.float32)), state)
            lr = float(golden["lr"][t - 1])
            weights = weights * (1 - lr * float(golden["weight_decay"])) - lr * updates
            np.testing.assert_allclose(state.momentum, golden[f"{case}/momentum{t}"], rtol=1e-5, atol=1e-7)
            wanted, second = golden[f"{case}/weights_{kind}{t}"], golden[f"{case}/second_{kind}{t}"]
            second = second.reshape(state.second.shape)
            if kind == "f32":
                np.testing.assert_allclose(weights, wanted, atol=1e-5 * np.abs(wanted).max())
                np.testing.assert_allclose(state.second, second, rtol=3e-5, atol=1e-9)
            else:
                moved, ours = wanted - first, np.asarray(weights) - first
                # Two bfloat16 iterations differ by 3 to 4% of a move.
                assert np.linalg.norm(ours - moved) <= 0.08 * np.linalg.norm(moved) + 1e-7
        runs[kind] = weights
    assert np.isfinite(np.asarray(runs["f32"])).all()


def test_the_iteration_alone(golden):
    for case in ("wide", "square", "qkv", "stacked"):
        grad = jnp.asarray(golden[f"{case}/grad2"].astype(np.float32))
        found = optim.newton_schulz(grad, jnp.float32)
        wanted = golden[f"{case}/ns_f32"]
        np.testing.assert_allclose(found, wanted, atol=1e-5 * np.abs(wanted).max())


def test_groups_have_their_own_rates_and_decay():
    """One update of each kind by hand."""
    specs = {
        "m": P.ParamSpec((3, 2), (None, None), P.constant(1.0), "matrix", decay=0.1),
        "e": P.ParamSpec((3, 2), (None, None), P.constant(1.0), "embedding", decay=0.1),
        "h": P.ParamSpec((3, 2), (None, None), P.constant(1.0), "head"),
        "v": P.ParamSpec((3,), (None,), P.constant(1.0), "vector", decay=0.0),
    }
    weights = {name: jnp.ones(spec.shape) for name, spec in specs.items()}
    grads = jax.tree.map(lambda w: 2.0 * jnp.ones_like(w), weights)
    tx = optim.build("normuon", specs, 0.5, other_lr=0.25, weight_decay=0.2)
    updates, _ = tx.update(grads, tx.init(weights), weights)
    after = optax.apply_updates(weights, updates)
    muon, _ = optim.scale_by_normuon().update(grads["m"], optim.scale_by_normuon().init(weights["m"]))
    np.testing.assert_allclose(after["m"], 1 - 0.5 * (muon + 0.02), rtol=1e-6)
    for name, decay in (("e", 0.02), ("h", 0.2), ("v", 0.0)):
        np.testing.assert_allclose(after[name], 1 - 0.25 * (1 + decay), rtol=1e-6)


def test_the_schedule(golden_folder):
    known = json.loads((golden_folder / "arc_transformer" / "schedule_and_counts.json").read_text())
    assert len(known["schedules"]) == 3
    for case in known["schedules"].values():
        for epoch, factor in case["table"]:
            # As if an epoch had 1,000 steps; float32 has seven digits.
            ours = optim.warmup_stable_decay(1 + 1000 * epoch, 1.0, 0.02, 0.2, 1000 * case["epochs"])
            assert float(ours) == pytest.approx(factor, abs=2e-6)


def test_a_schedule_without_warm_up_begins_at_the_full_rate():
    assert float(optim.warmup_stable_decay(1, 2.0, 0.0, 0.2, 10)) == 2.0
    assert [float(optim.warmup_stable_decay(t, 1.0, 0.5, 0.0, 4)) for t in (1, 2, 3, 4)] == [0.0, 0.5, 1.0, 1.0]
