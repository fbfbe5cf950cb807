"""Tiny Recursive Model (arXiv 2510.04871): one small network applied again and again to two latents.

B = batch, S = puzzle tokens, P = prefix tokens of the puzzle embedding, T = P + S, D = hidden size, V = vocabulary.

    params = trm.init(jax.random.key(0), cfg)
    carry = trm.initial_carry(cfg, batch_size)
    carry, out = trm.step(params, cfg, carry, batch, key, train=True)   # one supervision step

`params` is a dict of three trees: "weights" (trained, averaged), "buffers" (the fixed initial latents) and
"puzzle_emb" (the puzzle table [ids, ndim], which has an optimiser of its own).
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from functools import partial

import chex
import einops
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from trm_jax.models import params as P
from trm_jax.models import target
from trm_jax.models.attention import IMPLEMENTATIONS, attention
from trm_jax.models.layers import (
    REMAT_POLICIES,
    apply_rope,
    inverse_sqrt,
    linear,
    remat,
    rms_norm,
    rope_tables,
    swiglu,
    swiglu_width,
)

IGNORE = -100  # label of a token that is neither trained nor scored
DTYPES = ("float32", "bfloat16", "float16")
POSITIONS = ("rope", "learned", "none")


@dataclass(frozen=True)
class TRMConfig:
    """Shape and recursion of a TRM. The first three come from the data set.

    Raises ValueError for a combination that cannot be built.
    """

    vocab_size: int
    seq_len: int
    num_puzzle_ids: int = 1
    hidden_size: int = 512
    num_heads: int = 8
    L_layers: int = 2
    H_cycles: int = 3
    L_cycles: int = 6
    expansion: float = 4.0
    mlp_t: bool = False  # mix tokens by an MLP over the sequence axis instead of attention
    pos_encodings: str = "rope"
    rope_theta: float = 10000.0
    rms_eps: float = 1e-5
    puzzle_emb_ndim: int = 512
    puzzle_emb_len: int = 16
    halt_max_steps: int = 16
    halt_exploration_prob: float = 0.1
    dtype: str = "bfloat16"
    attention_impl: str = "dense"
    remat: str = "none"

    def __post_init__(self):
        for name, options in (
            ("dtype", DTYPES),
            ("pos_encodings", POSITIONS),
            ("attention_impl", IMPLEMENTATIONS),
            ("remat", REMAT_POLICIES),
        ):
            if getattr(self, name) not in options:
                raise ValueError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(options)}")
        positive = "vocab_size seq_len num_puzzle_ids hidden_size num_heads L_layers H_cycles L_cycles halt_max_steps"
        for name in positive.split():
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("expansion", "rope_theta", "rms_eps"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be positive")
        if not 0.0 <= self.halt_exploration_prob <= 1.0:
            raise ValueError(f"halt_exploration_prob is {self.halt_exploration_prob}; it must be in [0, 1]")
        if not self.mlp_t and self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        if not self.mlp_t and self.pos_encodings == "rope" and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head size; hidden_size / num_heads is {self.head_dim}")
        if self.puzzle_emb_ndim < 0 or self.puzzle_emb_len < 0:
            raise ValueError("puzzle_emb_ndim and puzzle_emb_len must not be negative")
        if self.puzzle_emb_ndim > self.puzzle_emb_len * self.hidden_size:
            raise ValueError(
                f"puzzle_emb_ndim {self.puzzle_emb_ndim} does not fit into puzzle_emb_len {self.puzzle_emb_len} "
                f"tokens of {self.hidden_size}"
            )
        if self.puzzle_emb_len and not self.puzzle_emb_ndim:
            raise ValueError("puzzle_emb_len is not 0 but puzzle_emb_ndim is; set both to 0 for no puzzle embedding")

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


def with_cycles(cfg: TRMConfig, L_cycles: int, H_cycles: int) -> TRMConfig:
    """The same model with another recursion: it has the same parameters and the same latents."""
    return dataclasses.replace(cfg, L_cycles=L_cycles, H_cycles=H_cycles)


def _swiglu_specs(width: int, expansion: float, axis: str) -> dict:
    inner = swiglu_width(width, expansion)
    return {
        "gate_up": P.ParamSpec((width, 2 * inner), (axis, "mlp"), P.truncated_normal(inverse_sqrt(width))),
        "down": P.ParamSpec((inner, width), ("mlp", axis), P.truncated_normal(inverse_sqrt(inner))),
    }


def param_specs(cfg: TRMConfig) -> dict:
    """The declaration of every array of the model: {"weights", "buffers", "puzzle_emb"}."""
    D, V = cfg.hidden_size, cfg.vocab_size
    by_width = P.truncated_normal(inverse_sqrt(D))

    def layer():
        specs = {"mlp": _swiglu_specs(D, cfg.expansion, "embed")}
        if cfg.mlp_t:
            specs["mlp_t"] = _swiglu_specs(cfg.total_len, cfg.expansion, "tokens")
        else:
            specs["attn"] = {
                "qkv": P.ParamSpec((D, 3 * D), ("embed", "heads"), by_width),
                "out": P.ParamSpec((D, D), ("heads", "embed"), by_width),
            }
        return specs

    weights = {
        "embed_tokens": P.ParamSpec((V, D), ("vocab", "embed"), by_width),
        "layers": {str(i): layer() for i in range(cfg.L_layers)},
        "lm_head": P.ParamSpec((D, V), ("embed", "vocab"), by_width),
        # q starts at "do not halt": zero weights, bias -5.
        "q_head": {
            "kernel": P.ParamSpec((D, 2), ("embed", None), P.constant(0.0)),
            "bias": P.ParamSpec((2,), (None,), P.constant(-5.0)),
        },
    }
    if cfg.pos_encodings == "learned":
        weights["embed_pos"] = P.ParamSpec((cfg.total_len, D), ("tokens", "embed"), by_width)
    latent = P.ParamSpec((D,), ("embed",), P.truncated_normal(1.0), cfg.compute_dtype)
    table = P.ParamSpec((cfg.num_puzzle_ids, cfg.puzzle_emb_ndim), ("puzzles", None), P.constant(0.0))
    return {"weights": weights, "buffers": {"H_init": latent, "L_init": latent}, "puzzle_emb": table}


def init(key: jax.Array, cfg: TRMConfig) -> dict:
    """Random initial parameters {"weights", "buffers", "puzzle_emb"}."""
    return P.init(param_specs(cfg), key)


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


@struct.dataclass
class Output:
    """What one supervision step says."""

    logits: jax.Array  # [B, S, V] in the compute dtype
    q_halt: jax.Array  # [B] float32
    q_continue: jax.Array  # [B] float32 (kept for the official weights; unused by the loss)


def initial_carry(cfg: TRMConfig, batch_size: int) -> Carry:
    """A carry in which every row is halted, so that the first step takes the whole batch."""
    # Two arrays, not one used twice: a donated carry must not hold the same buffer under two names.
    z_H, z_L = (jnp.zeros((batch_size, cfg.total_len, cfg.hidden_size), cfg.compute_dtype) for _ in range(2))
    tokens = partial(jnp.zeros, (batch_size, cfg.seq_len), jnp.int32)
    row = partial(jnp.zeros, (batch_size,), jnp.int32)
    return Carry(z_H, z_L, row(), jnp.ones((batch_size,), bool), tokens(), tokens(), row())


def carry_axes() -> Carry:
    """Logical axes of the carry's arrays."""
    latent, tokens, row = ("batch", None, None), ("batch", None), ("batch",)
    return Carry(latent, latent, row, row, tokens, tokens, row)


