"""The ARC transformer: a decoder-only transformer that reads one pair of grids and writes its output.

A sequence is one pair: start, the input's rows, a separator, the output's rows, end. Rows of a batch hold several
sequences, told apart by segment ids. What a task is, its embedding says, which stands at every token of its pairs; so
does how the pair is turned. B = rows, S = tokens of a row, D = hidden size, V = vocabulary, L = layers.

This module is a `trm_jax.models.family.Family`. Weights are [out, in] and stacked over layers. Source: the author's
public description and code (docs/arc_transformer.md); names of weights are those of its checkpoints.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trm_jax.losses import IGNORE, token_cross_entropy
from trm_jax.models import params as P
from trm_jax.models.attention import IMPLEMENTATIONS, attention, fastest
from trm_jax.models.family import Rows
from trm_jax.models.layers import linear, rms_norm
from trm_jax.settings import check, number, option, positive

DIHEDRALS = 8
START, NEXT_LINE, SEPARATOR, END = 10, 11, 12, 13  # tokens behind the ten colours
MOST_COLUMN, MOST_ROW = 30, 29  # of a place, whatever is written
MEAN_LENGTH = 375  # tokens of a pair of the public sets, which is what a token's attention can see of a packed row


@dataclass(frozen=True)
class ArcTransformerConfig:
    """Shape of the transformer. The first three come from the data set.

    Raises ValueError for a combination that cannot be built.
    """

    vocab_size: int = number(low=1)
    seq_len: int = number(low=1)
    num_puzzle_ids: int = number(1, low=1)
    hidden_size: int = number(768, low=1)
    num_heads: int = number(12, low=1)
    layers: int = number(8, low=1)
    ff_size: int = number(3072, low=1)
    positions: str = option("rope3d", "rope3d", "pope3d", "rope1d", "learned", "none")
    rope_theta: float = positive(10000.0)
    task_row: bool = True  # an embedding of the task at every token
    dihedral_row: bool = True  # and one of how the pair is turned
    dropout: float = number(0.1, below=1)  # of embeddings, and inside and behind the feed-forward layers
    attention_dropout: float = number(0.1, below=1)  # of attention's weights; dense and flash can
    rms_eps: float = positive(1e-6)
    dtype: str = option("bfloat16", "float32", "bfloat16", "float16")  # of products; the residual stream is float32
    attention_impl: str = option("auto", "auto", *IMPLEMENTATIONS)
    remat: str = option("auto", "auto", "none", "block")  # block: the backward pass computes a layer again

    def __post_init__(self):
        check(self)
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}")
        if self.positions.startswith("rope") and self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head size; hidden_size / num_heads is {self.head_dim}")
        if self.positions in ("rope3d", "pope3d") and self.head_dim < 6:
            raise ValueError(f"3D positions need three pairs a head; hidden_size / num_heads is {self.head_dim}")

    @property
    def head_dim(self) -> int:
        return self.hidden_size // self.num_heads

    @property
    def compute_dtype(self):
        return jnp.dtype(self.dtype)


def _xavier(out: int, inner: int) -> P.Initializer:
    bound = math.sqrt(6 / (out + inner))
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def _normal(std: float) -> P.Initializer:
    return lambda key, shape, dtype: std * jax.random.normal(key, shape, dtype)


def specs(cfg: ArcTransformerConfig) -> dict:
    """The declaration of every array. Decay is ten times as strong for feed-forward weights and the head."""
    D, F, L, V = cfg.hidden_size, cfg.ff_size, cfg.layers, cfg.vocab_size

    def matrix(out: int, inner: int, axes: tuple, decay: float) -> P.ParamSpec:
        return P.ParamSpec((L, out, inner), (None, *axes), _xavier(out, inner), "matrix", decay=decay)

    def vector(*shape: int, value: float = 0.0) -> P.ParamSpec:
        return P.ParamSpec(shape, (None,) * len(shape), P.constant(value), "vector", decay=0.0)

    def table(rows: int, kind: str = "embedding") -> P.ParamSpec:
        return P.ParamSpec((rows, D), (None, "embed"), _normal(0.02), kind, decay=0.1)

    phase = {"phase": vector(L, D)} if cfg.positions == "pope3d" else {}
    weights = {
        "token_embedding": table(V),
        "layers": {
            **phase,
            "ln_1": vector(L, D, value=1.0),
            "qkv": matrix(3 * D, D, ("heads", "embed"), 0.1),
            "out": matrix(D, D, ("embed", "heads"), 0.1),
            "ln_2": vector(L, D, value=1.0),
            "fc_in": matrix(2 * F, D, ("mlp", "embed"), 1.0),
            "fc_in_bias": vector(L, 2 * F),
            "fc_out": matrix(D, F, ("embed", "mlp"), 1.0),
            "fc_out_bias": vector(L, D),
        },
        "norm": vector(D, value=1.0),
        "lm_head": P.ParamSpec((V, D), ("vocab", "embed"), _xavier(V, D), "head"),
    }
    if cfg.task_row:
        weights["task_embedding"] = table(cfg.num_puzzle_ids, "id_embedding")
    if cfg.dihedral_row:
        weights["dihedral_embedding"] = table(DIHEDRALS)
    if cfg.positions == "learned":
        weights["position_embedding"] = table(cfg.seq_len)
    return {"weights": weights}


def init(key: jax.Array, cfg: ArcTransformerConfig) -> dict:
    """Random initial parameters, as `specs` declares them."""
    return P.init(specs(cfg), key)


def carry_specs(cfg: ArcTransformerConfig, batch_size: int) -> tuple:
    """Nothing lives across steps."""
    return ()


def position_turns(cfg: ArcTransformerConfig, places: jax.Array) -> tuple[jax.Array, jax.Array] | None:
    """Cosines and sines [B, S, 1, n] float32 of the angles by which the parts of a head turn, its pairs (RoPE) or its
    entries (PoPE); places [B, S, 4]: column, row, part, number. None for positions that do not turn.

    A third of the parts turns with the column, a third with the row, the rest with the part of the sequence, each with
    frequencies from 1 downwards. In one dimension all turn with the place in the sequence.
    """
    if cfg.positions in ("learned", "none"):
        return None
    parts = cfg.head_dim if cfg.positions == "pope3d" else cfg.head_dim // 2
    third = parts // 3
    shares = {3: parts} if cfg.positions == "rope1d" else {0: third, 1: third, 2: parts - 2 * third}
    angles = [
        places[..., axis, None].astype(jnp.float32) * cfg.rope_theta ** -(np.arange(n, dtype=np.float32) / n)
        for axis, n in shares.items()
    ]
    angles = jnp.concatenate(angles, axis=-1)[:, :, None]
    return jnp.cos(angles), jnp.sin(angles)


def _rotate(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """RoPE: turn the pairs (2 i, 2 i + 1) of x [B, S, H, K] in float32."""
    even, odd = x[..., 0::2].astype(jnp.float32), x[..., 1::2].astype(jnp.float32)
    turned = jnp.stack([even * cos - odd * sin, even * sin + odd * cos], axis=-1)
    return turned.reshape(x.shape).astype(x.dtype)


def _polar(x: jax.Array, cos: jax.Array, sin: jax.Array) -> jax.Array:
    """PoPE (arXiv 2509.10534): an entry of x [B, S, H, K] gives the length, its softplus, of a pair of [B, S, H, 2 K],
    and its place the direction. So what is looked for and where are apart."""
    length = jax.nn.softplus(x.astype(jnp.float32))
    return jnp.concatenate([length * cos, length * sin], axis=-1).astype(x.dtype)


def _placed(cfg: ArcTransformerConfig, q, k, v, turns: tuple | None, layer: Mapping) -> tuple:
    """q, k, v [B, S, H, K] as attention takes them, with their places."""
    if turns is None:
        return q, k, v
    if cfg.positions != "pope3d":
        return _rotate(q, *turns), _rotate(k, *turns), v
    (cos, sin), phase = turns, layer["phase"].reshape(cfg.num_heads, cfg.head_dim)  # learned, of the keys
    c, s = jnp.cos(phase), jnp.sin(phase)
    # Attention divides by the root of a head's size, which is 2 K here; values are as long, with zeros.
    v = jnp.pad(v, ((0, 0), (0, 0), (0, 0), (0, cfg.head_dim)))
    return _polar(q, cos, sin) * 2**0.5, _polar(k, cos * c - sin * s, sin * c + cos * s), v


def _keys_at(keys: jax.Array | None, place: int) -> jax.Array | None:
    """The rows' keys [B, 2] for dropout at one of all places of the model."""
    if keys is None:
        return None
    return jax.vmap(lambda key: jax.random.key_data(jax.random.fold_in(jax.random.wrap_key_data(key), place)))(keys)


