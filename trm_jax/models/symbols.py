"""Symbol-equivariant TRM, after the idea of arXiv 2603.02193: a latent for each cell and symbol, shared weights.

The tokens from `first_symbol` on are symbols that mean the same but for their names, as digits of a Sudoku do. Each
has latents of its own, [B, N, T, D], and sees the puzzle from where it stands: a cell holds it, holds another one, or
holds a token that is no symbol. A block is TRM's, applied to each symbol alone, and before its SwiGLU comes the mean of
the other symbols at the same cell. So symbols that change places in a puzzle change places in the logits, and nothing
else happens, whatever the weights. The layers are ours; nothing here was held against the authors' code.

N = symbols, D here the width of one cell and symbol. This module's `FAMILY` is a `trm_jax.models.family.Family`; what
it shares with TRM is in `trm` and `supervision`.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from trm_jax.models import params as P
from trm_jax.models import trm_cost
from trm_jax.models.layers import inverse_sqrt, linear, swiglu
from trm_jax.models.supervision import Output, embed
from trm_jax.models.trm import TRM, TRMConfig, recurse, stack
from trm_jax.settings import number


@dataclass(frozen=True)
class SymbolsConfig(TRMConfig):
    """Settings of TRM; a width is that of one cell and symbol, and there is no puzzle table by default."""

    hidden_size: int = number(128, low=1)
    puzzle_emb_ndim: int = number(0)
    puzzle_emb_len: int = number(0)
    first_symbol: int = number(2, low=1)  # the tokens before it are none: padding and blank

    def __post_init__(self):
        super().__post_init__()
        if self.symbols < 2:
            said = f"first_symbol is {self.first_symbol}, which leaves {self.symbols} of {self.vocab_size} tokens"
            raise ValueError(f"{said}; there must be two symbols or more")

    @property
    def symbols(self) -> int:
        """N."""
        return self.vocab_size - self.first_symbol


def seen_by_symbols(cfg: SymbolsConfig, inputs: jax.Array) -> jax.Array:
    """Tokens [B, S] as each symbol sees them, [B, N, S]: `first_symbol` where it stands, one more for another."""
    own = inputs[:, None] == cfg.first_symbol + jnp.arange(cfg.symbols)[:, None]
    another = jnp.where(inputs < cfg.first_symbol, inputs, cfg.first_symbol + 1)
    return jnp.where(own, cfg.first_symbol, another[:, None])


def mix_symbols(params: dict, x: jax.Array, cfg: SymbolsConfig, products: str = "exact") -> jax.Array:
    """What a block adds behind its mixing of cells to x, [T, B * N, D] with mlp_t and else [B * N, T, D].

    That is `a + swiglu(x + a)`, where a is a product with the mean of the other symbols.
    """
    apart, axis = ((-1, cfg.symbols, x.shape[1]), 1) if not cfg.mlp_t else ((x.shape[0], -1, cfg.symbols), 2)
    each = x.reshape(*apart, x.shape[-1])
    others = (jnp.sum(each, axis, jnp.float32, keepdims=True) - each) / (cfg.symbols - 1)
    a = linear(others.astype(x.dtype), params["others"], products).reshape(x.shape)
    return a + swiglu(params, x + a, products=products)


class Symbols(TRM):
    Config = SymbolsConfig
    STACKS = {}  # no official weights
    LOCAL = {name: value for name, value in TRM.LOCAL.items() if name != "puzzle_emb_ndim"} | {"hidden_size": 32}

    def nets(self, cfg: SymbolsConfig) -> dict:
        D, layers = cfg.hidden_size, stack(cfg, cfg.L_layers)
        for layer in layers.values():
            layer["mlp"]["others"] = P.ParamSpec((D, D), ("embed", None), P.truncated_normal(inverse_sqrt(D)))
        return {"layers": layers}

    def specs(self, cfg: SymbolsConfig) -> dict:
        """Those of TRM with tokens as a symbol sees them, and one logit for each cell and symbol."""
        specs, D = super().specs(cfg), cfg.hidden_size
        by_width = P.truncated_normal(inverse_sqrt(D))
        specs["weights"] |= {
            "embed_tokens": P.ParamSpec((cfg.first_symbol + 2, D), ("vocab", "embed"), by_width, "embedding"),
            "lm_head": P.ParamSpec((D, 1), ("embed", None), by_width, "head"),
            "other_logits": P.ParamSpec((cfg.first_symbol,), (None,), P.constant(0.0), "vector"),  # of any cell
        }
        return specs

    def carry_specs(self, cfg: SymbolsConfig, batch_size: int):
        carry = super().carry_specs(cfg, batch_size)
        shape = (batch_size, cfg.symbols, cfg.total_len, cfg.hidden_size)
        latent = dataclasses.replace(carry.z_H, shape=shape, axes=("batch", None, None, None))
        return carry.replace(**dict.fromkeys(self.LATENTS, latent))

    def forward(self, weights: dict, puzzle_rows, cfg: SymbolsConfig, inputs, *latents, keys=None) -> tuple:
        """One supervision step on given latents [B, N, T, D]: -> (*latents, Output)."""
        B, N = inputs.shape[0], cfg.symbols
        with jax.named_scope("embed"):
            rows = None if puzzle_rows is None else jnp.repeat(puzzle_rows, N, axis=0)
            emb = embed(weights, rows, cfg, seen_by_symbols(cfg, inputs).reshape(B * N, -1))
        merged = (z.reshape(emb.shape) for z in latents)
        latents = recurse(weights["layers"], cfg, emb, *merged, mlp=partial(mix_symbols, cfg=cfg))
        latents = tuple(z.reshape(B, N, *z.shape[1:]) for z in latents)
        answer = latents[0]
        with jax.named_scope("head"):
            own = linear(answer[:, :, cfg.puzzle_emb_len :], weights["lm_head"])[..., 0].swapaxes(1, 2)
            none = jnp.broadcast_to(weights["other_logits"].astype(own.dtype), (*inputs.shape, cfg.first_symbol))
            pooled = jnp.mean(answer[:, :, 0].astype(jnp.float32), axis=1)
            q = linear(pooled, weights["q_head"]["kernel"]) + weights["q_head"]["bias"]
        return *latents, Output(jnp.concatenate([none, own], axis=-1), q[:, 0], q[:, 1])

    def flops(self, cfg: SymbolsConfig) -> tuple[int, int]:
        D, N = cfg.hidden_size, cfg.symbols
        block = N * (trm_cost.block_flops(cfg) + 2 * cfg.total_len * D * D)
        forward, both = trm_cost.step_flops(cfg, block, 2 * N * cfg.seq_len * D + 4 * D)
        return both, cfg.halt_max_steps * forward

    def activation_bytes(self, cfg: SymbolsConfig, rows: int) -> int:
        """Of TRM with a row for each symbol, and the mean of the others, which the last cycle keeps for its product."""
        calls = cfg.L_layers * (cfg.L_cycles + 1 if cfg.remat != "block" else 1)
        others = calls * cfg.total_len * cfg.hidden_size * cfg.compute_dtype.itemsize
        return trm_cost.activation_bytes(cfg, rows * cfg.symbols) + rows * cfg.symbols * others


FAMILY = Symbols()
