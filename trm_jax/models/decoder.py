"""Decoder-only language models of the Llama family: Llama 2, 3, 3.1 and 3.2, Qwen2, Qwen3, SmolLM2.

Pre-norm layers of grouped-query attention with rotary positions and a SwiGLU. Pure functions over a tree of arrays;
files are read by `trm_jax.language`. B = rows, T = tokens, D = hidden size, H = query heads, K = heads of keys and
values, h = head size, F = inner size, V = vocabulary, L = layers.

Kernels are [in, out] and stacked over layers; any but the embedding may be a quantised leaf (`trm_jax.models.quant`).
Numbers are those of Hugging Face transformers to rounding: tests/models/test_decoder.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import einops
import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trm_jax.models import params as P
from trm_jax.models import quant
from trm_jax.models.attention import IMPLEMENTATIONS, attention
from trm_jax.models.layers import apply_rope, embed_tokens, rms_norm
from trm_jax.settings import check, number, option, positive


@dataclass(frozen=True)
class Llama3Scaling:
    """Rotary positions of Llama 3.1 and 3.2: pairs that turn slowly turn slower still by `factor`.

    By the tokens of a whole turn: fewer than original / high stay, more than original / low are scaled, and those
    between are blended.
    """

    factor: float = positive()
    low: float = positive(1.0)
    high: float = positive(4.0)
    original: int = number(8192, low=1)  # tokens that the model was first trained on

    def __post_init__(self):
        check(self, "llama3 scaling: ")
        if self.low >= self.high:
            raise ValueError(f"llama3 scaling: low {self.low} is not below high {self.high}")


@dataclass(frozen=True)
class Config:
    """Shape and arithmetic of a decoder. Raises ValueError for a combination that cannot be built."""

    vocab_size: int = number(low=1)
    hidden_size: int = number(low=1)
    layers: int = number(low=1)
    heads: int = number(low=1)
    kv_heads: int = number(low=1)
    head_dim: int = number(low=2)  # need not be hidden_size / heads
    inner_size: int = number(low=1)
    rope_theta: float = positive()
    rms_eps: float = positive(1e-5)
    # None; a factor, by which all turn slower; Llama3Scaling; or h / 2 divisors of the frequencies.
    rope_scaling: float | Llama3Scaling | tuple[float, ...] | None = None
    tied: bool = False  # the head is the embedding
    qkv_bias: bool = False
    qk_norm: bool = False  # a norm of each head of queries and of keys, before they are turned
    dtype: str = option("float32", "float32", "bfloat16", "float16")  # of weights and products
    context: int = number(0)  # tokens that the model was made for; 0: unknown
    attention_impl: str = option("auto", "auto", *IMPLEMENTATIONS)
    prefill: int = number(0)  # tokens of a prompt that `begin` reads at a time; 0: all
    remat: bool = False  # a gradient computes each layer again instead of keeping what is in it

    def __post_init__(self):
        check(self)
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} are not divisible by kv_heads {self.kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"rotary positions need an even head_dim; it is {self.head_dim}")
        if isinstance(self.rope_scaling, tuple) and len(self.rope_scaling) != self.head_dim // 2:
            raise ValueError(
                f"{len(self.rope_scaling)} divisors of frequencies for {self.head_dim // 2} pairs of a head"
            )

    @property
    def compute_dtype(self):
        return jnp.dtype(self.dtype)


def specs(cfg: Config) -> dict:
    """The declaration of every array."""
    D, F, L, V = cfg.hidden_size, cfg.inner_size, cfg.layers, cfg.vocab_size
    wide, narrow = cfg.heads * cfg.head_dim, cfg.kv_heads * cfg.head_dim
    dtype, normal = cfg.compute_dtype, P.truncated_normal(0.02)

    def kernel(inner: int, out: int, *axes: str) -> P.ParamSpec:
        return P.ParamSpec((L, inner, out), (None, *axes), normal, dtype=dtype)

    def vector(*shape: int, axis: str | None = None, value: float = 1.0) -> P.ParamSpec:
        axes = (*(None,) * (len(shape) - 1), axis)
        return P.ParamSpec(shape, axes, P.constant(value), "vector", dtype, decay=0.0)

    layers = {
        "attn_norm": vector(L, D),
        "q": kernel(D, wide, "embed", "heads"),
        "k": kernel(D, narrow, "embed", "heads"),
        "v": kernel(D, narrow, "embed", "heads"),
        "o": kernel(wide, D, "heads", "embed"),
        "mlp_norm": vector(L, D),
        "gate": kernel(D, F, "embed", "mlp"),
        "up": kernel(D, F, "embed", "mlp"),
        "down": kernel(F, D, "mlp", "embed"),
    }
    if cfg.qkv_bias:
        sizes = {"q_bias": wide, "k_bias": narrow, "v_bias": narrow}
        layers |= {name: vector(L, size, axis="heads", value=0.0) for name, size in sizes.items()}
    if cfg.qk_norm:
        layers |= {name: vector(L, cfg.head_dim) for name in ("q_norm", "k_norm")}
    tree = {
        "embed": P.ParamSpec((V, D), ("vocab", "embed"), normal, "embedding", dtype),
        "layers": layers,
        "norm": vector(D),
    }
    if not cfg.tied:
        tree["head"] = P.ParamSpec((D, V), ("embed", "vocab"), normal, "head", dtype)
    return tree


def init(key: jax.Array, cfg: Config) -> dict:
    """Random initial parameters, as `specs` declares them."""
    return P.init(specs(cfg), key)


def inverse_frequencies(cfg: Config) -> np.ndarray:
    """Radians [h / 2] float32 by which the pairs (i, i + h / 2) of a head turn from token to token."""
    frequencies = 1 / np.float32(cfg.rope_theta) ** (np.arange(0, cfg.head_dim, 2, dtype=np.float32) / cfg.head_dim)
    scaling = cfg.rope_scaling
    if scaling is None:
        return frequencies
    if not isinstance(scaling, Llama3Scaling):
        return frequencies / np.float32(scaling)
    turns = scaling.original / (2 * np.pi / frequencies)  # within the original context
    kept = np.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1).astype(np.float32)
    return (1 - kept) * frequencies / np.float32(scaling.factor) + kept * frequencies


def _rope(cfg: Config, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosines and sines [B, T, h] float32 at positions [B, T]."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(cfg)
    angles = jnp.concatenate([angles, angles], -1)
    return jnp.cos(angles), jnp.sin(angles)


def positions_of(segments: jax.Array) -> jax.Array:
    """[B, T] int32: each token's number in its own segment, whose tokens stand together."""
    at = jnp.broadcast_to(jnp.arange(segments.shape[1], dtype=jnp.int32), segments.shape)
    first = jnp.pad(segments[:, 1:] != segments[:, :-1], ((0, 0), (1, 0)), constant_values=True)
    return at - lax.cummax(jnp.where(first, at, 0), axis=1)