def _drop(x: jax.Array, keys: jax.Array | None, place: int, rate: float) -> jax.Array:
    """Dropout of x [B, ...], each row by its own key; place: of all places of the model."""
    if keys is None or not rate:
        return x

    def of_row(key):
        return jax.random.bernoulli(jax.random.wrap_key_data(key), 1 - rate, x.shape[1:])

    return jnp.where(jax.vmap(of_row)(_keys_at(keys, place)), x / (1 - rate), 0).astype(x.dtype)


def embed(weights: dict, cfg: ArcTransformerConfig, batch: Mapping) -> jax.Array:
    """[B, S, D] float32: the embeddings of token, task and orientation, added."""
    x = jnp.take(weights["token_embedding"], batch["inputs"], axis=0)
    if cfg.task_row:
        x += jnp.take(weights["task_embedding"], batch["puzzle_ids"], axis=0)
    if cfg.dihedral_row:
        x += jnp.take(weights["dihedral_embedding"], batch["dihedrals"], axis=0)
    if cfg.positions == "learned":
        x += jnp.take(weights["position_embedding"], batch["places"][..., 3], axis=0)
    return x


def _layers(weights: dict, cfg: ArcTransformerConfig, x, places, attend: Callable, cache=None, keys=None):
    """(x [B, S, D] behind the last layer, the cache, what `attend` left of each layer, stacked).

    attend(q, k, v, layer, cache) -> (heads [B, S, H, K], cache, what is left); layer: its number.
    """
    dtype = cfg.compute_dtype
    turns = position_turns(cfg, places)

    def block(carry, layer, number):
        (x, cache), place = carry, 1 + 3 * number  # of dropout
        with jax.named_scope("attention"):
            h = (rms_norm(x, -1, cfg.rms_eps) * layer["ln_1"]).astype(dtype)
            qkv = linear(h, layer["qkv"].T)
            q, k, v = einops.rearrange(qkv, "b s (three h k) -> three b s h k", three=3, h=cfg.num_heads)
            heads, cache, left = attend(*_placed(cfg, q, k, v, turns, layer), number, cache)
            heads = heads[..., : cfg.head_dim]
            x = x + linear(einops.rearrange(heads, "b s h k -> b s (h k)"), layer["out"].T)
        with jax.named_scope("mlp"):
            h = (rms_norm(x, -1, cfg.rms_eps) * layer["ln_2"]).astype(dtype)
            value, gate = jnp.split(linear(h, layer["fc_in"].T) + layer["fc_in_bias"].astype(dtype), 2, axis=-1)
            h = _drop(value * jax.nn.silu(gate), keys, place + 1, cfg.dropout)
            h = linear(h, layer["fc_out"].T) + layer["fc_out_bias"].astype(dtype)
            x = x + _drop(h, keys, place + 2, cfg.dropout)
        return (x, cache), left

    if cfg.remat == "block":
        block = jax.checkpoint(block, prevent_cse=False)
    # In the carry the cache is written in place; handed from layer to layer it would be copied for every token.
    (x, cache), left = lax.scan(
        lambda carry, of_layer: block(carry, *of_layer), (x, cache), (weights["layers"], jnp.arange(cfg.layers))
    )
    return x, cache, left


