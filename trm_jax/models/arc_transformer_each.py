"""ARC transformers side by side: every task has one of its own, trained from scratch on its pairs, all in one program.

Every array of the parameters has a first axis of N models, one for each puzzle id. The rows of a training batch are
ordered by task, as many for each, which `data.rows_of=task` packs. Losses, gradients, clipping and the optimiser are of
each model by itself. Weights are whole on every device of a mesh: give each device tasks of its own (data.first_task).

This module is a `trm_jax.models.family.Family`, made of the functions of `trm_jax.models.arc_transformer`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jax import lax

from trm_jax.errors import InputError
from trm_jax.models import arc_transformer as one
from trm_jax.models import params as P
from trm_jax.models.family import Rows

Config, LOCAL = one.Config, one.LOCAL
carry_specs, noise = one.carry_specs, one.noise


def _own(cfg: Config) -> Config:
    """The shape of one model, which knows one task."""
    return dataclasses.replace(cfg, num_puzzle_ids=1)


def _of_its_task(batch: Mapping) -> dict:
    """A batch as one model takes it, for which its task is number 0."""
    return {**batch, "puzzle_ids": jnp.zeros_like(batch["puzzle_ids"])}


def specs(cfg: Config) -> dict:
    """The declaration of every array. A model begins by its number, however many stand beside it."""

    def side_by_side(spec: P.ParamSpec) -> P.ParamSpec:
        def init(key, shape, dtype):
            numbers = jnp.arange(shape[0])
            return jax.vmap(lambda n: spec.init(jax.random.fold_in(key, n), spec.shape, dtype))(numbers)

        shape, axes = (cfg.num_puzzle_ids, *spec.shape), (None, *spec.axes)
        return dataclasses.replace(spec, shape=shape, axes=axes, init=init)

    return jax.tree.map(side_by_side, one.specs(_own(cfg)), is_leaf=P.is_spec)


def of_task(params: dict, task: jax.Array) -> dict:
    """The parameters of the model of one task, as `trm_jax.models.arc_transformer` has them."""
    return jax.tree.map(lambda x: lax.dynamic_index_in_dim(x, task, keepdims=False), params)


def loss(params: dict, cfg: Config, carry, batch: dict, noise, token_loss: str):
    """(loss, carry, sums, rows) of one training step, as `trm_jax.models.family.Family` says: the sum of the models'.

    A loss that is not finite is left out, so that the others go on; where none is finite the sum is not either. Raises
    InputError for a batch that has not as many rows for each model.
    """
    models, rows = cfg.num_puzzle_ids, len(batch["inputs"])
    if rows % models:
        parts = f"{rows} rows at a time (train.batch_size / train.accumulation)"
        raise InputError(f"{parts} are no multiple of the {models} tasks, each of which has a model; change one")

    def of_model(weights, batch, noise):
        total, _, _, found = one.loss({"weights": weights}, _own(cfg), (), batch, noise, token_loss)
        return total, found.answers, found.counted

    by_task = jax.tree.map(lambda x: x.reshape(models, -1, *x.shape[1:]), (_of_its_task(batch), noise))
    totals, answers, counted = jax.vmap(of_model)(params["weights"], *by_task)
    finite = jnp.isfinite(totals)
    total = jnp.where(finite, totals, 0).sum() + jnp.where(finite.any(), 0, jnp.nan)
    sums = {"lm_loss": total / finite.sum(), "diverged": rows * (~finite).sum().astype(jnp.float32)}
    return total, carry, sums, Rows(answers.reshape(rows, -1), batch, counted.reshape(rows), {})


def think(params: dict, cfg: Config, batch: dict, num_steps: int = 0) -> tuple[jax.Array, jax.Array]:
    """As of one model, each row by that of its task, one after another."""

    def row(batch):
        own = of_task(params, batch["puzzle_ids"][0])
        answers, halt = one.think(own, _own(cfg), _of_its_task(jax.tree.map(lambda x: x[None], batch)))
        return answers[:, 0], halt[:, 0]

    answers, halt = lax.map(row, batch)
    return answers.swapaxes(0, 1), halt.swapaxes(0, 1)


def evaluate(params: dict, cfg: Config, batch: dict, counted: jax.Array, score: Callable, num_steps: int = 0) -> dict:
    """Sums of scores over the rows where `counted` [B] holds; score: of `Task.score`."""
    answers, _ = think(params, cfg, batch)
    return dict(score(answers[0], batch, counted))


# Writing token by token, all prompts of one task; params: those of its model (`of_task`).


def read(params: dict, cfg: Config, batch: Mapping) -> jax.Array:
    """As of one model."""
    return one.read(params, _own(cfg), _of_its_task(batch))


def begin(params: dict, cfg: Config, batch: Mapping, room: int) -> dict:
    """As of one model."""
    return one.begin(params, _own(cfg), _of_its_task(batch), room)


def advance(params: dict, cfg: Config, state: dict, tokens: jax.Array) -> dict:
    """As of one model."""
    return one.advance(params, _own(cfg), state, tokens)


def finish(sums: Mapping, count: float, sequences: float = 0) -> dict:
    """Fetched sums as the figures of a record: the loss per target, the mean of the models', and how many of them had
    none that is finite."""
    return {name: float(sums[name] / sequences) for name in ("lm_loss", "diverged")} if sequences else {}


def flops(cfg: Config) -> tuple[int, int]:
    """Analytic matmul FLOPs of one row: (one training step, one evaluation)."""
    return one.flops(_own(cfg))


def activation_bytes(cfg: Config, rows: int) -> int:
    """Estimate of what the backward pass of `rows` rows, of all models together, keeps and makes."""
    return one.activation_bytes(_own(cfg), rows)
