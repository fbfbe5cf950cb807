"""Equilibrium Reasoner (arXiv 2605.21488): TRM with damped, noisy calls from random starts, and no puzzle embedding.

Every call makes a latent `(1 - damping) z + damping net(z + x) + noise_scale n` with n ~ N(0, 1), in evaluation too. A
row's numbers are drawn by keys of its own: in training those of the run's seed, the step and the row; in evaluation
those of `eval_seed` and the puzzle itself. So neither its place in a batch nor the devices change them. With damping 1
and no noise it is TRM from random starts.

This module's `FAMILY` is a `trm_jax.models.family.Family`; what it shares with TRM is in `trm` and `supervision`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from trm_jax.models import params as P
from trm_jax.models.row_keys import draw, fold, keys_of
from trm_jax.models.trm import TRM, TRMConfig, recurse
from trm_jax.settings import number


@dataclass(frozen=True)
class EqRConfig(TRMConfig):
    """Settings of TRM with the published damping and noise."""

    puzzle_emb_ndim: int = number(0)
    puzzle_emb_len: int = number(0)
    damping: float = number(0.95, high=1)  # the share of a call's result in the new latent
    noise_scale: float = number(0.01)
    eval_seed: int = number(0)  # another one: other starts and noise in evaluation
    q_continue: ClassVar[bool] = False


def cycle_with(draw: Callable) -> Callable:
    """A cycle of TRM of such calls. draw(i): n for call i of the supervision step, shaped as a latent."""

    def cycle(call, layers, cfg, emb, z, unroll: bool, number) -> tuple:
        z_H, z_L = z
        injection, first = z_H + emb, number * (cfg.L_cycles + 1)

        def damped(z, injection, i):
            z = (1 - cfg.damping) * z + cfg.damping * call(layers, z, injection)
            return z + (cfg.noise_scale * draw(first + i)).astype(z.dtype) if cfg.noise_scale else z

        def think(z, i):
            return damped(z, injection, i), None

        once = cfg.L_cycles if unroll else 1
        z_L, _ = lax.scan(think, z_L, jnp.arange(cfg.L_cycles), unroll=once)
        return damped(z_H, z_L, cfg.L_cycles), z_L

    return cycle


class EqR(TRM):
    Config = EqRConfig
    LATENTS = {"z_H": "", "z_L": ""}
    RANDOM = True
    LOCAL = {name: value for name, value in TRM.LOCAL.items() if name != "puzzle_emb_ndim"}

    def noise(self, cfg: EqRConfig, key, batch_size: int, exploration=None) -> dict:
        # 2: the exploration's own keys, which a split makes, are those of 0 and 1.
        rows = jnp.broadcast_to(jax.random.key_data(jax.random.fold_in(key, 2)), (batch_size, 2))
        return super().noise(cfg, key, batch_size, exploration) | {"keys": fold(rows, jnp.arange(batch_size))}

    def step(self, params, cfg, carry, batch, min_steps=0, *, keys=None, rollout=0, **how) -> tuple:
        """As `Supervision.step`; keys: None for those of evaluation, of which every `rollout` has its own."""
        keys = self.evaluation_keys(cfg, carry, batch, rollout) if keys is None else keys
        return super().step(params, cfg, carry, batch, min_steps, keys=keys, **how)

    def evaluation_keys(self, cfg: EqRConfig, carry, batch, rollout=0) -> jax.Array:
        """Keys [B, 2] of the coming step of an evaluation: of the puzzle that a row will work on, and its step."""
        inputs = jnp.where(carry.halted[:, None], batch["inputs"], carry.inputs)
        keys = keys_of(cfg.eval_seed, inputs)
        keys = jnp.where(rollout == 0, keys, fold(keys, -1 - rollout))  # far from the numbers of steps
        return fold(keys, jnp.where(carry.halted, 0, carry.steps))

    def starts(self, params, cfg: EqRConfig, keys) -> dict:
        shape = (cfg.total_len, cfg.hidden_size)
        normal = P.truncated_normal(1.0)
        return {
            latent: draw(lambda key: normal(key, shape, jnp.float32), fold(keys, place))
            for place, latent in enumerate(self.LATENTS)
        }

    def draws(self, cfg: EqRConfig, keys: jax.Array) -> Callable:
        """(number of a call) -> its noise [B, T, D]."""
        shape = (cfg.total_len, cfg.hidden_size)
        return lambda call: draw(lambda key: jax.random.normal(key, shape), fold(keys, len(self.LATENTS) + call))

    def recurse(self, weights, cfg: EqRConfig, emb, latents, keys=None) -> tuple:
        drawn = self.draws(cfg, keys)
        lies = (lambda call: drawn(call).swapaxes(0, 1)) if cfg.mlp_t else drawn
        return recurse(weights["layers"], cfg, emb, *latents, cycle=cycle_with(lies), numbered=True)


FAMILY = EqR()