def refill(buffers: dict, carry: Carry, batch: dict) -> Carry:
    """Where a row has halted: initial latents, no steps done, and the batch's row; elsewhere unchanged."""

    def where_halted(new, old):
        return jnp.where(carry.halted.reshape((-1,) + (1,) * (old.ndim - 1)), new, old)

    return Carry(
        z_H=where_halted(buffers["H_init"].astype(carry.z_H.dtype), carry.z_H),
        z_L=where_halted(buffers["L_init"].astype(carry.z_L.dtype), carry.z_L),
        steps=where_halted(0, carry.steps),
        halted=carry.halted,
        inputs=where_halted(batch["inputs"], carry.inputs),
        labels=where_halted(batch["labels"], carry.labels),
        puzzle_ids=where_halted(batch["puzzle_ids"], carry.puzzle_ids),
    )


def embed(weights: dict, puzzle_rows: jax.Array, cfg: TRMConfig, inputs: jax.Array) -> jax.Array:
    """Input embedding [B, T, D] of tokens [B, S] behind the puzzle's prefix; puzzle_rows [B, ndim]."""
    D, dtype = cfg.hidden_size, cfg.compute_dtype
    # Looked up before it is cast, so that the gradients of the rows of one token are summed in float32.
    x = jnp.take(weights["embed_tokens"], inputs, axis=0).astype(dtype)
    if cfg.puzzle_emb_len:
        room = cfg.puzzle_emb_len * D - cfg.puzzle_emb_ndim
        prefix = jnp.pad(puzzle_rows.astype(dtype), ((0, 0), (0, room)))
        x = jnp.concatenate([prefix.reshape(-1, cfg.puzzle_emb_len, D), x], axis=1)
    if cfg.pos_encodings == "learned":
        x = math.sqrt(0.5) * (x + weights["embed_pos"].astype(dtype))
    return math.sqrt(D) * x


