"""What a language model takes of a device before it is fetched: weights, cache, adapter, optimiser, activations.

Bytes are those of the arrays that would be there, counted from their declarations and by tracing; a tenth is added for
what compilers take on top. Of several chips, as many share the heads as divide them (`tensor`), the others the rows
(`data`); where all weights are trained all share them (`fsdp`), and adapters are trained as `trm_jax.solvers.adapt`
does it, on each chip one of its own.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh

from trm_jax import sharding
from trm_jax.configs.resolve import nearest
from trm_jax.errors import InputError
from trm_jax.language import config, gguf
from trm_jax.language.packaged import located
from trm_jax.models import decoder, lora, params, quant, target
from trm_jax.models.attention import fastest
from trm_jax.models.params import is_spec
from trm_jax.planning.hardware import GPUS, Device
from trm_jax.planning.hardware import find as find_device
from trm_jax.solvers import adapt

ON_TOP = 1.1  # what compilers take besides


def _llama3(hidden: int, layers: int, heads: int, inner: int, factor: float = 0.0, **other) -> decoder.Config:
    scaling = decoder.Llama3Scaling(factor) if factor else None
    shape = {"kv_heads": 8, "head_dim": 128, "context": 131072 if factor else 8192, **other}
    return decoder.Config(128256, hidden, layers, heads, inner_size=inner, rope_theta=5e5, rope_scaling=scaling,
                          dtype="bfloat16", **shape)  # fmt: skip


def _qwen(hidden: int, layers: int, heads: int, kv_heads: int, inner: int, vocab: int = 151936, **other):
    shape = {"head_dim": 128, "context": 32768, "qkv_bias": True, **other}
    return decoder.Config(vocab, hidden, layers, heads, kv_heads, inner_size=inner, rope_theta=1e6, rms_eps=1e-6,
                          dtype="bfloat16", **shape)  # fmt: skip


_QWEN3 = {"qkv_bias": False, "qk_norm": True, "context": 40960}
_QWEN25 = {
    "0.5b": _qwen(896, 24, 14, 2, 4864, head_dim=64, tied=True),
    "1.5b": _qwen(1536, 28, 12, 2, 8960, tied=True),
    "3b": _qwen(2048, 36, 16, 2, 11008, tied=True),
    "7b": _qwen(3584, 28, 28, 4, 18944, 152064),
    "14b": _qwen(5120, 48, 40, 8, 13824, 152064),
    "32b": _qwen(5120, 64, 40, 8, 27648, 152064),
}
# name -> (repository, shape), by the config.json of the repository.
MODELS: dict[str, tuple[str, decoder.Config]] = {
    "llama-3.2-1b": ("meta-llama/Llama-3.2-1B", _llama3(2048, 16, 32, 8192, 32.0, head_dim=64, tied=True)),
    "llama-3.2-3b": ("meta-llama/Llama-3.2-3B", _llama3(3072, 28, 24, 8192, 32.0, tied=True)),
    "llama-2-7b": (
        "meta-llama/Llama-2-7b-hf",
        decoder.Config(32000, 4096, 32, 32, 32, 128, 11008, 1e4, dtype="float16", context=4096),
    ),
    "llama-3-8b": ("meta-llama/Meta-Llama-3-8B", _llama3(4096, 32, 32, 14336)),
    "llama-3.1-8b": ("meta-llama/Llama-3.1-8B", _llama3(4096, 32, 32, 14336, 8.0)),
    "llama-3-70b": ("meta-llama/Meta-Llama-3-70B", _llama3(8192, 80, 64, 28672)),
    "llama-3.1-70b": ("meta-llama/Llama-3.1-70B", _llama3(8192, 80, 64, 28672, 8.0)),
    "qwen3-4b": ("Qwen/Qwen3-4B", _qwen(2560, 36, 32, 8, 9728, tied=True, **_QWEN3)),
    "qwen3-4b-16-tokens": (
        "Qwen/Qwen3-4B, cut to 16 rows of its embedding",
        _qwen(2560, 36, 32, 8, 9728, 16, tied=True, **_QWEN3),
    ),
    "qwen3-8b": ("Qwen/Qwen3-8B", _qwen(4096, 36, 32, 8, 12288, **_QWEN3)),
    "smollm2-135m": (
        "HuggingFaceTB/SmolLM2-135M-Instruct",
        decoder.Config(49152, 576, 30, 9, 3, 64, 1536, 1e5, tied=True, dtype="bfloat16", context=8192),
    ),
    **{f"qwen2.5-{size}": (f"Qwen/Qwen2.5-{size.upper()}", cfg) for size, cfg in _QWEN25.items()},
    **{f"qwen2.5-coder-{size}": (f"Qwen/Qwen2.5-Coder-{size.upper()}", cfg) for size, cfg in _QWEN25.items()},
}
# What the users' guide says fits: (name begins with, or with, how quantised, GB). It does not.
GUIDE = (
    (("llama-3-70b", "llama-3.1-70b"), "int4", 24),
    (("llama-3-70b", "llama-3.1-70b"), "int8", 40),
    (("llama-3-70b", "llama-3.1-70b"), "", 80),
    (("llama-3-8b", "llama-3.1-8b"), "int8", 8),
)


@dataclass(frozen=True)
class Asked:
    """A model and what it is to do.

    declared: its arrays as they would be there, from how they are quantised ("": not); context: tokens of a row, prompt
    and answer; rows: at a time, of each adapter where such are trained; train: an adapter, "full" for all weights in
    float32, or None; tensor: chips that share the heads, 0 for as many as can, or 1 for adapters; adapter_dtype: the
    model's where it is None.
    """

    cfg: decoder.Config
    declared: Callable[[str], dict]
    how: str = ""
    context: int = 0
    rows: int = 1
    train: lora.Lora | str | None = None
    tensor: int = 0
    adapter_dtype: str | None = None

    def specs(self) -> dict:
        return self.declared(self.how)

    def recipe(self) -> adapt.Recipe:
        """Of an adapter's training."""
        return adapt.Recipe(self.train, batch=self.rows, dtype=self.adapter_dtype)

    def adapter(self) -> dict:
        """The declaration of what is trained beside the weights. Raises InputError for a rank too large."""
        if not isinstance(self.train, lora.Lora):
            return {}
        found = self.recipe().specs(self.cfg)["lora"]
        for name, pair in found.items():
            inner, out = pair["a"].shape[-2], pair["b"].shape[-1]
            if self.train.rank > max(inner, out):
                raise InputError(f"rank {self.train.rank} is larger than the kernel {name} [{inner}, {out}]; give less")
        return found