NO_ADAPTER = ({}, 1.0)


def _adapted(name: str, x: jax.Array, adapter: tuple) -> jax.Array:
    """What an adapter (tree, scale) adds to the product of x with the kernel `name`."""
    tree, scale = adapter
    return scale * quant.linear(quant.linear(x, tree[name]["a"]), tree[name]["b"])


def _product(weights: Mapping, name: str, x: jax.Array, adapter: tuple) -> jax.Array:
    """x [..., in] times the kernel `name`, with its bias and an adapter's term where there are any."""
    y = quant.linear(x, weights[name])
    if (bias := weights.get(f"{name}_bias")) is not None:
        y += bias.astype(y.dtype)
    return y + _adapted(name, x, adapter).astype(y.dtype) if name in adapter[0] else y


def _norm(x: jax.Array, weight: jax.Array, cfg: Config) -> jax.Array:
    return rms_norm(x, -1, cfg.rms_eps) * weight.astype(x.dtype)


def _embed(params: dict, cfg: Config, tokens: jax.Array) -> jax.Array:
    """[B, T, D] in the compute dtype."""
    with jax.named_scope("embed"):
        x = embed_tokens(params["embed"], tokens).astype(cfg.compute_dtype)
        tree, scale = params.get("lora", NO_ADAPTER)
        if "embed" in tree:
            rows = embed_tokens(tree["embed"]["a"], tokens).astype(x.dtype)
            x += (scale * quant.linear(rows, tree["embed"]["b"])).astype(x.dtype)
        return x


def head(params: dict, cfg: Config, x: jax.Array) -> jax.Array:
    """Logits [B, T, V] float32 of x, the output of the final norm."""
    with jax.named_scope("head"):
        weights = {"head": params["embed"].T if cfg.tied else params["head"]}
        return _product(weights, "head", x, params.get("lora", NO_ADAPTER)).astype(jnp.float32)


