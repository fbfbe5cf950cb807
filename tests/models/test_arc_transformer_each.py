"""A model for each task, side by side, against each of them alone."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trm_jax import optim, sharding
from trm_jax.configs import registry, resolve
from trm_jax.errors import InputError
from trm_jax.losses import IGNORE
from trm_jax.models import arc_transformer, arc_transformer_each, params
from trm_jax.models.arc_transformer import ArcTransformerConfig
from trm_jax.planning import find, plan
from trm_jax.train.compiled import jit_train_step
from trm_jax.train.state import abstract_state, initial_state, shardings_of
from trm_jax.train.step import hparams_of, make_train_step

TASKS, ROWS, TOKENS = 3, 2, 16
DROPPING = {"dropout": 0.2, "attention_dropout": 0.2}


def run_config(tasks: int, **changes):
    """Of so many models, or of the one of tasks=1 as `arc_transformer` has it."""
    each = {"model.family": "arc_transformer_each", "data.rows_of": "task", "data.epoch_steps": 1} if tasks > 1 else {}
    settings = {"data.train_sets": "training,evaluation,concept", "data.epoch_steps": 124}
    each and settings.update({"data.train_sets": "evaluation", "data.exclude": "", "data.most_tasks": 50})
    settings |= {**each, "train.batch_size": tasks * ROWS, "train.steps": 4, "optim.warmup_share": 0.0}
    cfg = resolve.freeze(resolve.override(registry.get("arc_transformer_high"), settings))
    shape = {"vocab_size": 14, "seq_len": TOKENS, "num_puzzle_ids": tasks, "hidden_size": 24, "num_heads": 2}
    small = {"layers": 2, "ff_size": 32, "dropout": 0.0, "attention_dropout": 0.0, "dtype": "float32"}
    return dataclasses.replace(cfg, model=ArcTransformerConfig(**{**shape, **small, **changes}))


def batch_of(seed: int, tasks: int = TASKS) -> dict:
    """Rows ordered by task, two sequences in each; the weights make each task's loss a mean."""
    draw, shape = np.random.default_rng(seed), (tasks * ROWS, TOKENS)
    labels = np.where(draw.random(shape) < 0.5, draw.integers(0, 14, shape), IGNORE)
    targets = (labels != IGNORE).reshape(tasks, -1).sum(1)
    weights = np.where(labels != IGNORE, np.repeat(tasks * ROWS / targets, ROWS)[:, None], 0)
    return {
        "inputs": draw.integers(0, 14, shape, np.int32),
        "labels": labels.astype(np.int32),
        "weights": weights.astype(np.float32),
        "segments": np.broadcast_to(np.arange(TOKENS) // 8, shape).astype(np.int32),
        "puzzle_ids": np.broadcast_to(np.arange(tasks * ROWS)[:, None] // ROWS, shape).astype(np.int32),
        "dihedrals": draw.integers(0, 8, shape, np.int32),
        "places": draw.integers(0, 5, (*shape, 4), np.int32),
    }


def alone(batch: dict, task: int) -> dict:
    """The rows of one task, for the model that knows it as its only one."""
    rows = {name: x[task * ROWS : (task + 1) * ROWS] for name, x in batch.items()}
    return {**rows, "puzzle_ids": np.zeros_like(rows["puzzle_ids"]), "weights": rows["weights"] / TASKS}


def test_models_side_by_side_are_each_alone():
    """Four steps of training, clipped; float32 sums in another order: 1e-5 of the largest of each array."""
    cfg, single = run_config(TASKS), run_config(1)
    state = initial_state(cfg, jax.random.key(0))
    first = state.params["weights"]["layers"]["qkv"]
    assert not np.allclose(first[0], first[1]), "each begins by its own key"
    states = [
        initial_state(single, jax.random.key(0)).replace(params=arc_transformer_each.of_task(state.params, task))
        for task in range(TASKS)
    ]
    step, one = jax.jit(make_train_step(cfg, 4)), jax.jit(make_train_step(single, 4))
    for number in range(4):
        batch = batch_of(number)
        state, sums = step(state, batch, hparams_of(cfg, 4))
        found = [one(states[task], alone(batch, task), hparams_of(single, 4)) for task in range(TASKS)]
        states = [found_state for found_state, _ in found]
        losses, norms = ([float(said[name]) for _, said in found] for name in ("loss", "grad_norm"))
        assert max(norms) > 1.0, "so that there is something to clip"
        np.testing.assert_allclose(sums["loss"], sum(losses), rtol=1e-5)
        np.testing.assert_allclose(sums["grad_norm"], np.mean(norms), rtol=1e-5)
        figures = arc_transformer_each.finish(jax.device_get(sums), 1, TASKS * ROWS)
        assert figures == pytest.approx({"lm_loss": np.mean(losses), "diverged": 0}, rel=1e-5)
    for task in range(TASKS):
        ours = arc_transformer_each.of_task(state.params, task)
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(y).max()), ours, states[task].params
        )


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_impl": "flash", "remat": "block"},
        pytest.param({"attention_impl": "splash", "attention_dropout": 0}, marks=pytest.mark.slow),
    ],
)
def test_with_dropout_the_gradients_are_each_model_s(changes):
    """By the kernels, interpreted; the keys are those of the batch's rows. To 1e-5 of the largest of each array."""
    cfg = run_config(TASKS, **{**DROPPING, **changes}).model
    own, batch = dataclasses.replace(cfg, num_puzzle_ids=1), batch_of(0)
    weights = params.init(arc_transformer_each.specs(cfg), jax.random.key(1))
    keys = arc_transformer_each.noise(cfg, jax.random.key(2), TASKS * ROWS)

    def grads(family, weights, cfg, batch, keys):
        return jax.jit(jax.grad(lambda w: family.loss(w, cfg, (), batch, keys, "softmax")[0]))(weights)

    found = grads(arc_transformer_each, weights, cfg, batch, keys)
    for task in range(TASKS):
        rows = {name: x * TASKS if name == "weights" else x for name, x in alone(batch, task).items()}
        mine = arc_transformer_each.of_task(weights, task)
        wanted = grads(arc_transformer, mine, own, rows, keys[task * ROWS : (task + 1) * ROWS])
        jax.tree.map(
            lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5 * np.abs(y).max() + 1e-12),
            arc_transformer_each.of_task(found, task),
            wanted,
        )