@dataclass(frozen=True)
class Needs:
    """Bytes of one chip by part, and those of all that it reads for each token of its rows. mesh: how chips share."""

    parts: dict[str, int]
    read: int
    mesh: dict[str, int]

    @property
    def total(self) -> int:
        return math.ceil(ON_TOP * sum(self.parts.values()))


def find(
    words: str, *, dtype: str | None = None, rope_theta: float | None = None
) -> tuple[str, decoder.Config, Callable[[str], dict]]:
    """(source, shape, `Asked.declared`) of a model: a folder with a config.json, a GGUF file, or a name of `MODELS`.

    No weights are read. dtype: instead of the file's. Raises InputError for another word, with the nearest name.
    """
    path = Path(words)
    if path.suffix == ".gguf":
        fields, tensors = gguf.read(path)
        cfg = gguf.config(path, fields, tensors, dtype=dtype or "float32", rope_theta=rope_theta)

        kept = gguf.specs(path, cfg, tensors)

        def of_file(how: str) -> dict:
            if how and any(map(quant.is_quantised, kept["layers"].values())):
                raise InputError(f"{path}: the weights are quantised already; ask for no quantisation")
            return quant.specs(kept, how) if how else kept

        return str(path), cfg, of_file
    if path.exists():
        source, cfg = str(path), config.read(path, rope_theta=rope_theta, dtype=dtype)
    elif (name := words.lower()) in MODELS:
        repository, cfg = MODELS[name]
        source, cfg = f"{repository}: its config.json", dataclasses.replace(cfg, dtype=dtype or cfg.dtype)
    else:
        near = nearest(name, MODELS)
        raise InputError(f"{words} is no folder, no .gguf file and no known model.{near} Known are {', '.join(MODELS)}")
    plain = decoder.specs(cfg)
    return source, cfg, lambda how: quant.specs(plain, how) if how else plain


