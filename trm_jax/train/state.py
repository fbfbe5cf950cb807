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

SUMS = ("count", *SCORES, "lm_loss", "q_loss", "grad_norm", "lr", "updates", "skipped", "loss_scale")
FIRST_LOSS_SCALE, MIN_LOSS_SCALE = 2.0**15, 1.0


@struct.dataclass
class LossScale:
    """What the loss is multiplied by before it is differentiated, and updates since it last changed."""

    scale: jax.Array  # float32
    good_steps: jax.Array  # int32


@struct.dataclass
class TrainState:
    step: jax.Array  # int32: updates done; also addresses the data
    params: dict  # weights, buffers, puzzle_emb
    ema: dict  # average of the weights; empty when switched off
    ema_also: dict  # more averages by their decay; "0" follows the live weights
    opt_state: Any
    loss_scale: Any  # LossScale, or () when the loss is not scaled
    carry: trm.Carry
    key: jax.Array  # uint32 [2], folded with the step where randomness is used
    sums: dict[str, jax.Array]  # float32 metrics since the last log line: scalars, "halt_steps" [halt_max]
    first_bad_step: jax.Array  # int32: first step with a loss or gradient that is not finite, -1 for none


def zero_sums(cfg: RunConfig) -> dict[str, jax.Array]:
    scalars = {name: jnp.zeros((), jnp.float32) for name in SUMS}
    return scalars | {"halt_steps": jnp.zeros((cfg.model.halt_max_steps,), jnp.float32)}


def _optimizer(cfg: RunConfig) -> optax.GradientTransformation:
    """For the shape of its state, which does not depend on its numbers."""
    return make(cfg.optim.name, warmup_cosine(0.0, 0, 1))


def _name(decay: float) -> str:
    """Of which float() gives back the decay; short where that will do: "0", "0.999"."""
    short = f"{decay:g}"
    return short if float(short) == decay else repr(decay)


def initial_state(cfg: RunConfig, key: jax.Array) -> TrainState:
    """The state before the first step; `key` is that of the run's seed."""
    params = trm.init(jax.random.fold_in(key, 0), cfg.model)

    def average():  # a copy: a donated state must not hold one buffer under two names
        return jax.tree.map(jnp.copy, params["weights"])

    scale = LossScale(jnp.full((), FIRST_LOSS_SCALE, jnp.float32), jnp.zeros((), jnp.int32))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=average() if cfg.optim.ema_decay else {},
        ema_also={_name(decay): average() for decay in cfg.optim.other_decays},
        opt_state=_optimizer(cfg).init(params["weights"]),
        loss_scale=scale if cfg.scales_loss else (),
        carry=trm.initial_carry(cfg.model, cfg.train.batch_size),
        key=jax.random.key_data(jax.random.fold_in(key, 1)),
        sums=zero_sums(cfg),
        first_bad_step=jnp.full((), -1, jnp.int32),
    )


def state_shardings(cfg: RunConfig, mesh, rules: sharding.Rules) -> tuple[TrainState, TrainState]:
    """(abstract state, its shardings): from the parameters' declaration, without computing anything."""
    abstract = jax.eval_shape(lambda: initial_state(cfg, jax.random.key(0)))
    whole = sharding.replicated(mesh)
    params = sharding.tree_shardings(
        mesh, rules, P.logical_axes(trm.param_specs(cfg.model)), P.abstract(trm.param_specs(cfg.model))
    )
    carry = sharding.tree_shardings(mesh, rules, trm.carry_axes(), abstract.carry)
    opt_state = optax.tree_map_params(
        _optimizer(cfg), lambda _, s: s, abstract.opt_state, params["weights"], transform_non_params=lambda _: whole
    )
    shardings = TrainState(
        step=whole,
        params=params,
        ema=params["weights"] if cfg.optim.ema_decay else {},
        ema_also={name: params["weights"] for name in abstract.ema_also},
        opt_state=opt_state,
        loss_scale=jax.tree.map(lambda _: whole, abstract.loss_scale),
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


def other_evaluation_params(state: TrainState) -> dict[str, dict]:
    """The other weights that are evaluated besides: "live" or "ema_0.99" -> parameters."""
    return {
        f"ema_{name}" if float(name) else "live": {**state.params, "weights": weights}
        for name, weights in state.ema_also.items()
    }