def _attention_block(layer: dict, cfg: TRMConfig, h: jax.Array) -> jax.Array:
    q, k, v = einops.rearrange(linear(h, layer["qkv"]), "b t (three h k) -> three b t h k", three=3, h=cfg.num_heads)
    if cfg.pos_encodings == "rope":
        cos, sin = rope_tables(cfg.total_len, cfg.head_dim, cfg.rope_theta)
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
    heads = attention(q, k, v, impl=cfg.attention_impl)
    return linear(einops.rearrange(heads, "b t h k -> b t (h k)"), layer["out"])


def net(layers: dict, cfg: TRMConfig, h: jax.Array, injection: jax.Array) -> jax.Array:
    """One reasoning call: `h + injection` through the post-norm blocks.

    Latents are [B, T, D]; with mlp_t they are [T, B, D], so that both of its MLPs are one product without a transpose.
    """
    h = h + injection
    for i in range(cfg.L_layers):
        layer = layers[str(i)]
        if cfg.mlp_t:  # the norm after the token MLP is over the sequence axis
            h = rms_norm(h + swiglu(layer["mlp_t"], h, axis=0), 0, cfg.rms_eps)
        else:
            h = rms_norm(h + _attention_block(layer["attn"], cfg, h), -1, cfg.rms_eps)
        h = rms_norm(h + swiglu(layer["mlp"], h), -1, cfg.rms_eps)
    return h


def recurse(layers: dict, cfg: TRMConfig, emb: jax.Array, z_H: jax.Array, z_L: jax.Array):
    """One supervision step's recursion on latents [B, T, D]: H_cycles - 1 cycles without gradient, one with.

    A cycle is L_cycles updates of z_L and one of z_H. The gradient reaches the layers and `emb` through every
    call of the last cycle and nothing before it (paper, section 4).
    """
    call = remat(lambda layers, h, injection: net(layers, cfg, h, injection), cfg.remat)

    def cycle(layers, emb, z_H, z_L, unroll=1):
        injection = z_H + emb
        z_L, _ = lax.scan(lambda z, _: (call(layers, z, injection), None), z_L, length=cfg.L_cycles, unroll=unroll)
        return call(layers, z_H, z_L), z_L

    z = lax.stop_gradient((z_H, z_L))
    if cfg.mlp_t:
        emb, *z = (x.swapaxes(0, 1) for x in (emb, *z))
    if cfg.H_cycles > 1:
        frozen = lax.stop_gradient((layers, emb))
        z, _ = lax.scan(lambda z, _: (cycle(*frozen, *z), None), tuple(z), length=cfg.H_cycles - 1)
    # XLA:CPU fills and copies the stacked residuals of a differentiated loop with one thread.
    z = cycle(layers, emb, *z, unroll=cfg.L_cycles if target.platform() == "cpu" else 1)
    return tuple(x.swapaxes(0, 1) for x in z) if cfg.mlp_t else z


