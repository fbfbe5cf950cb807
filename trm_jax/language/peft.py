"""LoRA adapters as PEFT writes them: a folder with adapter_config.json and adapter_model.safetensors, in and out.

PEFT's matrices are [r, in] and [out, r], a pair for each module; ours are a tree stacked over layers
(`trm_jax.models.lora`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from trm_jax.errors import InputError
from trm_jax.language import weights
from trm_jax.models import decoder, quant
from trm_jax.models.lora import TARGETS, Lora
from trm_jax.models.lora import specs as lora_specs
from trm_jax.storage.paths import AnyPath, as_path, write_whole

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# Settings under which an adapter means something else than W + scale B A on the given base.
REFUSED = (
    "use_dora rank_pattern alpha_pattern modules_to_save fan_in_fan_out lora_bias use_qalora use_bdlora "
    "layer_replication trainable_token_indices target_parameters alora_invocation_tokens arrow_config kasa_config "
    "monteclora_config velora_config"
).split()
CHOICES = ("layers_to_transform", "exclude_modules")  # of modules among the targets
PLAIN_INITS = (None, True, False, "gaussian", "orthogonal", "eva")  # others change the base's weights too
_PREFIX = "base_model.model."
_KEY = re.compile(r"(?P<module>.+?)\.(?:lora_(?:embedding_)?(?P<half>[AB])(?:\.weight)?|(?P<base>base_layer)\.weight)")


def modules(targets: Iterable[str], layers: int) -> dict[str, tuple[str, int]]:
    """Name of each module that an adapter changes, as Hugging Face has it -> (our name, its layer)."""
    return {
        module.removesuffix(".weight"): (name, i)
        for name in targets
        for i, module in enumerate(weights.names_of(name, layers))
    }


def _key(module: str, half: str) -> str:
    return f"{_PREFIX}{module}." + (f"lora_embedding_{half}" if "embed" in module else f"lora_{half}.weight")


def _settings(folder: Path) -> dict:
    path = folder / CONFIG
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a folder that PEFT's save_pretrained wrote")
    try:
        found = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not JSON ({error})") from None
    if not isinstance(found, dict) or found.get("peft_type") != "LORA":
        raise InputError(f"{path}: not an adapter of type LORA; no other is supported")
    wrong = [name for name in REFUSED if found.get(name)]
    wrong += ["bias"] if found.get("bias", "none") != "none" else []
    wrong += [] if found.get("init_lora_weights") in PLAIN_INITS else ["init_lora_weights"]
    if wrong:
        said = ", ".join(f"{name} {json.dumps(found[name])}" for name in wrong)
        raise InputError(f"{path}: {said} is not supported; merge this adapter into its base with PEFT and load that")
    for name in ("r", "lora_alpha"):
        if not isinstance(found.get(name), int | float) or not found[name] > 0:
            raise InputError(f"{path}: {name} is {json.dumps(found.get(name))}; it must be a positive number")
    return found


def _expected(settings: Mapping, known: Mapping) -> set[str]:
    """Modules of which a file must hold a pair; a pattern, or a choice of layers, leaves that to the file."""
    targets = settings.get("target_modules")
    if not isinstance(targets, list) or any(settings.get(x) is not None for x in CHOICES):
        return set()
    return {module for module in known if any(f".{module}".endswith(f".{one}") for one in targets)}


def read(folder: str | Path, cfg: decoder.Config, params: dict) -> tuple[dict, Lora]:
    """(adapter in float32, what it is) of a PEFT folder; cfg, params: the base that it is for.

    Modules of layers that the file leaves out are zeros, which change nothing. Copies of the base's embedding and head
    that PEFT adds must equal the base's. Raises InputError for settings that are not supported, and for tensors
    missing, unknown, of another shape, or cut off.
    """
    settings, path = _settings(Path(folder)), Path(folder, WEIGHTS)
    rank = settings["r"]
    known = modules(TARGETS, cfg.layers)
    pairs: dict[str, dict[str, weights.Tensor]] = {}
    for key, tensor in weights.header(path).items():
        match = _KEY.fullmatch(key.removeprefix(_PREFIX))
        if not key.startswith(_PREFIX) or not match or match["module"] not in known:
            raise InputError(f"{path}: {key} belongs to no module of the base; is the adapter of another model?")
        module = match["module"]
        if match["base"]:
            _require_copy(path, key, tensor, params, known[module][0])
        elif key != _key(module, match["half"]):
            raise InputError(f"{path}: {key} should be {_key(module, match['half'])}")
        else:
            pairs.setdefault(module, {})[match["half"]] = tensor
    for module in sorted(pairs.keys() | _expected(settings, known)):
        for half in "AB":
            if half not in pairs.get(module, {}):
                raise InputError(f"{path}: {_key(module, half)} is missing; the file is not whole")
    if not pairs:
        raise InputError(f"{path} holds no adapter")

    found = {known[module][0] for module in pairs}
    targets = tuple(name for name in TARGETS if name in found)
    lora = Lora(rank, settings["lora_alpha"], targets, bool(settings.get("use_rslora")))
    declared = lora_specs(decoder.specs(cfg), lora)

    def half(module: str, which: str) -> np.ndarray:
        shape = declared[known[module][0]][which.lower()].shape[:-3:-1]
        if module not in pairs:
            return np.zeros(shape[::-1], np.float32)
        tensor = pairs[module][which]
        if tensor.shape != shape or tensor.dtype not in weights.DTYPES:
            said = f"{tensor.dtype} {list(tensor.shape)}"
            raise InputError(f"{path}: {tensor.name} is {said}; base and rank want floats {list(shape)}")
        return tensor.open().astype(np.float32).T

    tree: dict = {name: {"a": [], "b": []} for name in lora.targets}
    for module, (name, _) in modules(targets, cfg.layers).items():
        for which in "AB":
            tree[name][which.lower()].append(half(module, which))
    adapter = {
        name: {which: jnp.asarray(np.stack(x) if name in quant.LINEARS else x[0]) for which, x in pair.items()}
        for name, pair in tree.items()
    }
    return adapter, lora


def _require_copy(path: Path, key: str, tensor: weights.Tensor, params: dict, name: str) -> None:
    if name not in ("embed", "head"):
        raise InputError(f"{path}: {key} is a weight of the base; keep the adapter's tensors alone")
    if name == "head" and quant.is_quantised(params.get("head")):
        raise InputError(f"{path}: {key} cannot be held against quantised weights; keep the adapter's tensors alone")
    base = params["embed"] if name == "embed" or "head" not in params else params["head"].T
    if tensor.dtype not in weights.DTYPES or not np.array_equal(np.asarray(base), tensor.open().astype(base.dtype)):
        raise InputError(f"{path}: {key} differs from the base's; the adapter is of another base, or trained it whole")


def write(folder: str | AnyPath, adapter: dict, lora: Lora, base: str = "") -> None:
    """Write an adapter as a folder that PEFT loads; base: name or path of the model that it is for.

    Modules that are all zeros, as `read` makes of those that a file leaves out, are left out.
    """
    from safetensors.numpy import save

    tensors = {}
    layers = max((len(pair["a"]) for name, pair in adapter.items() if name in quant.LINEARS), default=0)
    for module, (name, layer) in modules(lora.targets, layers).items():
        of_layer = name in quant.LINEARS
        pair = {which: np.asarray(x[layer] if of_layer else x) for which, x in adapter[name].items()}
        if any(x.any() for x in pair.values()):
            tensors |= {_key(module, which.upper()): np.ascontiguousarray(x.T) for which, x in pair.items()}
    whole = len(tensors) == 2 * len(modules(lora.targets, layers))
    settings = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "use_rslora": lora.rslora,
        "target_modules": sorted({module.rpartition(".")[2] for module in modules(lora.targets, 1)})
        if whole
        else "|".join(sorted({re.escape(key.removeprefix(_PREFIX).split(".lora_")[0]) for key in tensors})),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
    }
    folder = as_path(folder)
    write_whole(folder / WEIGHTS, save(tensors, metadata={"format": "pt"}))
    write_whole(folder / CONFIG, (json.dumps(settings, indent=1) + "\n").encode())
