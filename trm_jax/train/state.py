"""The state of a run: everything that must be stored to go on exactly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from trm_jax import sharding
from trm_jax.metrics import SCORES
from trm_jax.models import params as P
from trm_jax.models import trm
from trm_jax.optim import make, warmup_cosine
from trm_jax.train.config import RunConfig

SUMS = ("count", *SCORES, "lm_loss", "q_loss", "grad_norm", "lr", "updates")


@struct.dataclass
class TrainState:
    step: jax.Array  # int32: updates done; also addresses the data
    params: dict  # weights, buffers, puzzle_emb
    ema: dict  # average of the weights; empty when switched off
    opt_state: Any
    carry: trm.Carry
    key: jax.Array  # uint32 [2], folded with the step where randomness is used
    sums: dict[str, jax.Array]  # float32 metrics since the last log line
    first_bad_step: jax.Array  # int32: first step with a loss or gradient that is not finite, -1 for none


def zero_sums() -> dict[str, jax.Array]:
    return {name: jnp.zeros((), jnp.float32) for name in SUMS}


def optimizer(cfg: RunConfig, total_steps: int) -> optax.GradientTransformation:
    o = cfg.optim
    schedule = warmup_cosine(o.lr, o.warmup_steps, total_steps, o.min_lr_ratio)
    return make(o.name, schedule, b1=o.beta1, b2=o.beta2, weight_decay=o.weight_decay)


def initial_state(cfg: RunConfig, tx: optax.GradientTransformation) -> TrainState:
    """The state before the first step: a pure function of the config."""
    key = jax.random.key(cfg.seed)
    params = trm.init(jax.random.fold_in(key, 0), cfg.model)
    # The average starts from a copy: a donated state must not hold one buffer under two names.
    average = jax.tree.map(jnp.copy, params["weights"]) if cfg.optim.ema_decay else {}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=average,
        opt_state=tx.init(params["weights"]),
        carry=trm.initial_carry(cfg.model, cfg.train.batch_size),
        key=jax.random.key_data(jax.random.fold_in(key, 1)),
        sums=zero_sums(),
        first_bad_step=jnp.full((), -1, jnp.int32),
    )


def state_shardings(cfg: RunConfig, tx, mesh, rules: sharding.Rules) -> tuple[TrainState, TrainState]:
    """(abstract state, its shardings): from the parameters' declaration, without computing anything."""
    abstract = jax.eval_shape(lambda: initial_state(cfg, tx))
    whole = sharding.replicated(mesh)
    params = sharding.tree_shardings(
        mesh, rules, P.logical_axes(trm.param_specs(cfg.model)), P.abstract(trm.param_specs(cfg.model))
    )
    carry = sharding.tree_shardings(mesh, rules, trm.carry_axes(), abstract.carry)
    opt_state = optax.tree_map_params(
        tx, lambda _, s: s, abstract.opt_state, params["weights"], transform_non_params=lambda _: whole
    )
    shardings = TrainState(
        step=whole,
        params=params,
        ema=params["weights"] if cfg.optim.ema_decay else {},
        opt_state=opt_state,
        carry=carry,
        key=whole,
        sums=jax.tree.map(lambda _: whole, abstract.sums),
        first_bad_step=whole,
    )
    return abstract, shardings


def with_shardings(abstract, shardings):
    """Abstract arrays that know where they lie: what a restore or an ahead-of-time compilation needs."""
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, shardings)


def evaluation_params(state: TrainState) -> dict:
    """Averaged weights (live ones when averaging is off) with the live puzzle table."""
    return {**state.params, "weights": state.ema or state.params["weights"]}
