"""Hierarchical Reasoning Model (arXiv 2506.21734): two nets, the fast one for z_L and the slow one for the answer.

The gradient passes the very last call of each net and nothing before. Rows end where q_halt > q_continue, and
q_continue is trained towards what the next step would say (`TRMConfig.q_continue`), at one more forward pass a step.

This module's `FAMILY` is a `trm_jax.models.family.Family`; what it shares with TRM is in `trm` and `supervision`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from jax import lax

from trm_jax.models.trm import TRM, TRMConfig, recurse, stack
from trm_jax.settings import number, option


@dataclass(frozen=True)
class HRMConfig(TRMConfig):
    """Settings of TRM with the published defaults, and the layers of the slow net."""

    H_layers: int = number(4, low=1)
    L_layers: int = number(4, low=1)
    H_cycles: int = number(2, low=1)
    L_cycles: int = number(2, low=1)
    mlp_t: bool = False
    pos_encodings: str = option("rope", "rope", "learned", "none")
    puzzle_emb_len: int = number(1)
    frozen_products: ClassVar[str] = "exact"
    q_continue: ClassVar[bool] = True

    @property
    def calls(self) -> tuple[tuple[int, int, int], ...]:
        return (
            (self.L_layers, self.H_cycles * self.L_cycles - 1, 1),
            (self.H_layers, self.H_cycles - 1, 1),
        )


def cycle(call, nets, cfg, emb, z, unroll: bool) -> tuple:
    """L_cycles updates of z_L, of which the last has a gradient, and one of z_H."""
    z_H, z_L = z
    frozen_net, frozen_injection = lax.stop_gradient((nets["L_level"], z_H + emb))

    def think(z, _):
        return call(frozen_net, z, frozen_injection), None

    z_L, _ = lax.scan(think, z_L, length=cfg.L_cycles - 1, unroll=max(cfg.L_cycles - 1, 1) if unroll else 1)
    z_L = call(nets["L_level"], z_L, z_H + emb)
    return call(nets["H_level"], z_H, z_L), z_L


class HRM(TRM):
    Config = HRMConfig
    STACKS = {"L_level": ("L_level.layers", "L_layers"), "H_level": ("H_level.layers", "H_layers")}
    LOCAL = TRM.LOCAL | {"H_layers": 1, "L_layers": 1}

    def nets(self, cfg: HRMConfig) -> dict:
        return {"H_level": stack(cfg, cfg.H_layers), "L_level": stack(cfg, cfg.L_layers)}

    def recurse(self, weights, cfg, emb, latents, keys=None) -> tuple:
        return recurse({name: weights[name] for name in self.STACKS}, cfg, emb, *latents, cycle=cycle)


FAMILY = HRM()