def test_accumulated_rows_on_three_devices():
    """Parts of a batch have rows of every model, on whichever device they are: float32 sums in another order, 1e-5."""
    cfg, found = run_config(TASKS), []
    for parts, devices in ((1, 1), (ROWS, 3)):
        cfg = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, accumulation=parts))
        mesh = sharding.make_mesh(devices=jax.devices()[:devices])
        abstract = abstract_state(cfg, mesh)
        state = jax.device_put(initial_state(cfg, jax.random.key(0)), shardings_of(abstract))
        step = jit_train_step(cfg, 4, cfg.model, abstract, mesh)
        state, sums = jax.block_until_ready(step(state, batch_of(0), hparams_of(cfg, 4)))
        found.append(jax.tree.map(np.asarray, (state.params, sums["loss"])))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(y, x, atol=1e-5 * np.abs(x).max()), *found)


def test_each_model_is_clipped_by_itself():
    grads = {"a": jnp.array([[3.0, 0.0], [0.3, 0.0], [jnp.nan, 1.0]]), "b": jnp.array([[[4.0]], [[0.4]], [[1.0]]])}
    norms = optim.norms(grads, several=True)
    np.testing.assert_allclose(norms, [5.0, 0.5, np.nan], rtol=1e-6)
    found = optim.clip(grads, norms, 1.0)
    np.testing.assert_allclose(found["a"], [[0.6, 0.0], [0.3, 0.0], [0.0, 0.0]], rtol=1e-5)
    np.testing.assert_allclose(found["b"], [[[0.8]], [[0.4]], [[0.0]]], rtol=1e-5)
    np.testing.assert_array_equal(optim.clip(grads, norms, 0.0)["b"][:2], grads["b"][:2])
    together = optim.clip({"a": grads["a"][:2]}, optim.norms({"a": grads["a"][:2]}), 1.0)
    np.testing.assert_allclose(jnp.linalg.norm(together["a"]), 1.0, rtol=1e-5)