def _head(weights: dict, cfg: ArcTransformerConfig, x: jax.Array) -> jax.Array:
    with jax.named_scope("head"):
        h = (rms_norm(x, -1, cfg.rms_eps) * weights["norm"]).astype(cfg.compute_dtype)
        return linear(h, weights["lm_head"].T).astype(jnp.float32)


def forward(weights: dict, cfg: ArcTransformerConfig, batch: Mapping, keys: jax.Array | None = None) -> jax.Array:
    """Logits [B, S, V] float32 of the token that follows each; keys [B, 2]: for dropout, None for none.

    batch: {"inputs", "segments", "puzzle_ids", "dihedrals" [B, S], "places" [B, S, 4]} int32.
    """
    with jax.named_scope("embed"):
        x = _drop(embed(weights, cfg, batch), keys, 0, cfg.dropout)
    segments = batch["segments"]

    def attend(q, k, v, layer, _):
        drops = {"dropout": cfg.attention_dropout, "keys": _keys_at(keys, 1 + 3 * layer)}
        return attention(q, k, v, causal=True, segments=segments, impl=cfg.attention_impl, **drops), None, None

    x, *_ = _layers(weights, cfg, x, batch["places"], attend, keys=keys)
    return _head(weights, cfg, x)


# Writing token by token: `trm_jax.evals.decode` calls these three.


