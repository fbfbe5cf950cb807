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
import numpy as np
from jax import lax

from trm_jax.models import params as P
from trm_jax.models.supervision import fold
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


def _draw(draw: Callable, keys: jax.Array) -> jax.Array:
    """draw(key) for each row by itself: [B, ...]."""
    return jax.vmap(lambda key: draw(jax.random.wrap_key_data(key)))(keys)


def keys_of(seed: int, inputs: jax.Array) -> jax.Array:
    """Keys [B, 2] of puzzles [B, S], by their tokens alone: two sums with fixed random factors, modulo 2**32."""
    factors = np.random.default_rng(seed).integers(2**32, size=(2, inputs.shape[1]), dtype=np.uint32) | np.uint32(1)
    return jnp.sum((inputs[:, None].astype(jnp.uint32) + 1) * factors, axis=-1, dtype=jnp.uint32)


class EqR(TRM):
    Config = EqRConfig
    LATENTS = {"z_H": "", "z_L": ""}
    LOCAL = {name: value for name, value in TRM.LOCAL.items() if name != "puzzle_emb_ndim"}

    def noise(self, cfg: EqRConfig, key, batch_size: int, exploration=None) -> dict:
        # 2: the exploration's own keys, which a split makes, are those of 0 and 1.
        rows = jnp.broadcast_to(jax.random.key_data(jax.random.fold_in(key, 2)), (batch_size, 2))
        return super().noise(cfg, key, batch_size, exploration) | {"keys": fold(rows, jnp.arange(batch_size))}

    def step(self, params, cfg, carry, batch, min_steps=0, *, train=False, keys=None, late_steps=None) -> tuple:
        """As `Supervision.step`; keys: None for those of evaluation."""
        keys = fold(keys_of(cfg.eval_seed, batch["inputs"]), carry.steps) if keys is None else keys
        return super().step(params, cfg, carry, batch, min_steps, train=train, keys=keys, late_steps=late_steps)

    def starts(self, params, cfg: EqRConfig, keys) -> dict:
        shape = (cfg.total_len, cfg.hidden_size)
        draw = P.truncated_normal(1.0)
        return {
            latent: _draw(lambda key: draw(key, shape, jnp.float32), fold(keys, place))
            for place, latent in enumerate(self.LATENTS)
        }

    def draws(self, cfg: EqRConfig, keys: jax.Array) -> Callable:
        """(number of a call) -> its noise [B, T, D]."""
        shape = (cfg.total_len, cfg.hidden_size)
        return lambda call: _draw(lambda key: jax.random.normal(key, shape), fold(keys, len(self.LATENTS) + call))

    def recurse(self, weights, cfg: EqRConfig, emb, latents, keys=None) -> tuple:
        draw = self.draws(cfg, keys)
        lies = (lambda call: draw(call).swapaxes(0, 1)) if cfg.mlp_t else draw
        return recurse(weights["layers"], cfg, emb, *latents, cycle=cycle_with(lies), numbered=True)


FAMILY = EqR()
