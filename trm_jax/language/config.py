"""config.json and generation_config.json of a Hugging Face folder, as transformers 4 and 5 spell them.

They say where rotary settings stand in different places, and a reader that knows one spelling falls back in silence to
others' numbers. So both are read, and what stands in neither is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trm_jax.errors import InputError
from trm_jax.models import decoder
from trm_jax.storage.paths import write_whole

CONFIG, GENERATION = "config.json", "generation_config.json"
DTYPES = ("float32", "bfloat16", "float16")
# Settings that change the arithmetic, and the values under which they do not.
NEUTRAL = {
    "hidden_act": ("silu", "swish"),
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_sliding_window": (False,),
    "partial_rotary_factor": (1,),
    "quantization_config": (),
}
_ABSENT = object()


@dataclass(frozen=True)
class Ids:
    """Tokens that begin, end and fill up a text, by the files."""

    bos: int | None
    eos: tuple[int, ...]  # any of them ends a text
    pad: int | None


@dataclass(frozen=True)
class _Said:
    """What a JSON file says, with the file's name for messages."""

    path: Path
    fields: Mapping[str, Any]

    def refuse(self, what: str) -> InputError:
        return InputError(f"{self.path}: {what}")

    def get(self, name: str, kind: type | tuple) -> Any:
        """A field that must be there."""
        value = self.fields.get(name)
        if value is None:
            raise self.refuse(f"{name} is missing; is it the config of a whole model?")
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool) or not (kind is bool or value > 0):
            raise self.refuse(f"{name} is {json.dumps(value)}; it should be {_KINDS[kind]}")
        return value

    def optional(self, name: str, default: Any, kind: type | tuple = int) -> Any:
        return default if self.fields.get(name) is None else self.get(name, kind)

    def one_of(self, *names: str) -> Any:
        """The value of a field with several names, or None. Raises InputError where they differ."""
        there = {name: self.fields[name] for name in names if self.fields.get(name) is not None}
        if len({json.dumps(value, sort_keys=True) for value in there.values()}) > 1:
            said = " and ".join(f"{name} {json.dumps(value)}" for name, value in there.items())
            raise self.refuse(f"{said} contradict each other; remove the wrong one")
        return next(iter(there.values()), None)


_NUMBER = (int, float)
_KINDS = {int: "a positive whole number", _NUMBER: "a positive number", bool: "true or false"}


def _json(path: Path) -> _Said:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; name a folder in Hugging Face's format") from None
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise InputError(f"{path} holds no JSON object")
    return _Said(path, found)