def test_a_model_that_diverges_changes_no_other():
    """The others' next step is the same, bit for bit, and the run goes on; one without any finite loss does not."""
    cfg = run_config(TASKS)
    state, step = initial_state(cfg, jax.random.key(0)), jax.jit(make_train_step(cfg, 4))
    broken = state.replace(params=jax.tree.map(lambda x: x.at[1].set(jnp.nan), state.params))
    found, sums = step(broken, batch_of(0), hparams_of(cfg, 4))
    wanted, _ = step(state, batch_of(0), hparams_of(cfg, 4))
    for task in (0, 2):
        jax.tree.map(lambda x, y, t=task: np.testing.assert_array_equal(x[t], y[t]), found.params, wanted.params)
    assert not sums["bad"] and np.isfinite(sums["loss"]) and np.isfinite(sums["grad_norm"])
    assert arc_transformer_each.finish(sums, 1, TASKS * ROWS)["diverged"] == 1
    all_broken = state.replace(params=jax.tree.map(lambda x: x * jnp.nan, state.params))
    assert step(all_broken, batch_of(0), hparams_of(cfg, 4))[1]["bad"]


def test_each_row_is_answered_by_the_model_of_its_task():
    cfg = run_config(TASKS).model
    weights = params.init(arc_transformer_each.specs(cfg), jax.random.key(1))
    batch = {name: x[[5, 0, 2]] for name, x in batch_of(3).items()}
    answers, _ = arc_transformer_each.think(weights, cfg, batch)
    own, wanted = dataclasses.replace(cfg, num_puzzle_ids=1), []
    for row, task in enumerate((2, 0, 1)):
        one = {name: x[row : row + 1] for name, x in batch.items()} | {"puzzle_ids": np.zeros((1, TOKENS), np.int32)}
        wanted.append(arc_transformer.think(arc_transformer_each.of_task(weights, task), own, one)[0][0, 0])
    np.testing.assert_array_equal(answers[0], wanted)
    assert not np.array_equal(wanted[0], wanted[1])


def test_what_does_not_go_together():
    with pytest.raises(InputError, match=r"3 rows at a time .* are no multiple of the 2 tasks"):
        cfg = dataclasses.replace(run_config(TASKS).model, num_puzzle_ids=2)
        batch = {name: x[:3] for name, x in batch_of(0).items()}
        arc_transformer_each.loss({}, cfg, (), batch, (), "softmax")
    for changes in ({"model.family": "arc_transformer_each"}, {"model.family": "arc_transformer"}):
        name = "arc_transformer_high" if changes["model.family"].endswith("each") else "arc_transformer_per_task"
        with pytest.raises(InputError, match="need each other; set both or neither"):
            resolve.freeze(resolve.override(registry.get(name), changes))


def test_the_plan_of_a_part_of_the_tasks():
    """A model has the parameters of one that knows one task; 50 fill an H200 by the estimate, 110 are too many."""
    cfg = resolve.freeze(registry.get("arc_transformer_per_task"))
    own = dataclasses.replace(cfg.model, num_puzzle_ids=1)

    def planned(tasks: int):
        model, train = dataclasses.replace(cfg.model, num_puzzle_ids=tasks), {"batch_size": tasks}
        some = dataclasses.replace(cfg, model=model, train=dataclasses.replace(cfg.train, **train))
        return plan(some, find("h200"))

    made = planned(50)
    assert made.work.steps == 2000 and not made.warnings
    assert made.work.parameters == 50 * params.count(arc_transformer.specs(own))
    assert "fits by computing activations again" in planned(60).warnings[0]
    assert "lower data.most_tasks, data.rows_per_step and train.batch_size" in planned(110).obstacle
