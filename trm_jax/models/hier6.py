"""TRM with six latents besides the answer (the paper's ablation of its hierarchy).

Step i of a cycle makes latent i new from the sum of all six, the answer and the input; then the answer is made new from
the sum. With L_cycles below 6 the latents that are never reached stay where they begin, and count in the sum.

This module's `FAMILY` is a `trm_jax.models.family.Family`; what it shares with TRM is in `trm` and `supervision`.
"""

from __future__ import annotations

from dataclasses import dataclass

from trm_jax.models.supervision import carry_type
from trm_jax.models.trm import TRM, TRMConfig, recurse

_LATENTS = 6


@dataclass(frozen=True)
class Hier6Config(TRMConfig):
    """Settings of TRM, with L_cycles up to 6."""

    def __post_init__(self):
        super().__post_init__()
        if self.L_cycles > _LATENTS:
            raise ValueError(f"L_cycles is {self.L_cycles}; there are {_LATENTS} latents, each made new once a cycle")


def cycle(call, layers, cfg, emb, z, unroll: bool) -> tuple:
    """An update of each of the first L_cycles latents, which sees those before it, and one of the answer."""
    z_H, *z_L = z
    injection = z_H + emb
    for i in range(cfg.L_cycles):
        z_L[i] = call(layers, sum(z_L), injection)
    return call(layers, z_H, sum(z_L)), *z_L


class Hier6(TRM):
    Config = Hier6Config
    LATENTS = {"z_H": "H_init"} | {f"z_L{i}": f"L{i}_init" for i in range(1, _LATENTS + 1)}
    Carry = carry_type(*LATENTS)

    def recurse(self, weights, cfg, emb, latents, keys=None) -> tuple:
        return recurse(weights["layers"], cfg, emb, *latents, cycle=cycle)


FAMILY = Hier6()
