"""Universal Reasoning Model (arXiv 2512.14693): one stack whose feed-forward layers look one token back.

A supervision step is H_cycles * L_cycles passes of the stack, of which the last L_cycles have a gradient. The published
supervision steps are its "loops" (`halt_max_steps`). Its Muon is `optim.name=urm_muon`.

This module's `FAMILY` is a `trm_jax.models.family.Family`; what it shares with TRM is in `trm` and `supervision`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from trm_jax.models import params as P
from trm_jax.models.layers import halves, linear, swiglu_width
from trm_jax.models.supervision import carry_type
from trm_jax.models.trm import TRM, TRMConfig, recurse, stack
from trm_jax.settings import number


@dataclass(frozen=True)
class URMConfig(TRMConfig):
    """Settings of TRM with those of the published scripts; those that have no meaning here are constants."""

    L_layers: int = number(4, low=1)
    H_cycles: int = number(2, low=1)
    puzzle_emb_len: int = number(1)
    mlp_t: ClassVar[bool] = False
    pos_encodings: ClassVar[str] = "rope"
    frozen_products: ClassVar[str] = "exact"
    q_continue: ClassVar[bool] = False

    @property
    def calls(self) -> tuple[tuple[int, int, int], ...]:
        return ((self.L_layers, (self.H_cycles - 1) * self.L_cycles, self.L_cycles),)


def conv_swiglu(params: dict, x: jax.Array, products: str = "exact") -> jax.Array:
    """SwiGLU of x [B, T, D] whose gated features are, channel by channel, mixed with those of the token before.

    params: gate_up [D, 2, I], down [I, D], dwconv {"kernel" [2, I]: of the token before and of this one, "bias" [I]}.
    The first token has none before it, and what is mixed passes another silu.
    """
    gate, up = (linear(x, w, products) for w in halves(params["gate_up"]))
    a = jax.nn.silu(gate) * up
    before, this = params["dwconv"]["kernel"].astype(x.dtype)
    past = jnp.pad(a[:, :-1], ((0, 0), (1, 0), (0, 0)))
    mixed = before * past + this * a + params["dwconv"]["bias"].astype(x.dtype)
    return linear(jax.nn.silu(mixed), params["down"], products)


def cycle(call, layers, cfg, emb, z, unroll: bool) -> tuple:
    """L_cycles passes of the stack."""

    def think(h, _):
        return call(layers, h, emb), None

    h, _ = lax.scan(think, z[0], length=cfg.L_cycles, unroll=cfg.L_cycles if unroll else 1)
    return (h,)


def _uniform(bound: float) -> P.Initializer:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


class URM(TRM):
    Config = URMConfig
    Carry = carry_type("current_hidden")
    LATENTS = {"current_hidden": "init_hidden"}
    STACKS = {"layers": ("layers", "L_layers")}
    LOCAL = TRM.LOCAL | {"L_layers": 2}

    def nets(self, cfg: URMConfig) -> dict:
        inner, first = swiglu_width(cfg.hidden_size, cfg.expansion), _uniform(math.sqrt(0.5))
        layers = stack(cfg, cfg.L_layers)
        for layer in layers.values():
            layer["mlp"]["dwconv"] = {
                "kernel": P.ParamSpec((2, inner), (None, "mlp"), first, "vector"),
                "bias": P.ParamSpec((inner,), ("mlp",), first, "vector"),
            }
        return {"layers": layers}

    def recurse(self, weights, cfg, emb, latents, keys=None) -> tuple:
        return recurse(weights["layers"], cfg, emb, *latents, cycle=cycle, mlp=conv_swiglu)


FAMILY = URM()
