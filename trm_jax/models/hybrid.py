"""TRM that reads: what a frozen language model made of an ARC task stands where the puzzle's embedding stood.

Phase 1: the pooled state of a task's text becomes the prefix and is added to every place of the input. Phase 2
(`text_tokens` > 0) adds what cross-attention finds in all states of the text, times a gate that begins at 0: at first
it is phase 1 bit for bit, from whose run it may begin. The attention asks once in a supervision step, by the answer so
far.

E = width of the text's states, N = texts, L = tokens of a text; the others are those of `trm_jax.models.trm`. Row i of
"features" is what the batch calls puzzle i. They and "scaling", by which they are centred, come with the data.

This module's `FAMILY` is a `trm_jax.models.family.Family`. Source of the idea: iamseungpil/TinyRecursiveModels,
`gpt-integration`, whose loss skips the size of the answer; docs/hybrid.md has what else differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import einops
import jax
import jax.numpy as jnp
from jax import lax

from trm_jax.models import params as P
from trm_jax.models import trm_cost
from trm_jax.models.layers import inverse_sqrt, linear, rms_norm
from trm_jax.models.trm import TRM, TRMConfig
from trm_jax.settings import number


@dataclass(frozen=True)
class HybridConfig(TRMConfig):
    """Settings of TRM, whose prefix is as wide as its places, and the sizes of what is read."""

    puzzle_emb_len: int = number(16, low=1)  # places of the prefix
    text_width: int = number(576, low=1)  # of the language model's states
    text_tokens: int = number(0)  # of a text that cross-attention sees; 0: phase 1, without any
    puzzle_emb_ndim: ClassVar[int] = property(lambda cfg: cfg.puzzle_emb_len * cfg.hidden_size)


def cross_attention(weights: dict, cfg: HybridConfig, x: jax.Array, states: jax.Array, sizes: jax.Array) -> jax.Array:
    """What places x [B, T, D] find in states [B, L, E], of which the first sizes [B] are there: [B, T, D]."""
    split = "b t (h k) -> b h t k"
    q = einops.rearrange(linear(x, weights["q"]), split, h=cfg.num_heads)
    k, v = (einops.rearrange(linear(states, weights[name]), split, h=cfg.num_heads) for name in "kv")
    scores = jnp.einsum("bhtk,bhlk->bhtl", q, k, preferred_element_type=jnp.float32) * cfg.head_dim**-0.5
    there = jnp.arange(states.shape[1]) < sizes[:, None]
    shares = jax.nn.softmax(jnp.where(there[:, None, None], scores, jnp.finfo(jnp.float32).min), axis=-1)
    found = jnp.einsum("bhtl,bhlk->bhtk", shares.astype(v.dtype), v)
    return linear(einops.rearrange(found, "b h t k -> b t (h k)"), weights["out"])


class Hybrid(TRM):
    Config = HybridConfig
    LOCAL = {name: value for name, value in TRM.LOCAL.items() if name != "puzzle_emb_ndim"} | {"text_width": 576}
    # This run's own where it begins with another's weights: the features, and the attention that those may lack.
    OWN = ("features", "scaling", "cross")

    def warnings(self, cfg) -> tuple[str, ...]:
        said = "phase 2 begins with nothing; train.start_from=RUN names a run of phase 1 to begin with"
        return (said,) if cfg.model.text_tokens and not cfg.train.start_from else ()

    def specs(self, cfg: HybridConfig) -> dict:
        specs = super().specs(cfg)
        del specs["puzzle_emb"]
        D, E, N, L = cfg.hidden_size, cfg.text_width, cfg.num_puzzle_ids, cfg.text_tokens
        wide = cfg.num_heads * cfg.head_dim

        def kernel(inner: int, out: int, *axes: str | None) -> P.ParamSpec:
            return P.ParamSpec((inner, out), axes, P.truncated_normal(inverse_sqrt(inner)))

        def given(*shape: int, dtype=jnp.bfloat16, value: float = 0) -> P.ParamSpec:
            return P.ParamSpec(shape, (None,) * len(shape), P.constant(value), "frozen", dtype)

        # The embedding is multiplied by sqrt(D) afterwards, with its prefix.
        prefix = P.ParamSpec((E, cfg.puzzle_emb_ndim), (None, "mlp"), P.truncated_normal(inverse_sqrt(E * D)))
        specs["weights"]["text"] = {"prefix": prefix, "injection": kernel(E, D, None, "embed")}
        specs["features"] = {"pooled": given(N, E)}
        specs["scaling"] = {"pooled": given(2, E, dtype=jnp.float32, value=1)}
        if L:
            specs["weights"]["cross"] = {
                "q": kernel(D, wide, "embed", "heads"),
                "k": kernel(E, wide, None, "heads"),
                "v": kernel(E, wide, None, "heads"),
                "out": kernel(wide, D, "heads", "embed"),
                "gate": P.ParamSpec((1,), (None,), P.constant(0.0), "vector", decay=0.0),
            }
            specs["features"] |= {"states": given(N, L, E), "sizes": given(N, dtype=jnp.int32)}
            specs["scaling"]["states"] = given(2, E, dtype=jnp.float32, value=1)
        return specs

    def say(self, params: dict, cfg: HybridConfig, carry, keys=None) -> tuple:
        with jax.named_scope("text"):
            rows = {name: jnp.take(table, carry.puzzle_ids, axis=0) for name, table in params["features"].items()}
            for name, (mean, deviation) in params["scaling"].items():
                rows[name] = ((rows[name].astype(jnp.float32) - mean) / deviation).astype(cfg.compute_dtype)
            weights = {**params["weights"], "rows": rows}
            prefix = linear(rows["pooled"], weights["text"]["prefix"])
        latents = (getattr(carry, name) for name in self.LATENTS)
        *latents, out = self.forward(weights, prefix, cfg, carry.inputs, *latents, keys=keys)
        return dict(zip(self.LATENTS, latents, strict=True)), out

    def recurse(self, weights: dict, cfg: HybridConfig, emb, latents: tuple, keys=None) -> tuple:
        rows = weights["rows"]
        with jax.named_scope("text"):
            told = emb + linear(rows["pooled"], weights["text"]["injection"])[:, None]
            if cfg.text_tokens:
                asking = rms_norm(lax.stop_gradient(latents[0]) + emb, -1, cfg.rms_eps)
                found = cross_attention(weights["cross"], cfg, asking, rows["states"], rows["sizes"])
                told += weights["cross"]["gate"].astype(told.dtype) * found
        return super().recurse(weights, cfg, told, latents)

    def of_steps(self, answers: jax.Array, q_halt: jax.Array) -> dict:
        """Those of every step, which self-correction chooses from: [B, steps, S] and [B, steps]."""
        return {"answers": answers.swapaxes(0, 1), "q_halt": q_halt.T}

    def flops(self, cfg: HybridConfig) -> tuple[int, int]:
        D, E, T, L = cfg.hidden_size, cfg.text_width, cfg.total_len, cfg.text_tokens
        wide = cfg.num_heads * cfg.head_dim
        reads = 2 * E * (cfg.puzzle_emb_ndim + D)
        if L:
            reads += 2 * L * E * 2 * wide + 2 * T * D * 2 * wide + 2 * 2 * T * L * wide
        train, evaluation = trm_cost.flops(cfg)
        return train + 3 * reads, evaluation + cfg.halt_max_steps * reads

    def activation_bytes(self, cfg: HybridConfig, rows: int) -> int:
        width, L = cfg.compute_dtype.itemsize, cfg.text_tokens
        kept = L * (cfg.text_width * (2 + 4 + width) + 2 * cfg.num_heads * cfg.head_dim * width)
        kept += cfg.num_heads * cfg.total_len * L * (4 + width)  # scores and shares
        return trm_cost.activation_bytes(cfg, rows) + rows * kept


FAMILY = Hybrid()
