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

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import chex
import einops
import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from trm_jax.losses import IGNORE, act_loss
from trm_jax.models import params as P
from trm_jax.models import target, token_mlp
from trm_jax.models.attention import IMPLEMENTATIONS, attention
from trm_jax.models.family import Rows
from trm_jax.models.layers import (
    PRODUCTS,
    apply_rope,
    embed_tokens,
    inverse_sqrt,
    linear,
    rms_norm,
    rope_tables,
    swiglu,
    swiglu_width,
)
from trm_jax.models.token_mlp import mix_tokens
from trm_jax.models.trm_cost import activation_bytes as activation_bytes
from trm_jax.models.trm_cost import flops as flops
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
    dtype: str = option("bfloat16", "float32", "bfloat16", "float16")  # of activations; weights are float32
    frozen_products: str = option("exact", *PRODUCTS)  # of the cycles without gradient
    attention_impl: str = option("auto", "auto", *IMPLEMENTATIONS)
    mlp_t_impl: str = option("auto", "auto", *token_mlp.IMPLEMENTATIONS)
    # block: the backward pass computes a network call again; auto: training decides by the memory there is, else none.
    remat: str = option("auto", "auto", "none", "block")
    unroll: str = option("auto", "auto", "scan", "unroll")  # the differentiated cycle; auto: on CPUs and GPUs

    def __post_init__(self):
        check(self)
        if not self.mlp_t and self.hidden_size % self.num_heads:
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


def _swiglu_specs(width: int, expansion: float, axis: str) -> dict:
    inner = swiglu_width(width, expansion)
    return {
        "gate_up": P.ParamSpec((width, 2, inner), (axis, None, "mlp"), P.truncated_normal(inverse_sqrt(width))),
        "down": P.ParamSpec((inner, width), ("mlp", axis), P.truncated_normal(inverse_sqrt(inner))),
    }


def specs(cfg: TRMConfig) -> dict:
    """The declaration of every array of the model: {"weights", "buffers", "puzzle_emb" unless its width is 0}."""
    D, V = cfg.hidden_size, cfg.vocab_size
    by_width = P.truncated_normal(inverse_sqrt(D))

    def layer():
        specs = {"mlp": _swiglu_specs(D, cfg.expansion, "embed")}
        if cfg.mlp_t:
            specs["mlp_t"] = _swiglu_specs(cfg.total_len, cfg.expansion, "tokens")
        else:
            specs["attn"] = {
                "qkv": P.ParamSpec((D, 3, D), ("embed", None, "heads"), by_width),
                "out": P.ParamSpec((D, D), ("heads", "embed"), by_width),
            }
        return specs

    weights = {
        "embed_tokens": P.ParamSpec((V, D), ("vocab", "embed"), by_width, "embedding"),
        "layers": {str(i): layer() for i in range(cfg.L_layers)},
        "lm_head": P.ParamSpec((D, V), ("embed", "vocab"), by_width, "head"),
        # q starts at "do not halt": zero weights, bias -5.
        "q_head": {
            "kernel": P.ParamSpec((D, 2), ("embed", None), P.constant(0.0), "head"),
            "bias": P.ParamSpec((2,), (None,), P.constant(-5.0), "vector"),
        },
    }
    if cfg.pos_encodings == "learned":
        weights["embed_pos"] = P.ParamSpec((cfg.total_len, D), ("tokens", "embed"), by_width, "embedding")
    latent = P.ParamSpec((D,), (None,), P.truncated_normal(1.0), "frozen", cfg.compute_dtype)
    table = (P.table_rows(cfg.num_puzzle_ids), cfg.puzzle_emb_ndim)
    specs = {"weights": weights, "buffers": {"H_init": latent, "L_init": latent}}
    if cfg.puzzle_emb_ndim:
        specs["puzzle_emb"] = P.ParamSpec(table, ("puzzles", None), P.constant(0.0), "rows")
    return specs


def init(key: jax.Array, cfg: TRMConfig) -> dict:
    """Random initial parameters, as `specs` declares them."""
    return P.init(specs(cfg), key)


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


def carry_specs(cfg: TRMConfig, batch_size: int) -> Carry:
    """The declaration of the carry; at first every row is halted, so that the first step takes the whole batch."""

    def array(*shape, dtype=jnp.int32, first=0):
        axes = ("batch", *[None] * len(shape))
        return P.ParamSpec((batch_size, *shape), axes, P.constant(first), "frozen", dtype)

    latent = array(cfg.total_len, cfg.hidden_size, dtype=cfg.compute_dtype)
    tokens = array(cfg.seq_len)
    return Carry(latent, latent, array(), array(dtype=bool, first=True), tokens, tokens, array())


