"""GGUF files: shape, weights and tokenizer of a Llama or Qwen decoder in one file, memory-mapped.

Blocks of 8 and 4 bits may stay as they are (`trm_jax.models.quant`); everything else becomes plain arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.errors import InputError
from trm_jax.language.tokenizer import Tokenizer, note_absent_bytes, require_tokenizers
from trm_jax.models import decoder, quant
from trm_jax.models.params import ParamSpec, is_spec, path_name

ARCHITECTURES = ("llama", "qwen2", "qwen3")
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q4_K", "Q6_K")

_MODEL_NAMES = {"embed": "token_embd.weight", "norm": "output_norm.weight", "head": "output.weight"}
_LAYER_NAMES = {
    "attn_norm": "attn_norm.weight",
    **{name: f"attn_{name}.weight" for name in ("q", "k", "v")},
    **{f"{name}_bias": f"attn_{name}.bias" for name in ("q", "k", "v")},
    **{f"{name}_norm": f"attn_{name}_norm.weight" for name in ("q", "k")},
    "o": "attn_output.weight",
    "mlp_norm": "ffn_norm.weight",
    **{name: f"ffn_{name}.weight" for name in ("gate", "up", "down")},
}
_FREQUENCIES = "rope_freqs.weight"  # [h / 2] divisors of the rotary frequencies


def load(
    path: str | Path,
    *,
    dtype: str = "float32",
    keep_blocks: bool = True,
    rope_theta: float | None = None,
    tokenizer: Tokenizer | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[decoder.Config, dict, Tokenizer]:
    """(cfg, params, tokenizer) of a file.

    dtype: of plain arrays and of products. keep_blocks: kernels whose layers are all Q8_0, Q4_0 or Q4_1 become leaves
    of `trm_jax.models.quant`. rope_theta: for old files that do not tell it. tokenizer: instead of the file's own.
    progress: called with (bytes read, bytes in all). Raises InputError for what is missing, left over, of a wrong
    shape, cut short or not supported, by name.
    """
    fields, tensors = read(path)
    cfg = config(path, fields, tensors, dtype=dtype, rope_theta=rope_theta)
    if tokenizer is None:
        tokenizer = embedded_tokenizer(path, fields)
        note_absent_bytes(tokenizer, say)
    if tokenizer.size > cfg.vocab_size:
        raise InputError(f"{path}: {tokenizer.size} tokens, but token_embd.weight has {cfg.vocab_size} rows")
    return cfg, weights(path, cfg, fields, tensors, keep_blocks, progress), tokenizer


def read(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(value of each key, the library's tensor of each name); no tensor's bytes are read yet."""
    try:
        import gguf
    except ImportError:
        raise InputError("GGUF files need the library gguf: pip install 'trm_jax[gguf]'") from None

    class Reader(gguf.GGUFReader):
        """It names the tensor that a file does not hold to its end. The library would only fail to reshape it."""

        def _build_tensors(self, start, fields):
            for field in fields:
                _, dims, kind, offset = (field.parts[index] for index in field.data)
                values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind[0])]
                end = int(start + offset[0]) + int(np.prod(dims)) // values * size
                if end > len(self.data):
                    raise ValueError(f"it ends at byte {len(self.data)}, and {field.name} reaches to {end}")
            super()._build_tensors(start, fields)

    try:
        reader = Reader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from None
    except (ValueError, IndexError, KeyError, OverflowError) as error:
        raise InputError(f"{path} is no whole GGUF file: {error}; fetch it again") from None
    return fields, {tensor.name: tensor for tensor in reader.tensors}