def _layers(params: dict, cfg: Config, x: jax.Array, positions: jax.Array, attend: Callable, cache=None, hidden=False):
    """(x [B, T, D] behind the last layer, the cache, of each layer, stacked: what `attend` left, its output if hidden).

    attend(q [B, T, H, h], k, v [B, T, K, h], layer, cache) -> (heads [B, T, H, h], cache, what is left); layer: its
    number.
    """
    cos, sin = _rope(cfg, positions)
    tree, scale = params.get("lora", NO_ADAPTER)
    tree = {name: leaf for name, leaf in tree.items() if name not in ("embed", "head")}

    def block(carry, of_layer):
        (x, cache), (layer, adapter, number) = carry, of_layer

        def product(name, x):
            return _product(layer, name, x, (adapter, scale))

        with jax.named_scope("attention"):
            n = _norm(x, layer["attn_norm"], cfg)
            q, k, v = (einops.rearrange(product(name, n), "b t (n h) -> b t n h", h=cfg.head_dim) for name in "qkv")
            if cfg.qk_norm:
                q, k = _norm(q, layer["q_norm"], cfg), _norm(k, layer["k_norm"], cfg)
            heads, cache, left = attend(apply_rope(q, cos, sin), apply_rope(k, cos, sin), v, number, cache)
            x = x + product("o", einops.rearrange(heads, "b t n h -> b t (n h)"))
        with jax.named_scope("mlp"):
            n = _norm(x, layer["mlp_norm"], cfg)
            x = x + product("down", jax.nn.silu(product("gate", n)) * product("up", n))
        return (x, cache), (left, x if hidden else None)

    if cfg.remat:
        block = jax.checkpoint(block, prevent_cse=False)
    # In the carry the cache is written in place; handed from layer to layer it would be copied for every token.
    (x, cache), (left, outputs) = lax.scan(block, (x, cache), (params["layers"], tree, jnp.arange(cfg.layers)))
    return x, cache, left, outputs


def features(params: dict, cfg: Config, tokens: jax.Array, segments: jax.Array | None = None, *, hidden: bool = False):
    """What the head reads, the output [B, T, D] of the final norm; arguments as for `forward`."""
    x = embedded = _embed(params, cfg, tokens)
    own = jnp.zeros_like(tokens) if segments is None else segments

    def attend(q, k, v, *_):
        return attention(q, k, v, causal=True, segments=segments, impl=cfg.attention_impl), None, None

    x, _, _, outputs = _layers(params, cfg, x, positions_of(own), attend, hidden=hidden)
    x = _norm(x, params["norm"], cfg)
    return (x, jnp.concatenate([embedded[None], outputs[:-1], x[None]])) if hidden else x


def forward(
    params: dict, cfg: Config, tokens: jax.Array, segments: jax.Array | None = None, *, lora=None, hidden: bool = False
):
    """Logits [B, T, V] float32 of the token that follows each of tokens [B, T]; with `hidden` also [L + 1, B, T, D].

    segments [B, T] int32: tokens see those of their own segment only, positions count from its first; -1 is padding,
    before or behind, whose logits mean nothing. So for a mask of ones and zeros it is mask - 1.
    lora: (adapter, scale): {name of a kernel: {"a" [L, in, r], "b" [L, r, out]}}, added to those in `params`; may also
    stand in `params` as "lora". hidden: entry 0 is the embeddings, i what layer i gives, the last one after the final
    norm.
    """
    if lora is not None:
        params = {**params, "lora": lora}
    found = features(params, cfg, tokens, segments, hidden=hidden)
    return (head(params, cfg, found[0]), found[1]) if hidden else head(params, cfg, found)


# Writing token by token: `trm_jax.evals.decode` calls these three.


def read(params: dict, cfg: Config, batch: Mapping) -> jax.Array:
    """Logits [B, T, V] float32 of the token that follows each; batch: as for `begin`."""
    return forward(params, cfg, batch["inputs"], batch["segments"])


def begin(params: dict, cfg: Config, batch: Mapping, room: int) -> dict:
    """The state behind prompts, padded in front to one length: {"logits" [B, V], and what `advance` needs}.

    batch: {"inputs", "segments" [B, T]} int32, segments -1 where there is padding and 0 elsewhere. room: tokens that
    the cache has for prompt and answer.
    """
    tokens, segments = batch["inputs"], batch["segments"]
    rows, size = tokens.shape
    real = segments >= 0
    seen = jnp.pad(real, ((0, 0), (0, room - size)), constant_values=True)
    if not 0 < cfg.prefill < size:

        def attend(q, k, v, *_):
            heads = attention(q, k, v, causal=True, segments=segments, impl=cfg.attention_impl)
            return heads, None, tuple(jnp.pad(x, ((0, 0), (0, room - size), (0, 0), (0, 0))) for x in (k, v))

        x, _, cache, _ = _layers(params, cfg, _embed(params, cfg, tokens), positions_of(segments), attend)
        return _state(params, cfg, x, cache, seen, jnp.int32(size), real.sum(1, dtype=jnp.int32))

    blank = jnp.zeros((cfg.layers, rows, room, cfg.kv_heads, cfg.head_dim), cfg.compute_dtype)
    first = size % cfg.prefill or cfg.prefill  # what is over comes first, then chunks of one size
    state = {"cache": (blank, blank), "seen": seen, "slot": jnp.int32(0), "number": jnp.zeros(rows, jnp.int32)}
    state = extend(params, cfg, state, tokens[:, :first])
    chunks = einops.rearrange(tokens[:, first:], "b (n c) -> n b c", c=cfg.prefill)
    return lax.scan(lambda state, chunk: (extend(params, cfg, state, chunk), None), state, chunks)[0]


