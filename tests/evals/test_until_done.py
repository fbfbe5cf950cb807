"""Inference that stops when it is done says what step-by-step inference says at the step at which the rule holds."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from trm_jax import sharding
from trm_jax.evals.until_done import UntilDone

SMALL = {
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "model.H_cycles": 1,
    "model.L_cycles": 1,
    "model.halt_max_steps": 6,
    "model.dtype": "float32",
}
MODELS = {
    "attention": {"model.halt_max_steps": 6},
    "mlp_t": {"model.halt_max_steps": 6, "model.mlp_t": True, "model.H_cycles": 1, "model.L_cycles": 1},
    "eqr": {"model.family": "eqr", **SMALL},
    "hrm": {"model.family": "hrm", **SMALL, "model.puzzle_emb_ndim": 32, "model.puzzle_emb_len": 1},
}


# Of each: the seed of weights with which rows leave at different steps, and the share of q_halt that are not positive.
DRAWN = {"attention": (1, 0.6), "mlp_t": (1, 0.8), "eqr": (0, 0.8), "hrm": (2, 0.8)}


@functools.cache
def model(name: str):
    """(config, parameters with opinions, data, what `think` says: answers [T, N, S], q_halt [T, N])."""
    cfg, data, (seed, share) = tiny.config(MODELS[name]), tiny.data(MODELS[name])[1], DRAWN[name]
    random, params = np.random.default_rng(seed), cfg.family.init(jax.random.key(seed), cfg.model)
    q_head, lm_head = random.normal(size=(32, 2)), random.normal(size=(32, 6))
    think = jax.jit(cfg.family.think, static_argnums=1)

    def with_bias(bias: float):
        heads = {"q_head": {"kernel": q_head, "bias": np.array([bias, 0.0])}, "lm_head": lm_head}
        return params | {"weights": jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params["weights"] | heads)}

    rows = data.rows(np.arange(12))
    params = with_bias(-np.quantile(think(with_bias(0.0), cfg.model, rows)[1], share))
    return cfg, params, data, *jax.device_get(think(params, cfg.model, rows))


def expected(name: str, rule: str, steps: int):
    """(answers, q_halt, step, whether the rule held) of each puzzle where it first holds, by NumPy."""
    answers, q_halt = (x[:steps] for x in model(name)[3:])
    settled = np.concatenate([np.zeros((1, 12), bool), (answers[1:] == answers[:-1]).all(-1)])
    holds = {"q": q_halt > 0, "settled": settled}[rule]
    first = np.where(holds.any(0), holds.argmax(0), len(holds) - 1)
    at = first, np.arange(12)
    return answers[at], q_halt[at], first + 1, holds.any(0)


def until_done(name, rule, *, devices=1, batch_size=8, puzzles=12, steps=0, rows=None):
    cfg, params, data, *_ = model(name)
    cfg = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, batch_size=batch_size, max_examples=puzzles))
    if rows is not None:
        arrays = {"inputs": data.inputs[rows], "labels": data.labels[rows]}
        data = dataclasses.replace(data, **arrays)
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    return UntilDone(cfg, data, mesh, rule, steps), params


def check(found, name, rule, rows=slice(12), steps=6):
    answers, q_halt, at, stopped = (x[rows] for x in expected(name, rule, steps))
    np.testing.assert_array_equal(found.steps, at)
    np.testing.assert_array_equal(found.stopped, stopped)
    np.testing.assert_array_equal(found.answers, answers)
    # The same arithmetic on batches of other sizes: roundings of 6e-8, amplified to 5e-4 in six steps.
    np.testing.assert_allclose(found.q_halt, q_halt, rtol=0, atol=5e-3)


@pytest.mark.parametrize(
    "name, rule", [(name, "q") for name in MODELS] + [("attention", "settled"), ("hrm", "settled")]
)
def test_it_says_what_thinking_says_where_the_rule_first_holds(name, rule):
    """Rows that leave at different steps, 12 puzzles through 5 rows; the scores are those of what was said."""
    steps, stopped = expected(name, rule, 6)[2:]
    assert len(set(zip(steps, stopped, strict=True))) > 2, "or the test shows nothing"
    run, params = until_done(name, rule, batch_size=5)
    found, scores = run(params)
    check(found, name, rule)
    labels = model(name)[2].rows(np.arange(12))["labels"]
    assert scores["exact_accuracy"] == (found.answers == labels).all(-1).mean()
    assert scores["accuracy"] == pytest.approx((found.answers == labels).mean(), rel=1e-6)  # float32 sums
    few, _ = run(params, first=3)  # the same program
    check(few, name, rule, slice(3))


@pytest.mark.parametrize(
    "how", [{"batch_size": 16}, {"batch_size": 1, "puzzles": 1}, {"devices": 8}, {"devices": 8, "puzzles": 1}]
)
def test_neither_batch_nor_mesh_change_it(how):
    """More rows than puzzles, one puzzle, eight devices, devices without a puzzle."""
    run, params = until_done("hrm", "q", **how)
    check(run(params)[0], "hrm", "q", slice(how.get("puzzles", 12)))


def test_noise_goes_with_the_puzzle_and_not_with_its_row():
    order = np.random.default_rng(0).permutation(12)
    run, params = until_done("eqr", "q", devices=2, batch_size=6, rows=order)
    check(run(params)[0], "eqr", "q", order)


def test_fewer_steps_and_what_is_told_on_the_way():
    run, params = until_done("hrm", "settled", batch_size=2, steps=4)
    heard = []
    found, _ = run(params, lambda done, total: heard.append((done, total)))
    check(found, "hrm", "settled", steps=4)
    assert 0 < found.stopped.sum() < 12 and (found.steps[~found.stopped] == 4).all()
    assert heard == sorted(heard) and heard[-1] == (12, 12) and heard[0][0] == 0
    # A call is four steps of two rows, so no more can have been finished in it.
    assert all(after[0] - before[0] <= 8 for before, after in zip(heard, heard[1:], strict=False))