def config(
    path: str | Path, fields: dict, tensors: dict, *, dtype: str = "float32", rope_theta: float | None = None
) -> decoder.Config:
    """The shape that a file's keys tell. Raises InputError for one that is not supported."""
    arch = fields.get("general.architecture")
    if arch not in ARCHITECTURES:
        raise InputError(f"{path} is of architecture {arch!r}; what is read are {', '.join(ARCHITECTURES)}")
    if fields.get("split.count", 1) > 1:
        raise InputError(f"{path} is one part of {fields['split.count']}; merge them into one file")

    def value(key: str, default: float | None = None):
        found = fields.get(f"{arch}.{key}", default)
        if found is None:
            raise InputError(f"{path} lacks the key {arch}.{key}; convert the model again")
        if isinstance(found, list):
            raise InputError(f"{path}: {arch}.{key} differs from layer to layer, which is not supported")
        return found

    if value("expert_count", 0):
        raise InputError(f"{path} is a mixture of experts ({arch}.expert_count), which is not supported")
    if value("attention.sliding_window", 0):
        raise InputError(f"{path} has a sliding window ({arch}.attention.sliding_window), which is not supported")
    scaling = fields.get(f"{arch}.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise InputError(f"{path}: {arch}.rope.scaling.type is {scaling!r}, which is not supported")
    if rope_theta is None:
        rope_theta = fields.get(f"{arch}.rope.freq_base")
    if rope_theta is None:
        raise InputError(f"{path} lacks {arch}.rope.freq_base; give it as rope_theta (10000 for Llama 1 and 2)")

    hidden, heads = value("embedding_length"), value("attention.head_count")
    turned = value("rope.dimension_count", 0)
    head_dim = value("attention.key_length", turned or hidden // heads)
    if turned and turned != head_dim:
        raise InputError(f"{path} turns {turned} of {head_dim} numbers of a head, which is not supported")
    divisors: Any = float(value("rope.scaling.factor")) if scaling == "linear" else None
    if _FREQUENCIES in tensors:
        divisors = tuple((_rows(tensors[_FREQUENCIES]) * (divisors or 1)).tolist())
    embedding = tensors.get(_MODEL_NAMES["embed"])
    try:
        return decoder.Config(
            vocab_size=_shape(embedding)[0] if embedding else len(fields.get("tokenizer.ggml.tokens", [0])),
            hidden_size=hidden,
            layers=value("block_count"),
            heads=heads,
            kv_heads=value("attention.head_count_kv", heads),
            head_dim=head_dim,
            inner_size=value("feed_forward_length"),
            rope_theta=rope_theta,
            rms_eps=value("attention.layer_norm_rms_epsilon"),
            rope_scaling=divisors,
            tied=_MODEL_NAMES["head"] not in tensors,
            qkv_bias=arch == "qwen2",
            qk_norm=arch == "qwen3",
            dtype=dtype,
            context=value("context_length", 0),
        )
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None


def weights(
    path: str | Path,
    cfg: decoder.Config,
    fields: dict,
    tensors: dict,
    keep_blocks: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """The parameters as `decoder.specs` declares them. Raises InputError that names the tensors at fault."""
    specs = decoder.specs(cfg)

    def names(place: str) -> list[str]:
        if place in _MODEL_NAMES:
            return [_MODEL_NAMES[place]]
        return [f"blk.{layer}.{_LAYER_NAMES[place.removeprefix('layers/')]}" for layer in range(cfg.layers)]

    shapes = {}
    for key, spec in jax.tree_util.tree_leaves_with_path(specs, is_leaf=is_spec):
        place = path_name(key)
        shape = spec.shape[1:] if place.startswith("layers/") else spec.shape
        shapes |= dict.fromkeys(names(place), shape if place == "embed" else shape[::-1])
    _require(path, tensors, shapes)

    total, done = sum(tensors[name].n_bytes for name in shapes), 0
    interleaved = {"layers/q": cfg.heads, "layers/k": cfg.kv_heads} if fields["general.architecture"] == "llama" else {}

    def one(key, spec: ParamSpec):
        nonlocal done
        place = path_name(key)
        stored = [tensors[name] for name in names(place)]
        array = _stacked(stored, spec, place, interleaved.get(place), keep_blocks)
        done += sum(tensor.n_bytes for tensor in stored)
        progress(done, total)
        return array

    return jax.tree_util.tree_map_with_path(one, specs, is_leaf=is_spec)


def _shape(tensor) -> tuple[int, ...]:
    """[out, in]; the file has it the other way round."""
    return tuple(reversed(tensor.shape.tolist()))


def _require(path: str | Path, tensors: dict, shapes: dict[str, tuple[int, ...]]) -> None:
    """Raise InputError unless the tensors are those of `shapes`, of these shapes and of types that are read."""
    both = shapes.keys() & tensors.keys()
    faults = {
        "missing": [name for name in shapes if name not in tensors],
        "of no use here": [name for name in tensors if name not in shapes and name != _FREQUENCIES],
        "of a wrong shape": [
            f"{name} {list(_shape(tensors[name]))} instead of {list(shapes[name])}"
            for name in sorted(both)
            if _shape(tensors[name]) != shapes[name]
        ],
        f"of a type besides {', '.join(TYPES)}": [
            f"{name} {tensors[name].tensor_type.name}"
            for name in sorted(both)
            if tensors[name].tensor_type.name not in TYPES
        ],
    }
    told = [
        f"{what} {', '.join(found[:3])}" + (f" and {len(found) - 3} more" if len(found) > 3 else "")
        for what, found in faults.items()
        if found
    ]
    if told:
        raise InputError(f"{path}: tensors {'; '.join(told)}; take another file of this model")


def _rows(tensor) -> np.ndarray:
    """[out, in] float32 of a tensor of any type."""
    from gguf import quants

    return quants.dequantize(tensor.data, tensor.tensor_type)


def _stacked(stored: list, spec: ParamSpec, place: str, heads: int | None, keep_blocks: bool):
    """One parameter from the tensors of its layers; heads: of those whose halves the file has interleaved."""

    def in_order(rows: np.ndarray) -> np.ndarray:
        # Whole rows move, so blocks along a row stay what they are.
        return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape) if heads else rows

    kinds = {tensor.tensor_type.name for tensor in stored}
    name = place.removeprefix("layers/")
    if keep_blocks and kinds <= quant.BLOCKS.keys() and len(kinds) == 1 and name in (*quant.LINEARS, "head"):
        raw = np.stack([in_order(tensor.data) for tensor in stored])
        return quant.BLOCKS[kinds.pop()](jnp.asarray(raw if place.startswith("layers/") else raw[0]))
    array = np.empty(spec.shape, spec.dtype)
    for target, tensor in zip(array if place.startswith("layers/") else [array], stored, strict=True):
        rows = in_order(_rows(tensor))
        target[...] = rows if name == "embed" else rows.T
    return jnp.asarray(array)


PRE_TOKENIZERS = ("smollm", "llama-bpe", "qwen2", "gpt-2")
# The cut of Llama 3 and Qwen2: contractions, words, runs of so many digits, signs, ends of lines, blanks.
_CUT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}%s"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIAL, _USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type


def embedded_tokenizer(path: str | Path, fields: dict) -> Tokenizer:
    """The byte-level tokenizer that a file's keys tell. Raises InputError for another kind and for a broken one."""
    library = require_tokenizers()
    pre, said = library.pre_tokenizers, {key.removeprefix("tokenizer.ggml."): value for key, value in fields.items()}
    model, cut = said.get("model"), said.get("pre")
    for what, found, known in (("model", model, ("gpt2",)), ("pre", cut, PRE_TOKENIZERS)):
        if found not in known:
            raise InputError(
                f"{path}: tokenizer.ggml.{what} is {found!r}, and what is read is {', '.join(known)}; "
                "give the tokenizer of the model's folder, made from its tokenizer.json"
            )
    for key in ("tokens", "token_type", "merges"):
        if not isinstance(said.get(key), list):
            raise InputError(f"{path} lacks tokenizer.ggml.{key}; give the tokenizer of the model's folder")
    tokens = said["tokens"]
    merges = [tuple(merge.split(" ")) for merge in said["merges"]]
    try:
        vocabulary = {token: number for number, token in enumerate(tokens)}
        bpe = library.models.BPE(vocabulary, merges, ignore_merges=cut == "llama-bpe")
    except Exception as error:  # the library raises nothing narrower
        raise InputError(
            f"{path}: the merges do not fit the tokens: {str(error).splitlines()[0]}; fetch it again"
        ) from None
    if len(vocabulary) < len(tokens) or len(said["token_type"]) != len(tokens):
        raise InputError(f"{path}: {len(tokens)} tokens, {len(vocabulary)} different; {len(said['token_type'])} types")

    backend = library.Tokenizer(bpe)
    if cut in ("smollm", "gpt-2"):
        digits = [pre.Digits(individual_digits=True)] if cut == "smollm" else []
        cuts = [*digits, pre.ByteLevel(add_prefix_space=False)]
    else:
        pattern = library.Regex(_CUT % ("" if cut == "qwen2" else "{1,3}"))
        cuts = [pre.Split(pattern, "isolated"), pre.ByteLevel(add_prefix_space=False, use_regex=False)]
    backend.pre_tokenizer = pre.Sequence(cuts)
    backend.decoder = library.decoders.ByteLevel()
    if cut == "qwen2":
        backend.normalizer = library.normalizers.NFC()
    for token, kind in zip(tokens, said["token_type"], strict=True):
        if kind in (_SPECIAL, _USER_DEFINED):
            added = library.AddedToken(token, special=kind == _SPECIAL, normalized=False)
            (backend.add_special_tokens if kind == _SPECIAL else backend.add_tokens)([added])

    names = {"bos": "bos_token", "eos": "eos_token", "eot": "eot_token", "padding": "pad_token", "unknown": "unk_token"}
    ids = {name: said[f"{key}_token_id"] for key, name in names.items() if f"{key}_token_id" in said}
    if wrong := [name for name, number in ids.items() if number >= len(tokens)]:
        raise InputError(f"{path}: {', '.join(wrong)} lie beyond the {len(tokens)} tokens; fetch it again")
    named = {name: tokens[number] for name, number in ids.items()}
    ends = {"bos_token": said.get("add_bos_token", cut == "llama-bpe"), "eos_token": said.get("add_eos_token", False)}
    around = [named[name] if added and name in named else None for name, added in ends.items()]
    if any(around):
        single = [token for token in (around[0], "$A", around[1]) if token]
        both = [(token, vocabulary[token]) for token in around if token]
        backend.post_processor = library.processors.TemplateProcessing(single=single, special_tokens=both)
    template = fields.get("tokenizer.chat_template")
    return Tokenizer(backend, named, {"default": template} if template else {})