def initial_carry(cfg: TRMConfig, batch_size: int) -> Carry:
    """A carry in which every row is halted."""
    return P.init(carry_specs(cfg, batch_size), jax.random.key(0))


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


def embed(weights: dict, puzzle_rows: jax.Array | None, cfg: TRMConfig, inputs: jax.Array) -> jax.Array:
    """Input embedding [B, T, D] of tokens [B, S] behind the puzzle's prefix; puzzle_rows [B, ndim]."""
    D, dtype = cfg.hidden_size, cfg.compute_dtype
    # Looked up before it is cast, so that the gradients of the rows of one token are summed in float32.
    x = embed_tokens(weights["embed_tokens"], inputs).astype(dtype)
    if cfg.puzzle_emb_len:
        room = cfg.puzzle_emb_len * D - cfg.puzzle_emb_ndim
        prefix = jnp.pad(puzzle_rows.astype(dtype), ((0, 0), (0, room)))
        x = jnp.concatenate([prefix.reshape(-1, cfg.puzzle_emb_len, D), x], axis=1)
    if cfg.pos_encodings == "learned":
        x = math.sqrt(0.5) * (x + weights["embed_pos"].astype(dtype))
    return math.sqrt(D) * x


def _attention_block(layer: dict, cfg: TRMConfig, h: jax.Array, products: str) -> jax.Array:
    qkv = linear(h, layer["qkv"], products)
    q, k, v = einops.rearrange(qkv, "b t three (h k) -> three b t h k", h=cfg.num_heads)
    if cfg.pos_encodings == "rope":
        cos, sin = rope_tables(cfg.total_len, cfg.head_dim, cfg.rope_theta)
        q, k = apply_rope(q, cos, sin), apply_rope(k, cos, sin)
    heads = attention(q, k, v, impl=cfg.attention_impl)
    return linear(einops.rearrange(heads, "b t h k -> b t (h k)"), layer["out"], products)


def net(layers: dict, cfg: TRMConfig, h: jax.Array, injection: jax.Array, products: str = "exact") -> jax.Array:
    """One reasoning call: `h + injection` through the post-norm blocks; products: of `layers.PRODUCTS`.

    Latents are [B, T, D]; with mlp_t they are [T, B, D], so that both of its MLPs are one product without a transpose.
    """
    h = target.row_major(h + injection)
    for i in range(cfg.L_layers):
        layer = layers[str(i)]
        if cfg.mlp_t:  # the norm after the token MLP is over the sequence axis
            with jax.named_scope("mlp_t"):
                h = mix_tokens(layer["mlp_t"], h, cfg.rms_eps, cfg.mlp_t_impl, products)
        else:
            with jax.named_scope("attention"):
                h = rms_norm(h + _attention_block(layer["attn"], cfg, h, products), -1, cfg.rms_eps)
        with jax.named_scope("mlp"):
            h = target.row_major(rms_norm(h + swiglu(layer["mlp"], h, products=products), -1, cfg.rms_eps))
    return h


def recurse(layers: dict, cfg: TRMConfig, emb: jax.Array, z_H: jax.Array, z_L: jax.Array):
    """One supervision step's recursion on latents [B, T, D]: H_cycles - 1 cycles without gradient, one with.

    A cycle is L_cycles updates of z_L and one of z_H. The gradient reaches the layers and `emb` through every
    call of the last cycle and nothing before it (paper, section 4).
    """

    # A CPU fills and copies the stacked residuals of a differentiated loop with one thread; on a GPU any loop costs
    # copies and launches.
    unroll = cfg.unroll == "unroll" or (cfg.unroll == "auto" and target.platform() in ("cpu", "gpu"))

    def call(layers, h, injection, products="exact"):
        return net(layers, cfg, h, injection, products)

    if cfg.remat == "block":  # outside a loop XLA would merge what is computed again with what was computed before
        call = jax.checkpoint(call, prevent_cse=unroll, static_argnums=3)

    def cycle(layers, emb, z_H, z_L, unroll: bool, products: str):
        injection = z_H + emb
        once = cfg.L_cycles if unroll else 1

        def think(z, _):
            return call(layers, z, injection, products), None

        z_L, _ = lax.scan(think, z_L, length=cfg.L_cycles, unroll=once)
        return call(layers, z_H, z_L, products), z_L

    z = lax.stop_gradient((z_H, z_L))
    if cfg.mlp_t:
        emb, *z = (x.swapaxes(0, 1) for x in (emb, *z))
    if cfg.H_cycles > 1:
        # Cast once and not at every use; where they are differentiated the cast stays there, as gradients are float32.
        frozen = lax.stop_gradient((jax.tree.map(lambda w: w.astype(cfg.compute_dtype), layers), emb))
        unroll_frozen = unroll and target.platform() == "gpu"

        def answer(z, _):
            return cycle(*frozen, *z, unroll_frozen, cfg.frozen_products), None

        z, _ = lax.scan(answer, tuple(z), length=cfg.H_cycles - 1)
    z = cycle(layers, emb, *z, unroll, "exact")
    return tuple(x.swapaxes(0, 1) for x in z) if cfg.mlp_t else z