def read(params: dict, cfg: ArcTransformerConfig, batch: Mapping) -> jax.Array:
    """Logits [B, S, V] float32 of the token that follows each; batch: as for `begin`."""
    return forward(params["weights"], cfg, batch)


def begin(params: dict, cfg: ArcTransformerConfig, batch: Mapping, room: int) -> dict:
    """The state behind prompts, padded in front to one length: {"logits" [B, V], and what `advance` needs}.

    batch: as for `forward`, its segments -1 where there is padding; the last token is the separator or one of the
    output. room: tokens that the cache has for prompt and answer.
    """
    weights, size = params["weights"], batch["inputs"].shape[1]

    def attend(q, k, v, *_):
        heads = attention(q, k, v, causal=True, segments=batch["segments"], impl=cfg.attention_impl)
        return heads, None, tuple(jnp.pad(x, ((0, 0), (0, room - size), (0, 0), (0, 0))) for x in (k, v))

    x, _, cache = _layers(weights, cfg, embed(weights, cfg, batch), batch["places"], attend)
    real = batch["segments"] >= 0
    _, cursor = _place_of(batch["places"][:, -1, :2], batch["inputs"][:, -1])
    return {
        "logits": _head(weights, cfg, x[:, -1:])[:, 0],
        "cache": cache,
        "seen": jnp.pad(real, ((0, 0), (0, room - size)), constant_values=True),
        "slot": jnp.int32(size),
        "cursor": cursor,
        "number": real.sum(1, dtype=jnp.int32),
        "task": batch["puzzle_ids"][:, -1],
        "dihedral": batch["dihedrals"][:, -1],
    }


def advance(params: dict, cfg: ArcTransformerConfig, state: dict, tokens: jax.Array) -> dict:
    """The state behind one more token of each row, tokens [B]."""
    weights, slot, room = params["weights"], state["slot"], state["seen"].shape[1]
    place, cursor = _place_of(state["cursor"], tokens)
    places = jnp.concatenate([place, state["number"][:, None]], -1)[:, None]
    names = {"inputs": tokens, "puzzle_ids": state["task"], "dihedrals": state["dihedral"]}
    x = embed(weights, cfg, {**{name: x[:, None] for name, x in names.items()}, "places": places})
    mask = (state["seen"] & (jnp.arange(room) <= slot))[:, :, None]

    def attend(q, k, v, layer, cache):
        cache = tuple(
            lax.dynamic_update_slice(old, new[None], (layer, 0, slot, 0, 0))
            for old, new in zip(cache, (k, v), strict=True)
        )
        keys, values = (lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in cache)
        # One query: sums of products read the cache once as it lies, where products of matrices would turn it.
        scores = jnp.sum(q.astype(jnp.float32) * keys, -1) * q.shape[-1] ** -0.5
        shares = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=1).astype(q.dtype)
        heads = jnp.sum(shares[..., None].astype(jnp.float32) * values, 1, keepdims=True)
        return heads.astype(q.dtype), cache, None

    x, cache, _ = _layers(weights, cfg, x, places, attend, state["cache"])
    logits = _head(weights, cfg, x)[:, 0]
    return {
        **state,
        "logits": logits,
        "cache": cache,
        "slot": slot + 1,
        "cursor": cursor,
        "number": state["number"] + 1,
    }


