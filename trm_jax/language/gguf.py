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
    place: Callable[[dict], dict] | None = None,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[decoder.Config, dict, Tokenizer]:
    """(cfg, params, tokenizer) of a file.

    dtype: of plain arrays and of products. keep_blocks: kernels whose layers are all Q8_0, Q4_0 or Q4_1 become leaves
    of `trm_jax.models.quant`. rope_theta: for old files that do not tell it. tokenizer: instead of the file's own.
    place: as for `weights.load`. progress: called with (bytes read, bytes in all). Raises InputError for what is
    missing, left over, of a wrong shape, cut short or not supported, by name.
    """
    fields, tensors = read(path)
    cfg = config(path, fields, tensors, dtype=dtype, rope_theta=rope_theta)
    if tokenizer is None:
        tokenizer = embedded_tokenizer(path, fields)
        note_absent_bytes(tokenizer, say)
    if tokenizer.size > cfg.vocab_size:
        raise InputError(f"{path}: {tokenizer.size} tokens, but token_embd.weight has {cfg.vocab_size} rows")
    return cfg, weights(path, cfg, fields, tensors, keep_blocks, place, progress), tokenizer


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
        if not isinstance(found, int | float):
            raise InputError(f"{path}: {arch}.{key} is {found!r}, which is no number; fetch it again")
        return found

    if value("expert_count", 0):
        raise InputError(f"{path} is a mixture of experts ({arch}.expert_count), which is not supported")
    if value("attention.sliding_window", 0):
        raise InputError(f"{path} has a sliding window ({arch}.attention.sliding_window), which is not supported")
    scaling = fields.get(f"{arch}.rope.scaling.type", "none")
    if scaling not in ("none", "linear"):
        raise InputError(f"{path}: {arch}.rope.scaling.type is {scaling!r}, which is not supported")
    theta = value("rope.freq_base", rope_theta or 0)
    if not theta:
        raise InputError(f"{path} lacks {arch}.rope.freq_base; give it as rope_theta (10000 for Llama 1 and 2)")
    if rope_theta not in (None, theta):
        raise InputError(f"{path}: its {arch}.rope.freq_base is {theta:g}, not {rope_theta:g}; do not give another")

    hidden, heads = value("embedding_length"), value("attention.head_count")
    turned = value("rope.dimension_count", 0)
    head_dim = value("attention.key_length", turned or hidden // max(heads, 1))
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
            rope_theta=theta,
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


def _names(place: str, layers: int) -> list[str]:
    """The tensors that an array of the tree is made of, those of layers in their order."""
    if place in _MODEL_NAMES:
        return [_MODEL_NAMES[place]]
    return [f"blk.{layer}.{_LAYER_NAMES[place.removeprefix('layers/')]}" for layer in range(layers)]


def specs(path: str | Path, cfg: decoder.Config, tensors: dict, keep_blocks: bool = True) -> dict:
    """The declaration of the parameters that a file gives: `decoder.specs`, with leaves where blocks are kept.

    Raises InputError that names the tensors at fault.
    """
    plain, shapes = decoder.specs(cfg), {}
    for key, spec in jax.tree_util.tree_leaves_with_path(plain, is_leaf=is_spec):
        place = path_name(key)
        shape = spec.shape[1:] if place.startswith("layers/") else spec.shape
        shapes |= dict.fromkeys(_names(place, cfg.layers), shape if place == "embed" else shape[::-1])
    _require(path, tensors, shapes)

    def one(key, spec: ParamSpec):
        place = path_name(key)
        kinds = {tensors[name].tensor_type.name for name in _names(place, cfg.layers)}
        linear = place.removeprefix("layers/") in (*quant.LINEARS, "head")
        if not (keep_blocks and linear and len(kinds) == 1 and kinds <= quant.BLOCKS.keys()):
            return spec
        kind, (*lead, inner, out) = quant.BLOCKS[kinds.pop()], spec.shape
        raw = jax.ShapeDtypeStruct((*lead, out, inner // quant.BLOCK * kind.BYTES), jnp.uint8)
        return quant.spec_of(spec, kind(raw))

    return jax.tree_util.tree_map_with_path(one, plain, is_leaf=is_spec)


def weights(
    path: str | Path,
    cfg: decoder.Config,
    fields: dict,
    tensors: dict,
    keep_blocks: bool = True,
    place: Callable[[dict], dict] | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict:
    """The parameters as `specs` declares them. Raises InputError that names the tensors at fault."""
    declared = specs(path, cfg, tensors, keep_blocks)
    lies = jax.tree.map(lambda _: None, declared, is_leaf=is_spec) if place is None else place(declared)
    flat, tree = jax.tree_util.tree_flatten_with_path(declared, is_leaf=is_spec)
    used = {path_name(key).removesuffix("/raw"): spec for key, spec in flat}
    total, done = sum(tensors[name].n_bytes for at in used for name in _names(at, cfg.layers)), 0
    interleaved = {"layers/q": cfg.heads, "layers/k": cfg.kv_heads} if fields["general.architecture"] == "llama" else {}
    found = []
    for (at, spec), where in zip(used.items(), jax.tree.leaves(lies, is_leaf=lambda x: x is None), strict=True):
        stored = [tensors[name] for name in _names(at, cfg.layers)]
        found.append(jax.device_put(_stacked(stored, spec, at, interleaved.get(at)), where))
        done += sum(tensor.n_bytes for tensor in stored)
        progress(done, total)
    return jax.tree.unflatten(tree, found)


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


def _stacked(stored: list, spec: ParamSpec, place: str, heads: int | None) -> np.ndarray:
    """One array from the tensors of its layers, blocks as they are; heads: of those whose halves the file has
    interleaved."""

    def in_order(rows: np.ndarray) -> np.ndarray:
        # Whole rows move, so blocks along a row stay what they are.
        return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape) if heads else rows

    array = np.empty(spec.shape, spec.dtype)
    for target, tensor in zip(array if place.startswith("layers/") else [array], stored, strict=True):
        if spec.kind == "frozen":
            target[...] = in_order(tensor.data)
        else:
            rows = in_order(_rows(tensor))
            target[...] = rows if place == "embed" else rows.T
    return array


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
    try:
        merges = [tuple(merge.split(" ")) for merge in said["merges"]]
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
    if wrong := [name for name, number in ids.items() if number not in range(len(tokens))]:
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