def forward(weights: dict, puzzle_rows: jax.Array | None, cfg: TRMConfig, inputs, z_H, z_L):
    """One supervision step on given latents: -> (z_H, z_L, Output). puzzle_rows [B, ndim], inputs [B, S]."""
    with jax.named_scope("embed"):
        emb = embed(weights, puzzle_rows, cfg, inputs)
    z_H, z_L = recurse(weights["layers"], cfg, emb, z_H, z_L)
    with jax.named_scope("head"):
        logits = linear(z_H[:, cfg.puzzle_emb_len :], weights["lm_head"])
        q = linear(z_H[:, 0].astype(jnp.float32), weights["q_head"]["kernel"]) + weights["q_head"]["bias"]
    return z_H, z_L, Output(logits, q[:, 0], q[:, 1])


def noise(cfg: TRMConfig, key: jax.Array, batch_size: int, exploration: float | jax.Array | None = None) -> jax.Array:
    """The random part of a training step: the least number of supervision steps of each row, [B] int32.

    With probability `exploration` (default: the config's) it is drawn from [2, halt_max_steps], else it is 0. A row's
    draw does not depend on the other rows, so a batch can be computed in parts.
    """
    exploration = cfg.halt_exploration_prob if exploration is None else exploration
    explore_key, length_key = jax.random.split(key)
    explore = jax.random.uniform(explore_key, (batch_size,)) < exploration
    at_least = jax.random.randint(length_key, (batch_size,), 2, max(cfg.halt_max_steps, 2) + 1)
    return jnp.where(explore, at_least, 0)


def advance(cfg: TRMConfig, carry: Carry, z_H, z_L, q_halt, min_steps: jax.Array | int, *, train: bool) -> Carry:
    """Close a supervision step: latents detached, counters on, and which rows are finished.

    In evaluation a row always runs `halt_max_steps` steps. In training it also ends where q_halt > 0, but not before
    `min_steps` [B].
    """
    steps = carry.steps + 1
    halted = steps >= cfg.halt_max_steps
    if train and cfg.halt_max_steps > 1:
        halted = (halted | (q_halt > 0)) & (steps >= min_steps)
    z_H, z_L = lax.stop_gradient((z_H, z_L))
    return carry.replace(z_H=z_H, z_L=z_L, steps=steps, halted=halted)


def step(
    params: dict, cfg: TRMConfig, carry: Carry, batch: dict, min_steps: jax.Array | int = 0, *, train: bool = False
) -> tuple[Carry, Output]:
    """One supervision step: refill halted rows from `batch`, think, say, decide who has finished.

    batch: {"inputs" [B, S] int32, "labels" [B, S] int32, "puzzle_ids" [B] int32}. A loss takes its labels from
    the carry that comes back, not from `batch`: rows that had not halted kept their own. min_steps: of `noise`, in
    training with exploration.
    """
    chex.assert_shape([batch["inputs"], batch["labels"]], (carry.steps.shape[0], cfg.seq_len))
    with jax.named_scope("refill"):
        carry = refill(params["buffers"], carry, batch)
    rows = P.look_up(params["puzzle_emb"], carry.puzzle_ids) if cfg.puzzle_emb_ndim else None
    z_H, z_L, out = forward(params["weights"], rows, cfg, carry.inputs, carry.z_H, carry.z_L)
    return advance(cfg, carry, z_H, z_L, out.q_halt, min_steps, train=train), out


