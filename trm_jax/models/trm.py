"""Tiny Recursive Model (arXiv 2510.04871): one small network applied again and again to two latents.

B = batch, S = puzzle tokens, P = prefix tokens of the puzzle embedding, T = P + S, D = hidden size, V = vocabulary.

    params = trm.init(jax.random.key(0), cfg)
    carry = trm.initial_carry(cfg, batch_size)
    carry, out = trm.step(params, cfg, carry, batch, train=True)   # one supervision step

`params` is a dict of three trees: "weights" (trained, averaged), "buffers" (the fixed initial latents) and
"puzzle_emb" (the puzzle table [ids, ndim], which has an optimiser of its own).

This module is a `trm_jax.models.family.Family`: training, evaluation, linen and users all compose `step`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import einops
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from trm_jax.models import params as P
from trm_jax.models import supervision, target, token_mlp
from trm_jax.models.attention import IMPLEMENTATIONS, attention
from trm_jax.models.layers import (
    PRODUCTS,
    apply_rope,
    cut,
    inverse_sqrt,
    linear,
    rms_norm,
    rope_tables,
    swiglu,
    swiglu_width,
)
from trm_jax.models.supervision import Output as Output
from trm_jax.models.supervision import embed as embed
from trm_jax.models.token_mlp import mix_tokens
from trm_jax.models.trm_cost import matmul_flops as matmul_flops
from trm_jax.models.trm_cost import parts as parts
from trm_jax.settings import check, number, option, positive


@dataclass(frozen=True)
class TRMConfig:
    """Shape and recursion of a TRM. The first three come from the data set.

    Raises ValueError for a combination that cannot be built.
    """

    vocab_size: int = number(low=1)
    seq_len: int = number(low=1)
    num_puzzle_ids: int = number(1, low=1)
    hidden_size: int = number(512, low=1)
    num_heads: int = number(8, low=1)  # attention only; unused with mlp_t
    L_layers: int = number(2, low=1)
    H_cycles: int = number(3, low=1)
    L_cycles: int = number(6, low=1)
    expansion: float = positive(4.0)
    mlp_t: bool = True  # mix tokens by an MLP over the sequence axis instead of attention
    pos_encodings: str = option("none", "rope", "learned", "none")
    rope_theta: float = positive(10000.0)
    rms_eps: float = positive(1e-5)
    puzzle_emb_ndim: int = number(512)
    puzzle_emb_len: int = number(16)
    halt_max_steps: int = number(16, low=1)
    halt_exploration_prob: float = number(0.1, high=1)
    q_continue: bool = (
        False  # HRM's rule: rows end where q_halt > q_continue, which learns what the next step would say
    )
    late_start_prob: float = number(0.0, high=1)  # in training: of a step that first thinks without a gradient
    late_start_steps: int = number(16, low=16)  # the most supervision steps that it thinks so
    step_weight: float = positive(1.0)  # of a row's loss at a supervision step, as a multiple of that at the one before
    dtype: str = option("bfloat16", "float32", "bfloat16", "float16")  # of activations; weights are float32
    frozen_products: str = option("exact", *PRODUCTS)  # of the cycles without gradient
    attention_impl: str = option("auto", "auto", *IMPLEMENTATIONS)
    mlp_t_impl: str = option("auto", "auto", *token_mlp.IMPLEMENTATIONS)
    # block: the backward pass computes a network call again; auto: training decides by the memory there is, else none.
    remat: str = option("auto", "auto", "none", "block")
    unroll: str = option("auto", "auto", "scan", "unroll")  # the differentiated cycle; auto: on CPUs and GPUs

    whole_heads: ClassVar[bool] = True  # the heads together are as wide as a token

    def __post_init__(self):
        check(self)
        if self.whole_heads and not self.mlp_t and self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        if not self.mlp_t and self.pos_encodings == "rope" and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head size; hidden_size / num_heads is {self.head_dim}")
        if self.puzzle_emb_ndim > self.puzzle_emb_len * self.hidden_size:
            raise ValueError(
                f"puzzle_emb_ndim {self.puzzle_emb_ndim} does not fit into puzzle_emb_len {self.puzzle_emb_len} "
                f"tokens of {self.hidden_size}"
            )
        if self.frozen_products != "exact" and self.H_cycles == 1:
            raise ValueError(f"frozen_products is {self.frozen_products}, and with H_cycles 1 no cycle is frozen")
        if self.puzzle_emb_len and not self.puzzle_emb_ndim:
            said = f"puzzle_emb_ndim is 0 while puzzle_emb_len is {self.puzzle_emb_len}"
            raise ValueError(f"{said}; set both to 0 for no puzzle embedding")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def total_len(self) -> int:
        """T: prefix tokens and puzzle tokens."""
        return self.puzzle_emb_len + self.seq_len

    @property
    def compute_dtype(self):
        return jnp.dtype(self.dtype)

    @property
    def late_starts(self) -> tuple[int, ...]:
        """The supervision steps without gradient of a late start, all as likely (Sotaku's 32 to 512 iterations)."""
        return tuple(self.late_start_steps // 2**i for i in range(5))

    @property
    def calls(self) -> tuple[tuple[int, int, int], ...]:
        """Of each net: (its layers, calls without gradient in a supervision step, calls with)."""
        cycle = self.L_cycles + 1
        return ((self.L_layers, (self.H_cycles - 1) * cycle, cycle),)


def _swiglu_specs(width: int, expansion: float, axis: str) -> dict:
    inner = swiglu_width(width, expansion)
    return {
        "gate_up": P.ParamSpec((width, 2, inner), (axis, None, "mlp"), P.truncated_normal(inverse_sqrt(width))),
        "down": P.ParamSpec((inner, width), ("mlp", axis), P.truncated_normal(inverse_sqrt(inner))),
    }


def stack(cfg: TRMConfig, layers: int) -> dict:
    """The declaration of a net of so many layers."""
    D, heads = cfg.hidden_size, cfg.num_heads * cfg.head_dim

    def layer():
        specs = {"mlp": _swiglu_specs(D, cfg.expansion, "embed")}
        if cfg.mlp_t:
            specs["mlp_t"] = _swiglu_specs(cfg.total_len, cfg.expansion, "tokens")
        else:
            specs["attn"] = {
                "qkv": P.ParamSpec((D, 3, heads), ("embed", None, "heads"), P.truncated_normal(inverse_sqrt(D))),
                "out": P.ParamSpec((heads, D), ("heads", "embed"), P.truncated_normal(inverse_sqrt(heads))),
            }
        return specs

    return {str(i): layer() for i in range(layers)}


@struct.dataclass
class Carry:
    """What lives across training steps: latents, counters and the rows being worked on."""

    z_H: jax.Array  # [B, T, D] answer state
    z_L: jax.Array  # [B, T, D] latent
    steps: jax.Array  # [B] int32 supervision steps done on the current row
    halted: jax.Array  # [B] bool: the row is finished, the next batch row takes its place
    inputs: jax.Array  # [B, S] int32
    labels: jax.Array  # [B, S] int32, IGNORE where not scored
    puzzle_ids: jax.Array  # [B] int32


def _attention_block(layer: dict, cfg: TRMConfig, h: jax.Array, products: str) -> jax.Array:
    qkv = linear(h, layer["qkv"], products)
    q, k, v = einops.rearrange(qkv, "b t three (h k) -> three b t h k", h=cfg.num_heads)
    if cfg.pos_encodings == "rope":
        cos, sin = rope_tables(cfg.total_len, cfg.head_dim, cfg.rope_theta)
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
    heads = attention(q, k, v, impl=cfg.attention_impl)
    return linear(einops.rearrange(heads, "b t h k -> b t (h k)"), layer["out"], products)


def net(layers: dict, cfg: TRMConfig, h, injection, products: str = "exact", mlp: Callable = swiglu) -> jax.Array:
    """One reasoning call: `h + injection` through the post-norm blocks; products: of `layers.PRODUCTS`.

    Latents are [B, T, D]; with mlp_t they are [T, B, D], so that both of its MLPs are one product without a transpose.
    """
    h = target.row_major(h + injection)
    for i in range(len(layers)):
        layer = layers[str(i)]
        if cfg.mlp_t:  # the norm after the token MLP is over the sequence axis
            with jax.named_scope("mlp_t"):
                h = mix_tokens(layer["mlp_t"], h, cfg.rms_eps, cfg.mlp_t_impl, products)
        else:
            with jax.named_scope("attention"):
                h = rms_norm(h + _attention_block(layer["attn"], cfg, h, products), -1, cfg.rms_eps)
        with jax.named_scope("mlp"):
            h = target.row_major(rms_norm(h + mlp(layer["mlp"], h, products=products), -1, cfg.rms_eps))
    return h


def cycle(call: Callable, layers: dict, cfg: TRMConfig, emb: jax.Array, z: tuple, unroll: bool) -> tuple:
    """L_cycles updates of z_L and one of z_H."""
    z_H, z_L = z
    injection = z_H + emb
    once = cfg.L_cycles if unroll else 1

    def think(z, _):
        return call(layers, z, injection), None

    z_L, _ = lax.scan(think, z_L, length=cfg.L_cycles, unroll=once)
    return call(layers, z_H, z_L), z_L


def recurse(
    layers: dict, cfg: TRMConfig, emb: jax.Array, *z, cycle: Callable = cycle, mlp: Callable = swiglu, numbered=False
) -> tuple:
    """One supervision step's recursion on latents [B, T, D]: H_cycles - 1 cycles without gradient, one with.

    The gradient reaches the layers and `emb` through every call of the last cycle and nothing before it (paper,
    section 4). cycle(call, layers, cfg, emb, z, unroll) is one cycle, in which call(layers, h, injection) is `net`;
    numbered: it takes the number of the cycle as well.
    """

    # A CPU fills and copies the stacked residuals of a differentiated loop with one thread; on a GPU any loop costs
    # copies and launches.
    unroll = cfg.unroll == "unroll" or (cfg.unroll == "auto" and target.platform() in ("cpu", "gpu"))

    def call(layers, h, injection, products="exact"):
        return net(layers, cfg, h, injection, products, mlp)

    if cfg.remat == "block":  # outside a loop XLA would merge what is computed again with what was computed before
        call = jax.checkpoint(call, prevent_cse=unroll, static_argnums=3)

    def one(layers, emb, z, number, unroll: bool, products: str):
        def apply(layers, h, injection):
            return call(layers, h, injection, products)

        return cycle(apply, layers, cfg, emb, z, unroll, *((number,) if numbered else ()))

    z = lax.stop_gradient(z)
    if cfg.mlp_t:
        emb, *z = (x.swapaxes(0, 1) for x in (emb, *z))
    if cfg.H_cycles > 1:
        # Cast once and not at every use; where they are differentiated the cast stays there, as gradients are float32.
        once = jax.tree.map(lambda w: w.astype(cfg.compute_dtype), layers)
        frozen = lax.stop_gradient((cut(once) if target.platform() == "cpu" else once, emb))
        unroll_frozen = unroll and target.platform() == "gpu"

        def answer(z, number):
            return one(*frozen, z, number, unroll_frozen, cfg.frozen_products), None

        numbers = jnp.arange(cfg.H_cycles - 1) if numbered else None
        z, _ = lax.scan(answer, tuple(z), numbers, length=cfg.H_cycles - 1)
    z = one(layers, emb, tuple(z), cfg.H_cycles - 1, unroll, "exact")
    return tuple(x.swapaxes(0, 1) for x in z) if cfg.mlp_t else z


class TRM(supervision.Supervision):
    """This module's functions, and what the families like it share."""

    Config, Carry = TRMConfig, Carry
    LATENTS = {"z_H": "H_init", "z_L": "L_init"}
    STACKS = {"layers": ("L_level.layers", "L_layers")}
    LOCAL = {
        "hidden_size": 64,
        "num_heads": 4,
        "puzzle_emb_ndim": 64,
        "L_cycles": 2,
        "H_cycles": 2,
        "halt_max_steps": 4,
    }

    def nets(self, cfg: TRMConfig) -> dict:
        return {"layers": stack(cfg, cfg.L_layers)}

    def recurse(self, weights: dict, cfg: TRMConfig, emb, latents: tuple, keys=None) -> tuple:
        return recurse(weights["layers"], cfg, emb, *latents)


_family = TRM()
Config, LATENTS, STACKS, LOCAL = TRM.Config, TRM.LATENTS, TRM.STACKS, TRM.LOCAL
specs, init, carry_specs, initial_carry = _family.specs, _family.init, _family.carry_specs, _family.initial_carry
forward, noise, step, loss = _family.forward, _family.noise, _family.step, _family.loss
think, evaluate, finish = _family.think, _family.evaluate, _family.finish
flops, activation_bytes = _family.flops, _family.activation_bytes


def refill(buffers: dict, carry: Carry, batch: dict) -> Carry:
    """Where a row has halted: initial latents, no steps done, and the batch's row; elsewhere unchanged."""
    return supervision.refill(carry, batch, {latent: buffers[start] for latent, start in LATENTS.items()})


def advance(cfg: TRMConfig, carry: Carry, z_H, z_L, q_halt, min_steps: jax.Array | int, *, train: bool) -> Carry:
    """Close a supervision step, as `trm_jax.models.supervision.advance` says."""
    return supervision.advance(cfg, carry, {"z_H": z_H, "z_L": z_L}, q_halt, min_steps, train=train)
