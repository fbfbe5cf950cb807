"""The plain recurrent transformer of the official repository: one deep stack, passed once a supervision step.

Rows end where q_halt > q_continue, as in HRM, but nothing trains q_continue: it stays near where it begins, so early in
training rows end as soon as the model gives itself a small chance. Heads may together be narrower than a token.

This module's `FAMILY` is a `trm_jax.models.family.Family`; what it shares with TRM is in `trm` and `supervision`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trm_jax.models.supervision import Output, carry_type
from trm_jax.models.trm import TRM, TRMConfig, recurse
from trm_jax.settings import number, option


@dataclass(frozen=True)
class TransformerConfig(TRMConfig):
    """Settings of TRM with the published defaults; those that have no meaning here are constants."""

    num_heads: int = number(12, low=1)
    L_layers: int = number(8, low=1)
    pos_encodings: str = option("rope", "rope", "learned", "none")
    puzzle_emb_len: int = number(1)
    whole_heads: ClassVar[bool] = False
    mlp_t: ClassVar[bool] = False
    H_cycles: ClassVar[int] = 1
    L_cycles: ClassVar[int] = 0
    frozen_products: ClassVar[str] = "exact"
    q_continue: ClassVar[bool] = False


def cycle(call, layers, cfg, emb, z, unroll: bool) -> tuple:
    """One pass of the stack."""
    return (call(layers, *z, emb),)


class Transformer(TRM):
    Config = TransformerConfig
    Carry = carry_type("z_H")
    LATENTS = {"z_H": "H_init"}
    STACKS = {"layers": ("H_level.layers", "L_layers")}
    LOCAL = {"hidden_size": 64, "num_heads": 6, "puzzle_emb_ndim": 64, "L_layers": 2, "halt_max_steps": 4}

    def recurse(self, weights, cfg, emb, latents, keys=None) -> tuple:
        return recurse(weights["layers"], cfg, emb, *latents, cycle=cycle)

    def margin(self, cfg, out: Output):
        return out.q_halt - out.q_continue


FAMILY = Transformer()
