"""The state of a run: everything that must be stored to go on exactly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct

from trm_jax import optim, sharding
from trm_jax.models import params as P
from trm_jax.train.config import RunConfig

FIRST_LOSS_SCALE, MIN_LOSS_SCALE = 2.0**15, 1.0


@struct.dataclass
class LossScale:
    """What the loss is multiplied by before it is differentiated, and updates since it last changed."""

    scale: jax.Array  # float32
    good_steps: jax.Array  # int32


@struct.dataclass
class TrainState:
    step: jax.Array  # int32: updates done; also addresses the data
    params: dict  # weights, buffers, tables
    ema: dict  # average of the weights; empty when switched off
    ema_also: dict  # more averages by their decay; "0" follows the live weights
    opt_state: Any
    loss_scale: Any  # LossScale, or () when the loss is not scaled
    carry: Any
    key: jax.Array  # uint32 [2], folded with the step where randomness is used


def _optimizer(cfg: RunConfig, specs: dict) -> optax.GradientTransformation:
    """For the shape of its state, which does not depend on its numbers."""
    return optim.build(cfg.optim.name, specs["weights"], 0.0)


def _name(decay: float) -> str:
    """Of which float() gives back the decay; short where that will do: "0", "0.999"."""
    short = f"{decay:g}"
    return short if float(short) == decay else repr(decay)


def initial_state(cfg: RunConfig, key: jax.Array) -> TrainState:
    """The state before the first step; `key` is that of the run's seed."""
    specs = cfg.family.specs(cfg.model)
    params = P.init(specs, jax.random.fold_in(key, 0))

    def average():  # a copy: a donated state must not hold one buffer under two names
        return jax.tree.map(jnp.copy, params["weights"])

    scale = LossScale(jnp.full((), FIRST_LOSS_SCALE, jnp.float32), jnp.zeros((), jnp.int32))
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=average() if cfg.optim.ema_decay else {},
        ema_also={_name(decay): average() for decay in cfg.optim.other_decays},
        opt_state=_optimizer(cfg, specs).init(params["weights"]),
        loss_scale=scale if cfg.scales_loss else (),
        carry=P.init(cfg.family.carry_specs(cfg.model, cfg.train.batch_size), key),
        key=jax.random.key_data(jax.random.fold_in(key, 1)),
    )


def abstract_state(cfg: RunConfig, mesh) -> TrainState:
    """The state as abstract arrays that know where they lie on a mesh: from its declaration, nothing is computed.

    Raises InputError for a mesh that cannot share it.
    """
    specs = cfg.family.specs(cfg.model)
    abstract = jax.eval_shape(lambda: initial_state(cfg, jax.random.key(0)))
    whole, rules = sharding.replicated(mesh), sharding.Rules()
    params = sharding.shardings(mesh, rules, specs)
    lies = TrainState(
        step=whole,
        params=params,
        ema=params["weights"] if cfg.optim.ema_decay else {},
        ema_also={name: params["weights"] for name in abstract.ema_also},
        opt_state=sharding.beside(mesh, specs["weights"], params["weights"], abstract.opt_state),
        loss_scale=jax.tree.map(lambda _: whole, abstract.loss_scale),
        carry=sharding.shardings(mesh, rules, cfg.family.carry_specs(cfg.model, cfg.train.batch_size)),
        key=whole,
    )
    return jax.tree.map(lambda a, s: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=s), abstract, lies)


def shardings_of(abstract):
    """The shardings of a tree of abstract arrays that know theirs."""
    return jax.tree.map(lambda a: a.sharding, abstract)


def evaluation_params(state: TrainState) -> dict[str, dict]:
    """The parameters that are evaluated: "" -> averaged weights (live ones when averaging is off) with the live tables,
    and those of `ema_also` as "live" or "ema_0.99"."""
    others = {f"ema_{name}" if float(name) else "live": weights for name, weights in state.ema_also.items()}
    weights = {"": state.ema or state.params["weights"], **others}
    return {name: {**state.params, "weights": of_name} for name, of_name in weights.items()}