def _placed(specs: dict, chips: int, axis: str, most: int) -> tuple[AbstractMesh, dict]:
    """(mesh, shardings): as many chips as can share every array along `axis`, up to `most`; the others share rows."""
    for ways in sorted((n for n in range(1, min(chips, most) + 1) if chips % n == 0), reverse=True):
        sizes = {"data": chips // ways, "fsdp": 1, "tensor": 1, axis: ways}
        mesh = AbstractMesh(tuple(sizes.values()), sharding.MESH_AXES)
        try:
            return mesh, sharding.shardings(mesh, sharding.Rules(), specs)
        except InputError:
            if ways == 1:
                raise
    raise AssertionError


def _cut(asked: Asked, specs: dict, chips: int, most: int) -> tuple[AbstractMesh, dict]:
    """The same along `tensor`, by as many chips as are asked for. Raises InputError where so many cannot."""
    mesh, lies = _placed(specs, chips, "tensor", asked.tensor or most)
    if asked.tensor not in (0, mesh.shape["tensor"]):
        raise InputError(f"{chips} chips cannot share the weights {asked.tensor} ways; {mesh.shape['tensor']} would do")
    return mesh, lies


def _bytes(specs: dict, lies: dict) -> int:
    """Bytes of one chip."""
    found = zip(jax.tree.leaves(specs, is_leaf=params.is_spec), jax.tree.leaves(lies), strict=True)
    return sum(math.prod(where.shard_shape(spec.shape)) * jnp.dtype(spec.dtype).itemsize for spec, where in found)


def needs(asked: Asked, device: Device) -> Needs:
    """What a chip of the device takes. Raises InputError for what cannot be there at all."""
    cfg, chips = asked.cfg, device.chips
    if asked.train:
        return _training(asked, device)
    specs = asked.specs()
    mesh, lies = _cut(asked, specs, chips, math.gcd(chips, cfg.kv_heads))
    rows, weights = -(-asked.rows // mesh.shape["data"]), _bytes(specs, lies)
    cache = cache_bytes(cfg, rows, asked.context) // mesh.shape["tensor"]
    looked_up = 0 if cfg.tied else _bytes({"embed": specs["embed"]}, {"embed": lies["embed"]})
    return Needs({"weights": weights, "cache": cache}, weights - looked_up + cache, dict(mesh.shape))


def reader_bytes(words: str, tokens: int) -> tuple[str, int]:
    """(source, bytes of a chip) of a model that reads texts of so many tokens one by one, and writes nothing.

    words: as `find` takes, or a place where the model is not yet, whose name begins as one of `MODELS`.
    """
    place = Path(words)
    try:
        place = located(words)
    except InputError:
        pass  # a package that is not installed: as it will be
    if not place.exists():
        name = place.name.lower()
        words = next((known for known in MODELS if name.startswith(known) or known.startswith(name)), words)
    source, cfg, declared = find(str(place) if place.exists() else words)
    width = jnp.dtype(cfg.dtype).itemsize
    of_layer = tokens * (4 * cfg.hidden_size + 3 * cfg.inner_size) * width
    dense = fastest(tokens, jnp.dtype(cfg.dtype)) == "dense"
    scores = cfg.heads * tokens * tokens * 4 if dense else 0
    weights = quant.bytes_of(params.abstract(declared("")))
    return source, math.ceil(ON_TOP * (weights + of_layer + scores))


def cache_bytes(cfg: decoder.Config, rows: int, context: int) -> int:
    """Of the arrays that `decoder.begin` makes."""
    batch = {name: jax.ShapeDtypeStruct((rows, 1), jnp.int32) for name in ("inputs", "segments")}
    begin = partial(decoder.begin, cfg=cfg, room=context)
    return quant.bytes_of(jax.eval_shape(begin, params.abstract(decoder.specs(cfg)), batch=batch)["cache"])


def _training(asked: Asked, device: Device) -> Needs:
    cfg, adapter = asked.cfg, asked.adapter()
    if not adapter and asked.how:
        raise InputError(
            f"quantised weights ({asked.how}) are not trained; train an adapter beside them, or all of them"
        )
    specs = asked.specs() if adapter else decoder.specs(dataclasses.replace(cfg, dtype="float32"))
    both = {"base": specs, "adapter": adapter}
    if adapter:
        (mesh, lies), rows = _cut(asked, both, device.chips, 1), asked.rows
    else:
        (mesh, lies), rows = _placed(both, device.chips, "fsdp", device.chips), -(-asked.rows // device.chips)
    trained = _bytes(adapter, lies["adapter"]) if adapter else _bytes(specs, lies["base"])
    # Of a device that is only so many GB, as of any GPU: with kernels that keep no scores.
    with device.target() if device.peak_tflops else target.made_for("gpu", 8.0):
        kept = _kept(cfg, specs, adapter, rows, asked.context)
    parts = {"weights": _bytes(specs, lies["base"]), "adapter": trained} if adapter else {"weights": trained}
    # Adam's two moments and the gradient are as large as what is trained, and of its dtype.
    parts |= {"gradients": trained, "optimiser": 2 * trained, "activations": kept}
    return Needs(parts, 0, dict(mesh.shape))


def _kept(cfg: decoder.Config, specs: dict, adapter: dict, rows: int, context: int) -> int:
    """Bytes of a step of `trm_jax.solvers.adapt` besides weights and gradients: what the forward pass keeps for
    the backward one, what a layer makes when it is computed again, and the logits of a part of the tokens.

    By tracing it: all that is kept but the arrays that are there anyway.
    """

    def kept(cfg: decoder.Config, specs: dict, adapter: dict) -> int:
        base, tree = params.abstract(specs), params.abstract(adapter)
        batch = dict.fromkeys(("inputs", "labels", "segments"), jax.ShapeDtypeStruct((rows, context), jnp.int32))

        def residuals(base, tree, batch):
            def loss(trained):
                return adapt.loss({**base, "lora": (trained, 1.0)} if adapter else trained, cfg, batch)

            return jax.vjp(loss, tree if adapter else base)[1]

        found = Counter((x.shape, x.dtype) for x in jax.tree.leaves(jax.eval_shape(residuals, base, tree, batch)))
        found.subtract((x.shape, x.dtype) for x in jax.tree.leaves((base, tree)))
        return sum(n * math.prod(shape) * dtype.itemsize for (shape, dtype), n in found.items() if n > 0)

    def one_layer(tree: dict) -> dict:
        return jax.tree.map(lambda spec: dataclasses.replace(spec, shape=(1, *spec.shape[1:])), tree, is_leaf=is_spec)

    one = {**specs, "layers": one_layer(specs["layers"])}
    of_layer = {name: pair if name in adapt.WHOLE else one_layer(pair) for name, pair in adapter.items()}
    again = kept(dataclasses.replace(cfg, layers=1), one, of_layer)
    logits = 2 * min(adapt.HEAD_TOKENS, rows * context) * cfg.vocab_size * 4  # and their gradient
    return kept(dataclasses.replace(cfg, remat=True), specs, adapter) + again + logits


def flops(asked: Asked) -> int:
    """FLOPs of a token: products with the weights and attention over half of the context; trained, back as well."""
    cfg, adapter = asked.cfg, params.count(asked.adapter())
    specs = decoder.specs(cfg)
    base = params.count([specs["layers"], specs["embed"] if cfg.tied else specs["head"]])
    attention = 2 * cfg.layers * cfg.heads * cfg.head_dim * asked.context
    if not asked.train:
        return 2 * base + attention
    return 3 * attention + (4 * base + 6 * adapter if adapter else 6 * base)


# Where a model goes that a device has no room for, the smallest first.
_LARGER = sorted(
    (*GPUS.values(), *map(find_device, ("v4-8", "v4-16", "v4-32", "v4-64", "v4-128"))),
    key=lambda one: (one.memory_gb * one.chips, one.dollars_per_hour or math.inf),
)


def obstacle(asked: Asked, device: Device) -> str:
    """Why it does not fit, and what does: a quantisation, shorter texts, chips that share, a device; empty where it
    fits."""
    found = needs(asked, device)
    if fits(found, device):
        return ""
    quantised = [] if asked.train == "full" else [(how, {"how": how}) for how in quant.KINDS]
    shorter, shared = [], []
    if asked.adapter():
        sizes = sorted({adapt.bucket(n) for n in range(128, asked.context, 128)} - {asked.context}, reverse=True)
        shorter = [(f"--context {size}", {"context": size}) for size in sizes]
        counts = [n for n in range(2, device.chips + 1) if device.chips % n == 0 and n > asked.tensor]
        shared = [(f"--mesh tensor={n}", {"tensor": n}) for n in counts]

    def room(device: Device, **change) -> Needs | None:
        """What it takes so, where it fits."""
        try:
            other = needs(dataclasses.replace(asked, **change), device)
        except InputError:  # a file that is quantised already, groups, heads or chips that do not divide
            return None
        return other if fits(other, device) else None

    ways = []
    for changes in (shared, quantised, shorter):
        some = ((how, room(device, **change)) for how, change in changes)
        ways += islice((f"{how} does, with {other.total / 1e9:.1f} GB" for how, other in some if other), 1)
    larger = next((one.name for one in _LARGER if room(one)), None)
    ways += [f"{larger} has room"] if larger else []
    what = "; ".join(ways) or "nor does it fit anything in the table; lower the context or the batch"
    return f"does not fit: {found.total / 1e9:.1f} GB of {device.memory_gb:g} a chip; {what}"


def less(asked: Asked, device: Device) -> str:
    """What makes a program smaller."""
    more = [] if asked.how else ["--quantise int8"]
    more += ["a larger --mesh tensor=N"] if device.chips > 1 else []
    return ", ".join([*more, "a lower --context", "a lower --batch"])


def fits(found: Needs, device: Device) -> bool:
    return found.total <= device.memory_gb * 1e9


def guide_says(name: str, asked: Asked, device: Device) -> str:
    """A note where the users' guide promises what arithmetic does not hold; empty elsewhere."""
    for names, how, size in GUIDE:
        if name in names and how == asked.how and device.memory_gb <= size and not asked.train:
            weights = sum(
                math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(params.abstract(asked.specs()))
            )
            return f"the users' guide says that this fits {size} GB; the weights alone are {weights / 1e9:.2f} GB"
    return ""