def follow(params: dict, cfg: Config, state: dict, batch: Mapping, room: int) -> dict:
    """The state behind prompts that all go on from one text, `state` of a single row without room; else as `begin`."""
    tokens, real = batch["inputs"], batch["segments"] >= 0
    (rows, size), read = tokens.shape, state["seen"].shape[1]

    def spread(x: jax.Array) -> jax.Array:
        x = jnp.broadcast_to(x, (x.shape[0], rows, *x.shape[2:]))
        return jnp.pad(x, ((0, 0), (0, 0), (0, room - read), (0, 0), (0, 0)))

    seen = jnp.concatenate([jnp.broadcast_to(state["seen"], (rows, read)), real], axis=1)
    seen = jnp.pad(seen, ((0, 0), (0, room - read - size)), constant_values=True)
    number = jnp.broadcast_to(state["number"], (rows,))
    state = {"cache": jax.tree.map(spread, state["cache"]), "seen": seen, "slot": state["slot"], "number": number}
    return extend(params, cfg, state, tokens)


def _state(params: dict, cfg: Config, x: jax.Array, cache, seen: jax.Array, slot: jax.Array, number: jax.Array) -> dict:
    """The state behind x [B, C, D], the last layer's output. slot: where the next token goes in the cache; number [B]:
    its position."""
    logits = head(params, cfg, _norm(x[:, -1:], params["norm"], cfg))[:, 0]
    return {"logits": logits, "cache": cache, "seen": seen, "slot": slot, "number": number}


def advance(params: dict, cfg: Config, state: dict, tokens: jax.Array) -> dict:
    """The state behind one more token of each row, tokens [B]."""
    return extend(params, cfg, state, tokens[:, None])


def extend(params: dict, cfg: Config, state: dict, tokens: jax.Array) -> dict:
    """The state behind more tokens of each row, tokens [B, C]; those that "seen" calls padding count for nothing."""
    seen, slot, size = state["seen"], state["slot"], tokens.shape[1]
    real = lax.dynamic_slice_in_dim(seen, slot, size, axis=1)
    positions = state["number"][:, None] + jnp.cumsum(real, 1, dtype=jnp.int32) - real
    upto = slot + jnp.arange(size)[:, None] >= jnp.arange(seen.shape[1])
    mask = (seen[:, None] & upto)[:, None, None]  # [B, 1, 1, C, room]
    precision = lax.Precision.HIGHEST if cfg.dtype == "float32" else None

    def attend(q, k, v, layer, cache):
        cache = tuple(
            lax.dynamic_update_slice(old, new[None], (layer, 0, slot, 0, 0))
            for old, new in zip(cache, (k, v), strict=True)
        )
        keys, values = (lax.dynamic_index_in_dim(x, layer, keepdims=False) for x in cache)
        dot = {"precision": precision, "preferred_element_type": jnp.float32}
        q = einops.rearrange(q, "b c (k g) h -> b c k g h", k=cfg.kv_heads)
        scores = jnp.einsum("bckgh,bskh->bkgcs", q, keys, **dot) * cfg.head_dim**-0.5
        # Not minus infinity: a row of padding sees nothing, and its numbers must stay finite.
        shares = jax.nn.softmax(jnp.where(mask, scores, jnp.finfo(jnp.float32).min), axis=-1).astype(q.dtype)
        heads = jnp.einsum("bkgcs,bskh->bckgh", shares, values, **dot).astype(q.dtype)
        return einops.rearrange(heads, "b c k g h -> b c (k g) h"), cache, None

    x, cache, _, _ = _layers(params, cfg, _embed(params, cfg, tokens), positions, attend, state["cache"])
    number = state["number"] + real.sum(1, dtype=jnp.int32)
    return _state(params, cfg, x, cache, seen, slot + size, number)