def loss(params: dict, cfg: TRMConfig, carry: Carry, batch: dict, min_steps: jax.Array, token_loss: str):
    """(loss, carry, sums, rows) of one supervision step, as `trm_jax.models.family.Family` says.

    The loss is summed over the sequences; the sums are over the sequences that ended with this step.
    """
    carry, out = step(params, cfg, carry, batch, min_steps, train=True)
    total, parts = act_loss(out.logits, out.q_halt, carry.labels, token_loss)
    answers = jnp.argmax(out.logits, -1)
    sums = {
        **parts,
        **_halting_sums(answers, out.q_halt, carry.steps, carry.labels, carry.halted),
        "halt_steps": _histogram(carry.steps, carry.halted, cfg.halt_max_steps),
    }
    working_on = {"inputs": carry.inputs, "labels": carry.labels, "puzzle_ids": carry.puzzle_ids}
    return total, carry, sums, Rows(answers, working_on, carry.halted, {"puzzle_emb": carry.puzzle_ids})


def think(params: dict, cfg: TRMConfig, batch: dict, num_steps: int = 0) -> tuple[jax.Array, jax.Array]:
    """Answers [num_steps, B, S] int32 and q_halt [num_steps, B] after each supervision step from a fresh start.

    No row stops early: the reference evaluates every sequence at exactly halt_max_steps steps, which 0 stands for.
    """
    num_steps = num_steps or cfg.halt_max_steps
    cfg = dataclasses.replace(cfg, halt_max_steps=num_steps)

    def one(carry, _):
        carry, out = step(params, cfg, carry, batch)
        return carry, (jnp.argmax(out.logits, -1).astype(jnp.int32), out.q_halt)

    _, thoughts = lax.scan(one, initial_carry(cfg, batch["inputs"].shape[0]), length=num_steps)
    return thoughts


def evaluate(
    params: dict, cfg: TRMConfig, batch: dict, counted: jax.Array, score: Callable, num_steps: int = 0
) -> dict:
    """Sums of scores at `num_steps` steps over the rows where `counted` [B] holds; score: of `Task.score`.

    Besides the reference's scores: those of rows that stop at their first q_halt > 0 (our extension), as "early_exit_",
    and how many rows would stop at each step, "halt_steps" [num_steps] (the last one counts those that never would).
    """
    answers, q_halt = think(params, cfg, batch, num_steps)
    num_steps = answers.shape[0]
    first = jnp.argmax((q_halt > 0).at[-1].set(True), axis=0)
    scores = score(answers[-1], batch, counted)
    early = score(answers[first, jnp.arange(first.size)], batch, counted)
    steps = jnp.full(counted.shape, num_steps)
    return {
        "rows": {"answers": answers[-1], "q_halt": q_halt[-1]},
        **scores,
        **{f"early_exit_{name}": value for name, value in early.items() if name != "count"},
        **_halting_sums(answers[-1], q_halt[-1], steps, batch["labels"], counted),
        "early_exit_steps": jnp.sum(jnp.where(counted, first + 1, 0), dtype=jnp.float32),
        "halt_steps": _histogram(first + 1, counted, num_steps),
    }


def _halting_sums(answers, q_halt, steps, labels, counted) -> dict:
    """ "q_halt_accuracy": where q_halt >= 0 agrees with "every valid token is right"; "steps": supervision steps."""
    valid = labels != IGNORE
    exact = ((answers == labels) | ~valid).all(-1)
    counted = counted & valid.any(-1)
    sums = {"q_halt_accuracy": (q_halt >= 0) == exact, "steps": steps}
    return {name: jnp.sum(jnp.where(counted, x, 0).astype(jnp.float32)) for name, x in sums.items()}


def _histogram(steps, counted, halt_max: int) -> jax.Array:
    """How many of the sequences where `counted` [B] holds ended at step 1, 2, ... halt_max: float32 [halt_max]."""
    ends = (steps[:, None] == jnp.arange(1, halt_max + 1)) & counted[:, None]
    return ends.sum(0, dtype=jnp.float32)


def finish(sums: Mapping, count: float, sequences: float = 0) -> dict:
    """Fetched sums as the figures of a record: losses per sequence trained, scores per sequence counted."""
    record = {name: float(sums[name] / sequences) for name in ("lm_loss", "q_loss") if sequences}
    means = [name for name in ("q_halt_accuracy", "steps", "early_exit_steps") if name in sums]
    if count:
        record |= {name: float(sums[name] / count) for name in means}
        record["halt_steps"] = [int(ended) for ended in sums["halt_steps"]]
    return record


Config = TRMConfig
LOCAL = {"hidden_size": 64, "num_heads": 4, "puzzle_emb_ndim": 64, "L_cycles": 2, "H_cycles": 2, "halt_max_steps": 4}
