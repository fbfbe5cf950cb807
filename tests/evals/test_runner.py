"""Evaluation: what is counted, with which weights, and that thinking is the model's own steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from trm_jax import sharding
from trm_jax.errors import InputError
from trm_jax.evals.runner import Evaluator
from trm_jax.models import trm
from trm_jax.models.trm import think
from trm_jax.train.state import evaluation_params, initial_state

CFG = tiny.config()


@pytest.fixture(scope="module")
def params():
    """A model with opinions: random q head and puzzle table instead of constants."""
    random = np.random.default_rng(0)
    drawn = trm.init(jax.random.key(3), CFG.model)
    weights = {**drawn["weights"], "q_head": {"kernel": random.normal(size=(32, 2)), "bias": random.normal(size=2)}}
    weights = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), weights)
    return {**drawn, "weights": weights, "puzzle_emb": jnp.asarray(random.normal(size=(1, 32)), jnp.float32)}


@pytest.fixture(scope="module")
def evaluation():
    return tiny.data()[1]


def evaluator(data, devices: int = 1, batch_size: int = 8, max_examples: int = 0, **how) -> Evaluator:
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    settings = dataclasses.replace(CFG.eval, batch_size=batch_size, max_examples=max_examples)
    return Evaluator(dataclasses.replace(CFG, eval=settings), data, mesh, **how)


def by_hand(params, data, rows: slice, steps: int) -> dict:
    """Scores by NumPy from `trm.step` in evaluation mode, all rows in one batch."""
    batch = data.rows(np.arange(len(data))[rows])
    carry = trm.initial_carry(CFG.model, len(batch["inputs"]))
    exits = np.full(len(batch["inputs"]), steps)
    early = np.zeros(len(exits), bool)  # the answer at the first q_halt > 0 is right
    for step in range(1, steps + 1):
        carry, out = trm.step(params, CFG.model, carry, batch)
        leaves = (exits == steps) & ((np.asarray(out.q_halt) > 0) | (step == steps))
        early[leaves] = (np.asarray(out.logits).argmax(-1) == batch["labels"]).all(-1)[leaves]
        exits[leaves] = step
    right = np.asarray(out.logits).argmax(-1) == batch["labels"]
    exact = right.all(-1)
    return {
        "exact_accuracy": float(exact.mean()),
        "accuracy": float(right.mean()),
        "q_halt_accuracy": float(((np.asarray(out.q_halt) >= 0) == exact).mean()),
        "steps": steps,
        "count": len(right),
        "early_exit_exact_accuracy": float(early.mean()),
        "early_exit_steps": float(exits.mean()),
        "halt_steps": np.bincount(exits, minlength=steps + 1)[1:].tolist(),
    }


def test_thinking_is_the_models_steps_in_evaluation_mode(params, evaluation):
    batch = evaluation.rows(np.arange(len(evaluation)))
    answers, q_halt = think(params, CFG.model, batch, 3)  # halt_max_steps: further ones would begin anew
    assert answers.shape == (3, 12, 16) and q_halt.shape == (3, 12)
    carry = trm.initial_carry(CFG.model, 12)
    for step in range(3):
        carry, out = trm.step(params, CFG.model, carry, batch)
        np.testing.assert_array_equal(answers[step], np.argmax(out.logits, -1))
        # The same arithmetic, compiled as one loop here and operation by operation there: roundings of 6e-8 that
        # up to 30 layers of random weights amplify (some 300 times in the third step).
        np.testing.assert_allclose(q_halt[step], out.q_halt, rtol=0, atol=1e-4)
    assert (np.asarray(q_halt) > 0).any()  # some would have halted in training: in evaluation none does
    assert len({answers[step].tobytes() for step in range(3)}) == 3


@pytest.mark.parametrize("devices, batch_size", [(1, 12), (1, 8), (1, 5), (1, 1), (2, 8), (8, 8), (8, 16)])
def test_padding_rows_are_not_counted(params, evaluation, devices, batch_size):
    """12 puzzles in batches that do not fit; every figure is as by hand, counts exactly."""
    scores = evaluator(evaluation, devices, batch_size)(params)
    expected = by_hand(params, evaluation, slice(None), 3)
    assert scores.keys() == expected.keys() | {"early_exit_accuracy"}
    assert scores["count"] == 12 and scores["steps"] == 3
    for name in ("exact_accuracy", "q_halt_accuracy", "early_exit_exact_accuracy", "early_exit_steps"):
        assert scores[name] * 12 == pytest.approx(expected[name] * 12, abs=1e-9)
    assert scores["halt_steps"] == expected["halt_steps"]
    assert len(set(expected["halt_steps"])) > 1  # some leave early
    assert scores["accuracy"] == pytest.approx(expected["accuracy"], rel=1e-6)  # means of sixteenths in float32


def test_a_perfect_and_a_useless_answer(evaluation):
    """The head is made to say digit 3 everywhere: right where the label is 3 (token 4)."""
    weights = trm.init(jax.random.key(0), CFG.model)
    zeros = jax.tree.map(jnp.zeros_like, weights["weights"])
    always = jnp.zeros((32, 6)).at[:, 4].set(1.0)
    # z_H is normalised, so not 0; the sign of the sum of its parts decides. Make the data agree with what it says.
    constant = {**weights, "weights": {**zeros, "lm_head": always}}
    answers, _ = think(constant, CFG.model, evaluation.rows(np.arange(len(evaluation))), 3)
    perfect = dataclasses.replace(evaluation, labels=np.asarray(answers[-1]))
    assert evaluator(perfect)(constant)["exact_accuracy"] == 1.0
    one_wrong = perfect.labels.copy()
    one_wrong[5, 7] = (one_wrong[5, 7] + 1) % 6
    scores = evaluator(dataclasses.replace(perfect, labels=one_wrong))(constant)
    assert scores["exact_accuracy"] == pytest.approx(11 / 12)
    assert scores["accuracy"] == pytest.approx(1 - 1 / (12 * 16))


@pytest.mark.parametrize("max_examples, count", [(0, 12), (1, 1), (8, 8), (9, 9), (12, 12), (500, 12)])
def test_the_first_examples_only(params, evaluation, max_examples, count):
    scores = evaluator(evaluation, max_examples=max_examples)(params)
    expected = by_hand(params, evaluation, slice(count), 3)
    assert scores["count"] == count
    assert scores["accuracy"] == pytest.approx(expected["accuracy"], rel=1e-6)
    assert evaluator(evaluation)(params, first=max_examples) == scores


@pytest.mark.parametrize("steps", [1, 2])
def test_another_number_of_steps(params, evaluation, steps):
    scores = evaluator(evaluation, num_steps=steps)(params)
    assert scores["steps"] == steps
    assert scores["accuracy"] == pytest.approx(by_hand(params, evaluation, slice(None), steps)["accuracy"], rel=1e-6)


def test_an_evaluation_can_be_given_up(params, evaluation):
    asked = []

    def stop_at_the_second(done, total):
        asked.append((done, total))
        return done == 1

    scorer = evaluator(evaluation, batch_size=4)
    assert scorer(params, stop_at_the_second) is None
    assert asked == [(0, 3), (1, 3)]
    assert scorer(params, lambda done, total: False) == scorer(params)


def test_a_batch_that_the_devices_cannot_share(evaluation):
    with pytest.raises(InputError, match="eval.batch_size 12 is not divisible by the 8 devices .* nearest that is: 16"):
        evaluator(evaluation, devices=8, batch_size=12)


def test_averaged_weights_with_the_live_table(evaluation):
    """The three choices differ here, and evaluation takes the average for weights and the live puzzle table."""
    state = initial_state(CFG, jax.random.key(0))
    other = trm.init(jax.random.key(9), CFG.model)["weights"]
    table = jnp.asarray(np.random.default_rng(1).normal(size=(1, 32)), jnp.float32)
    state = state.replace(params={**state.params, "puzzle_emb": table}, ema=other)
    params = evaluation_params(state)[""]
    expected = {"weights": other, "buffers": state.params["buffers"], "puzzle_emb": table}
    tiny.assert_same_state(_flat(params), _flat(expected))
    batch = evaluation.rows(np.arange(len(evaluation)))
    live = think(state.params, CFG.model, batch, 3)[1]
    blank_table = think({**params, "puzzle_emb": jnp.zeros((1, 32))}, CFG.model, batch, 3)[0]
    chosen = think(params, CFG.model, batch, 3)
    assert not np.array_equal(chosen[0], think(state.params, CFG.model, batch, 3)[0]) and live.shape == (3, 12)
    assert not np.array_equal(chosen[0], blank_table)


def test_without_an_average_the_live_weights_are_evaluated():
    cfg = tiny.config({"optim.ema_decay": 0.0})
    state = initial_state(cfg, jax.random.key(0))
    assert state.ema == {} and evaluation_params(state)[""]["weights"] is state.params["weights"]


def _flat(tree) -> dict:
    return {tiny.path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}