def read(folder: str | Path, *, rope_theta: float | None = None, dtype: str | None = None) -> decoder.Config:
    """The `decoder.Config` of a folder, or of a file that is a config.json by another name.

    rope_theta: for a file without one, as those of Llama 1 and 2 may be (10000). dtype: of weights and products, by
    default the file's. Raises InputError for what the decoder does not do, by its name.
    """
    path = Path(folder)
    said = _json(path / CONFIG if path.is_dir() else path)
    model = said.fields.get("model_type")
    if model not in ("llama", "qwen2", "qwen3"):
        raise said.refuse(f"model_type is {json.dumps(model)}; supported are llama, qwen2 and qwen3")
    for name, fine in NEUTRAL.items():
        value = said.fields.get(name)
        if value is not None and value not in fine:
            raise said.refuse(f"{name} {_short(value)} is not supported{f'; only {fine[0]!r} is' if fine else ''}")
    kinds = said.fields.get("layer_types") or ()
    if not isinstance(kinds, list | tuple) or any(kind != "full_attention" for kind in kinds):
        raise said.refuse(f"layer_types {_short(kinds)} are not supported; only full_attention is")
    kept = said.one_of("dtype", "torch_dtype")
    if dtype is None and kept is not None and kept not in DTYPES:
        raise said.refuse(f"dtype is {_short(kept)}; choose one of {', '.join(DTYPES)} for what is computed")
    hidden, heads = said.get("hidden_size", int), said.get("num_attention_heads", int)
    if said.fields.get("head_dim") is None and hidden % heads:
        raise said.refuse(
            f"hidden_size {hidden} is not divisible by num_attention_heads {heads}, and there is no head_dim"
        )
    theta, scaling = _rope(said, rope_theta)
    try:
        return decoder.Config(
            vocab_size=said.get("vocab_size", int),
            hidden_size=hidden,
            layers=said.get("num_hidden_layers", int),
            heads=heads,
            kv_heads=said.optional("num_key_value_heads", heads),
            head_dim=said.optional("head_dim", hidden // heads),
            inner_size=said.get("intermediate_size", int),
            rope_theta=theta,
            rms_eps=said.get("rms_norm_eps", _NUMBER),
            rope_scaling=scaling,
            tied=said.optional("tie_word_embeddings", False, bool),
            qkv_bias=model == "qwen2",
            qk_norm=model == "qwen3",
            dtype=dtype or kept or "float32",
            context=said.optional("max_position_embeddings", 0),
        )
    except ValueError as error:
        raise said.refuse(str(error)) from None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 80 else f"{text[:76]} ..."


def _rope(said: _Said, given: float | None) -> tuple[float, float | decoder.Llama3Scaling | None]:
    """(theta, scaling): of rope_parameters, of rope_theta and rope_scaling, or of both where they agree."""
    spelled = {name: said.fields[name] for name in ("rope_parameters", "rope_scaling") if name in said.fields}
    for name, value in spelled.items():
        if not isinstance(value, dict | None):
            raise said.refuse(f"{name} is {_short(value)}; it should be an object or null")
    inner = _Said(said.path, spelled.get("rope_parameters") or {})
    thetas = {one.get("rope_theta", _NUMBER) for one in (inner, said) if one.fields.get("rope_theta") is not None}
    if len(thetas) > 1:
        raise said.refuse(f"rope_theta is {' and '.join(f'{x:g}' for x in sorted(thetas))}; remove the wrong one")
    if not thetas and given is None:
        raise said.refuse(
            "it has no rope_theta, and no default is right for all models; give one: 10000 for Llama 1 and 2"
        )
    if thetas and given is not None and given not in thetas:
        raise said.refuse(f"its rope_theta is {thetas.pop():g}, not {given:g}; do not give another")
    scalings = {_scaling(said, value or {}) for name, value in spelled.items() if value or name == "rope_scaling"}
    if len(scalings) > 1:
        raise said.refuse("rope_parameters and rope_scaling contradict each other; remove the wrong one")
    return float(thetas.pop() if thetas else given), scalings.pop() if scalings else None


def _scaling(said: _Said, rope: Mapping) -> float | decoder.Llama3Scaling | None:
    here = _Said(said.path, rope)
    kind = here.one_of("rope_type", "type") or "default"
    if rope.get("partial_rotary_factor") not in (None, 1):
        raise said.refuse(f"partial_rotary_factor {_short(rope['partial_rotary_factor'])} is not supported; only 1 is")
    if kind == "default":
        return None
    if kind == "linear":
        return float(here.get("factor", _NUMBER))
    if kind != "llama3":
        raise said.refuse(f"rope_type {_short(kind)} is not supported; default, linear and llama3 are")
    names = ("factor", "low_freq_factor", "high_freq_factor")
    numbers = [float(here.get(name, _NUMBER)) for name in names]
    original = here.get("original_max_position_embeddings", int)
    try:
        return decoder.Llama3Scaling(*numbers, original)
    except ValueError as error:
        raise said.refuse(str(error)) from None


def ids(folder: str | Path) -> Ids:
    """The special tokens of a folder: generation_config.json's where it is there and names them, else config.json's."""
    said = [_json(Path(folder, CONFIG))]
    if (path := Path(folder, GENERATION)).is_file():
        said.insert(0, _json(path))

    def first(name: str) -> tuple[int, ...]:
        for one in said:
            value = one.fields.get(f"{name}_token_id")
            if value not in (None, -1):  # Llama 1 has -1 for none
                found = value if isinstance(value, list) else [value]
                if not all(isinstance(x, int) and x >= 0 for x in found):
                    raise one.refuse(f"{name}_token_id is {_short(value)}; it should be a token's number, or several")
                return tuple(found)
        return ()

    bos, eos, pad = map(first, ("bos", "eos", "pad"))
    return Ids(bos[0] if bos else None, eos, pad[0] if pad else None)


def write(folder: Path, cfg: decoder.Config, ids: Ids) -> None:
    """Write the config.json of a decoder, which `read` and transformers read.

    Raises InputError for rotary positions that no config.json tells, as those of some GGUF files.
    """
    scaling = cfg.rope_scaling
    if isinstance(scaling, tuple):
        raise InputError("rotary positions with a divisor for each pair have no place in a config.json; load a folder")
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": cfg.rope_theta}
    if isinstance(scaling, decoder.Llama3Scaling):
        factors = {"factor": scaling.factor, "low_freq_factor": scaling.low, "high_freq_factor": scaling.high}
        rope |= {"rope_type": "llama3", **factors, "original_max_position_embeddings": scaling.original}
    elif scaling is not None:
        rope |= {"rope_type": "linear", "factor": scaling}
    model = "qwen3" if cfg.qk_norm else "qwen2" if cfg.qkv_bias else "llama"
    said = {
        "model_type": model,
        "architectures": [f"{model.capitalize()}ForCausalLM"],
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.hidden_size,
        "intermediate_size": cfg.inner_size,
        "num_hidden_layers": cfg.layers,
        "num_attention_heads": cfg.heads,
        "num_key_value_heads": cfg.kv_heads,
        "head_dim": cfg.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": cfg.rms_eps,
        "rope_parameters": rope,
        "tie_word_embeddings": cfg.tied,
        **({"max_position_embeddings": cfg.context} if cfg.context else {}),
        "dtype": cfg.dtype,
        "bos_token_id": ids.bos,
        "eos_token_id": list(ids.eos),
        "pad_token_id": ids.pad,
    }
    write_whole(folder / CONFIG, (json.dumps(said, indent=1) + "\n").encode())