def _place_of(cursor: jax.Array, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(column, row and part [B, 3] of tokens [B] behind a separator, the cursor [B, 2] behind them)."""
    x, y = cursor[:, 0], cursor[:, 1]
    line, other = tokens == NEXT_LINE, (tokens == START) | (tokens >= SEPARATOR)
    part = jnp.select([tokens == START, tokens == SEPARATOR, tokens == END], [0, 2, 4], 3)
    place = jnp.stack([jnp.where(other, 0, x), jnp.where(other, 0, y), part], -1)
    after_x = jnp.where(line, 0, jnp.minimum(x + 1, MOST_COLUMN))
    after_y = jnp.where(line, jnp.minimum(y + 1, MOST_ROW), y)
    moved = jnp.stack([jnp.where(other, x, after_x), jnp.where(other, y, after_y)], -1)
    return place, jnp.where((tokens == SEPARATOR)[:, None], 0, moved)


def noise(cfg: ArcTransformerConfig, key: jax.Array, batch_size: int, exploration=None):
    """A key for each row's dropout, uint32 [B, 2]; () without dropout."""
    if not (cfg.dropout or cfg.attention_dropout):
        return ()
    return jax.vmap(lambda row: jax.random.key_data(jax.random.fold_in(key, row)))(jnp.arange(batch_size))


def loss(params: dict, cfg: ArcTransformerConfig, carry, batch: dict, noise, token_loss: str):
    """(loss, carry, sums, rows) of one training step, as `trm_jax.models.family.Family` says.

    The loss is the sum over tokens of cross-entropy times batch["weights"], which make it a mean over all targets.
    """
    keys = noise if isinstance(noise, jax.Array) else None
    logits = forward(params["weights"], cfg, batch, keys)
    total = jnp.sum(token_cross_entropy(logits, batch["labels"], token_loss) * batch["weights"])
    answers = jnp.argmax(logits, -1).astype(jnp.int32)
    counted = jnp.any(batch["labels"] != IGNORE, -1)
    return total, carry, {"lm_loss": total}, Rows(answers, batch, counted, {})


def think(params: dict, cfg: ArcTransformerConfig, batch: dict, num_steps: int = 0) -> tuple[jax.Array, jax.Array]:
    """(answers [1, B, S], zeros [1, B]): the token that follows each, given all before it.

    Where it is right at every token of an output, writing it token by token gives that output.
    """
    answers = jnp.argmax(forward(params["weights"], cfg, batch), -1).astype(jnp.int32)
    return answers[None], jnp.zeros((1, answers.shape[0]), jnp.float32)


def evaluate(
    params: dict, cfg: ArcTransformerConfig, batch: dict, counted: jax.Array, score: Callable, num_steps: int = 0
) -> dict:
    """Sums of scores over the rows where `counted` [B] holds; score: of `Task.score`."""
    answers, _ = think(params, cfg, batch)
    return dict(score(answers[0], batch, counted))


def finish(sums: Mapping, count: float, sequences: float = 0) -> dict:
    """Fetched sums as the figures of a record: the loss per target."""
    return {"lm_loss": float(sums["lm_loss"] / sequences)} if sequences else {}


def flops(cfg: ArcTransformerConfig) -> tuple[int, int]:
    """Analytic matmul FLOPs of one row: (one training step, one evaluation); scores as of pairs of mean length."""
    D, F, S = cfg.hidden_size, cfg.ff_size, cfg.seq_len
    layer = 2 * S * (4 * D * D + 3 * D * F) + 4 * S * min(S, MEAN_LENGTH) * D
    once = cfg.layers * layer + 2 * S * D * cfg.vocab_size
    return 3 * once, once


def activation_bytes(cfg: ArcTransformerConfig, rows: int) -> int:
    """Estimate of what the backward pass of `rows` rows keeps and makes."""
    D, F, S, size = cfg.hidden_size, cfg.ff_size, cfg.seq_len, cfg.compute_dtype.itemsize
    # Of a layer: two float32 streams, q, k, v, heads and what products read, six of the inner size; masks of dropout.
    kept = S * (9 * D + 7 * size * D + 6 * size * F + F)
    dropping = cfg.attention_dropout > 0
    impl = fastest(S, cfg.compute_dtype, True, dropping) if cfg.attention_impl == "auto" else cfg.attention_impl
    kept += S * S * cfg.num_heads * (4 + size) if impl == "dense" else 0
    layers = 2 if cfg.remat == "block" else cfg.layers + 1  # one for gradients of what is kept of a layer
    return rows * (layers * kept + cfg.layers * S * D * 4 + S * cfg.vocab_size * 12)


Config = ArcTransformerConfig
LOCAL = {"hidden_size": 48, "num_heads": 2, "layers": 2, "ff_size": 96, "dropout": 0.0, "attention_dropout": 0.0}