def forward(weights: dict, puzzle_rows: jax.Array, cfg: TRMConfig, inputs, z_H, z_L):
    """One supervision step on given latents: -> (z_H, z_L, Output). puzzle_rows [B, ndim], inputs [B, S]."""
    emb = embed(weights, puzzle_rows, cfg, inputs)
    z_H, z_L = recurse(weights["layers"], cfg, emb, z_H, z_L)
    logits = linear(z_H, weights["lm_head"])[:, cfg.puzzle_emb_len :]
    q = linear(z_H[:, 0].astype(jnp.float32), weights["q_head"]["kernel"]) + weights["q_head"]["bias"]
    return z_H, z_L, Output(logits, q[:, 0], q[:, 1])


def advance(
    cfg: TRMConfig, carry: Carry, z_H, z_L, q_halt, key: jax.Array | None, *, train: bool, exploration=None
) -> Carry:
    """Close a supervision step: latents detached, counters on, and which rows are finished.

    In evaluation a row always runs `halt_max_steps` steps. In training it also ends where q_halt > 0, but with
    probability `exploration` (default: the config's) not before a random number of steps in [2, halt_max_steps].
    """
    if exploration is None:
        exploration = cfg.halt_exploration_prob
    steps = carry.steps + 1
    halted = steps >= cfg.halt_max_steps
    if train and cfg.halt_max_steps > 1:
        halted |= q_halt > 0
        if not isinstance(exploration, float | int) or exploration > 0:
            explore_key, length_key = jax.random.split(key)
            explore = jax.random.uniform(explore_key, steps.shape) < exploration
            at_least = jax.random.randint(length_key, steps.shape, 2, cfg.halt_max_steps + 1)
            halted &= steps >= jnp.where(explore, at_least, 0)
    z_H, z_L = lax.stop_gradient((z_H, z_L))
    return carry.replace(z_H=z_H, z_L=z_L, steps=steps, halted=halted)


def step(
    params: dict, cfg: TRMConfig, carry: Carry, batch: dict, key: jax.Array | None = None, *, train: bool = False
) -> tuple[Carry, Output]:
    """One supervision step: refill halted rows from `batch`, think, say, decide who has finished.

    batch: {"inputs" [B, S] int32, "labels" [B, S] int32, "puzzle_ids" [B] int32}. A loss takes its labels from
    the carry that comes back, not from `batch`: rows that had not halted kept their own. `key` is needed in
    training with exploration.
    """
    chex.assert_shape([batch["inputs"], batch["labels"]], (carry.steps.shape[0], cfg.seq_len))
    carry = refill(params["buffers"], carry, batch)
    rows = jnp.take(params["puzzle_emb"], carry.puzzle_ids, axis=0)
    z_H, z_L, out = forward(params["weights"], rows, cfg, carry.inputs, carry.z_H, carry.z_L)
    return advance(cfg, carry, z_H, z_L, out.q_halt, key, train=train), out


def matmul_flops(cfg: TRMConfig) -> tuple[int, int]:
    """Analytic matmul FLOPs of one sequence in one supervision step: (forward, forward and backward).

    A product of [m, k] and [k, n] counts 2mkn; the backward pass of the last cycle counts twice its forward.
    Rematerialised work is not counted, so a utilisation from these figures is of useful work.
    """
    D, T, S = cfg.hidden_size, cfg.total_len, cfg.seq_len
    block = 2 * T * 3 * D * swiglu_width(D, cfg.expansion)
    if cfg.mlp_t:
        block += 2 * D * 3 * T * swiglu_width(T, cfg.expansion)
    else:
        block += 2 * T * 4 * D * D + 2 * 2 * T * T * D
    cycle = cfg.L_layers * (cfg.L_cycles + 1) * block
    head = 2 * S * D * cfg.vocab_size + 2 * D * 2
    forward_only = cfg.H_cycles * cycle + head
    return forward_only, forward_only + 2 * (cycle + head)
