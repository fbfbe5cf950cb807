"""TRM with a single latent (the paper's ablation): the answer thinks, L_cycles times with the input and once without.

This module's `FAMILY` is a `trm_jax.models.family.Family`; what it shares with TRM is in `trm` and `supervision`.
"""

from __future__ import annotations

from jax import lax

from trm_jax.models.supervision import carry_type
from trm_jax.models.trm import TRM, recurse


def cycle(call, layers, cfg, emb, z, unroll: bool) -> tuple:
    """L_cycles updates with the input injected, one without."""

    def think(z, _):
        return call(layers, z, emb), None

    z, _ = lax.scan(think, z[0], length=cfg.L_cycles, unroll=cfg.L_cycles if unroll else 1)
    return (call(layers, z, 0),)


class SingleZ(TRM):
    Carry = carry_type("z_L")
    LATENTS = {"z_L": "L_init"}

    def recurse(self, weights, cfg, emb, latents, keys=None) -> tuple:
        return recurse(weights["layers"], cfg, emb, *latents, cycle=cycle)


FAMILY = SingleZ()
