"""The official PyTorch checkpoint format: names, shapes and layouts, there and back bit for bit.

A state dict maps names such as `model.inner.L_level.layers.0.mlp.gate_up_proj.weight` to arrays; linears are stored
[out, in]. Everything here is NumPy; only torch's own files need the torch extra, safetensors do not. `family` is TRM or
another of deep supervision, whose LATENTS and STACKS say its names.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.errors import InputError
from trm_jax.models import params as P
from trm_jax.models import trm
from trm_jax.models.layers import swiglu_width
from trm_jax.models.trm import TRMConfig
from trm_jax.storage.paths import AnyPath, local_copy, write_whole

PREFIX = "model.inner."
_NAMES = {
    "weights/embed_tokens": "embed_tokens.embedding_weight",
    "weights/embed_pos": "embed_pos.embedding_weight",
    "weights/lm_head": "lm_head.weight",
    "weights/q_head/kernel": "q_head.weight",
    "weights/q_head/bias": "q_head.bias",
    "puzzle_emb": "puzzle_emb.weights",
}
_NAMES_IN_A_LAYER = {
    "mlp/gate_up": "mlp.gate_up_proj.weight",
    "mlp/down": "mlp.down_proj.weight",
    "mlp_t/gate_up": "mlp_t.gate_up_proj.weight",
    "mlp_t/down": "mlp_t.down_proj.weight",
    "attn/qkv": "self_attn.qkv_proj.weight",
    "attn/out": "self_attn.o_proj.weight",
    "mlp/dwconv/kernel": "mlp.dwconv.weight",
    "mlp/dwconv/bias": "mlp.dwconv.bias",
}


def _check_known(family) -> None:
    if not getattr(family, "STACKS", {}):
        raise InputError(f"a model of the family {_called(family)} has no official format: import and export need one")


def _official(path, family=trm) -> str:
    """Our parameter path -> official name without prefix."""
    name = P.path_name(path)
    if name in _NAMES:
        return _NAMES[name]
    section, net, *rest = name.split("/", 3)
    if section == "buffers":
        return net
    layer, matrix = rest
    return f"{family.STACKS[net][0]}.{layer}.{_NAMES_IN_A_LAYER[matrix]}"


def _layout(official: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """The official shape of ours. Linears are [out, in] there; ours has the input axis first, and several of output."""
    if not official.endswith(".weight"):
        return shape
    out = math.prod(shape[1:])
    return (out, 1, shape[0]) if official.endswith("dwconv.weight") else (out, shape[0])


def _mark(family) -> str:
    """An entry by which a state dict of the family is known."""
    return next(iter(family.LATENTS.values())) or _NAMES["weights/embed_tokens"]


def _called(family) -> str:
    return family.Config.__name__.removesuffix("Config")


def _state_dicts(loaded: Mapping, mark: str, where: str = "") -> Iterator[tuple[str, dict]]:
    """(what stands before its names, bare name -> array) of each state dict in nested dicts."""
    arrays = {str(name): value for name, value in loaded.items() if hasattr(value, "shape")}
    prefixes = tuple(n.removesuffix(mark) for n in arrays if n == mark or n.endswith(f".{mark}"))
    others = {name: array for name, array in arrays.items() if not name.startswith(prefixes)}
    for prefix in prefixes:
        own = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        yield where + prefix, own | others  # others are unknown entries, and told as such
    for name, value in loaded.items():
        if isinstance(value, Mapping):
            yield from _state_dicts(value, mark, f"{where}{name}.")


def unwrap(loaded: Mapping, key: str = "", family=trm) -> tuple[dict[str, np.ndarray], str]:
    """(bare official name -> array, what stood before the names) of the state dict in what a file holds.

    Found in dicts as training programs write them ({"model": ..., "step": ...}) and behind any prefix (`module.`,
    `_orig_mod.`). key: the place of the one that is meant, where there are several ("ema").
    Raises InputError, which names the places, when there is none or more than one.
    """
    _check_known(family)
    mark = _mark(family)
    found = dict(_state_dicts(loaded, mark))
    if not found:
        listed = ", ".join(map(str, list(loaded)[:5])) or "nothing"
        raise InputError(f"not an official {_called(family)} state dict: no entry {mark}; there are {listed}")
    meant = [place for place in found if not key or f"{place}.".startswith(f"{key}.")]
    if len(meant) == 1:
        return found[meant[0]], meant[0]
    places = ", ".join(place.removesuffix(".") for place in found)
    raise InputError(f"there are state dicts under {places}: choose one with --key (the beginning is enough)")


def import_state_dict(state_dict: Mapping, cfg: TRMConfig, family=trm) -> dict:
    """Official state dict, wrapped or bare -> our params. Raises InputError naming missing, unknown and misshapen
    entries.

    So is one whose numbers the model cannot hold exactly (float64) or are not finite. Narrower ones (bfloat16) keep
    their values, and are exported in the model's float32.
    """
    given, _ = unwrap(state_dict, family=family)
    problems, known = [], set()

    def one(path, spec):
        official = _official(path, family)
        known.add(official)
        want = _layout(official, tuple(spec.shape))
        if spec.kind == "rows":  # ours is padded
            want = (cfg.num_puzzle_ids, *want[1:])
        array = given.get(official)
        if array is None:
            problems.append(f"missing entry {official}")
        elif tuple(array.shape) != want:
            problems.append(f"{official} has shape {tuple(array.shape)}, the model has {want}")
        elif not np.can_cast(array.dtype, spec.dtype):
            kept = np.dtype(spec.dtype).name
            problems.append(f"{official} is {array.dtype}, of which {kept} would lose digits; save it as {kept}")
        elif not np.isfinite(array).all():
            problems.append(f"{official} holds values that are not finite")
        else:
            ours = array.T.reshape(spec.shape) if official.endswith(".weight") else array
            if spec.kind == "rows":
                ours = np.pad(ours, ((0, spec.shape[0] - len(ours)), (0, 0)))
            return np.ascontiguousarray(ours).astype(spec.dtype)
        return None

    params = jax.tree_util.tree_map_with_path(one, family.specs(cfg), is_leaf=P.is_spec)
    problems += [f"unknown entry {name}" for name in sorted(set(given) - known)]
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise InputError("the state dict does not fit the model: " + "; ".join(problems[:8]) + more)
    return params


def export_state_dict(
    params: dict, prefix: str = PREFIX, *, ids: int | None = None, family=trm
) -> dict[str, np.ndarray]:
    """Our params -> official state dict (NumPy arrays, linears [out, in]). ids: rows of the table, which is padded."""
    _check_known(family)
    out = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        array, official = np.asarray(leaf), _official(path, family)
        theirs = array.reshape(len(array), -1).T if official.endswith(".weight") else array
        theirs = theirs.reshape(_layout(official, array.shape))
        out[prefix + official] = np.ascontiguousarray(theirs[:ids] if official == _NAMES["puzzle_emb"] else theirs)
    return out


def infer_config(state_dict: Mapping, cfg: TRMConfig, family=trm) -> TRMConfig:
    """`cfg` with every setting that the arrays themselves tell: sizes, depth, block kind, compute dtype.

    Cycles, heads and rotary or no positions leave no trace in a state dict and are taken from `cfg`.
    """
    given, _ = unwrap(state_dict, family=family)
    embed, learned, table = "embed_tokens.embedding_weight", "embed_pos.embedding_weight", "puzzle_emb.weights"
    first, mark = next(iter(family.STACKS.values()))[0], _mark(family)
    mlp, mixer = (f"{first}.0.{name}.gate_up_proj.weight" for name in ("mlp", "mlp_t"))
    shapes = {name: given[name].shape for name in (mixer, learned, table) if name in given}
    shapes |= {name: given[name].shape if name in given else () for name in (embed, mlp)}
    for name, shape in shapes.items():
        if len(shape) != 2:
            said = f"{PREFIX}{name} is missing or has other than two axes"
            raise InputError(f"not an official {_called(family)} state dict: {said}")
    mlp_t, total = mixer in given, cfg.total_len
    if mlp_t:
        total = shapes[mixer][1]
    elif learned in given:
        total = shapes[learned][0]
    positions = "none" if mlp_t or cfg.pos_encodings == "learned" else cfg.pos_encodings
    ids, ndim = shapes.get(table, (1, 0))
    emb_len = cfg.puzzle_emb_len if ndim else 0
    expansion, projections = cfg.expansion, [shapes[name] for name in (mlp, mixer) if name in shapes]
    if any(2 * swiglu_width(outer, expansion) != inner for inner, outer in projections):
        # Widths are rounded up to 256, so several fit; this is the largest that does not exceed them.
        expansion = min(inner * 3 / (4 * outer) for inner, outer in projections)
    found = {
        "vocab_size": shapes[embed][0],
        "hidden_size": shapes[embed][1],
        **{
            setting: len({n.removeprefix(f"{name}.").split(".")[0] for n in given if n.startswith(f"{name}.")})
            for name, setting in family.STACKS.values()
        },
        "mlp_t": mlp_t,
        "pos_encodings": "learned" if learned in given else positions,
        "num_puzzle_ids": ids,
        "puzzle_emb_ndim": ndim,
        "puzzle_emb_len": emb_len,
        "seq_len": total - emb_len,
        "expansion": expansion,
        "dtype": str(given[mark].dtype) if mark in family.LATENTS.values() else cfg.dtype,
    }
    settings = {f.name for f in dataclasses.fields(cfg)}  # some families have constants in place of some
    try:
        return dataclasses.replace(cfg, **{name: value for name, value in found.items() if name in settings})
    except ValueError as error:
        raise InputError(f"the state dict and the settings it does not hold make no model: {error}") from None


def _torch():
    try:
        import torch
    except ModuleNotFoundError:
        raise InputError("torch files need PyTorch: pip install 'trm_jax[torch]', or use a .safetensors file") from None
    return torch


def read(path: AnyPath) -> dict:
    """Name -> array or, as training programs save it, nested dicts of arrays and of other things.

    `.safetensors` files are told by their ending, everything else is a torch file. bfloat16 stays bfloat16. Torch files
    are read with `weights_only`, so nothing in them is executed.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; name a file of weights")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            with local_copy(path) as file:
                return load_file(file)
        except SafetensorError as error:
            raise InputError(f"{path} is not a safetensors file ({error})") from None
    torch = _torch()
    content = io.BytesIO(path.read_bytes())
    try:
        loaded = dict(torch.load(content, map_location="cpu", weights_only=True))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(
            f"{path} is not a torch state dict ({reason}); save the weights alone: torch.save(model.state_dict(), FILE)"
        ) from None
    return _to_numpy(torch, loaded)


def _to_numpy(torch, value):
    """Tensors in nested dicts as arrays; anything else as it is."""
    if isinstance(value, dict):
        return {name: _to_numpy(torch, inner) for name, inner in value.items()}
    if not isinstance(value, torch.Tensor):
        return value
    tensor = value.detach().contiguous()
    if tensor.dtype == torch.bfloat16:  # NumPy has none of its own: move the bits
        return tensor.view(torch.int16).numpy().view(jnp.bfloat16)
    return tensor.numpy()


def write(path: AnyPath, state_dict: dict[str, np.ndarray]) -> None:
    """Write a state dict in the format of the file's ending: .safetensors, or .pt / .pth for torch."""
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        content = save(state_dict)
    elif path.suffix in (".pt", ".pth"):
        torch = _torch()

        def tensor(array: np.ndarray):
            if array.dtype == jnp.bfloat16:
                return torch.tensor(array.view(np.int16)).view(torch.bfloat16)
            return torch.tensor(array)

        buffer = io.BytesIO()  # to a file torch writes with errors of its own that name no cause
        torch.save({name: tensor(array) for name, array in state_dict.items()}, buffer)
        content = buffer.getvalue()
    else:
        raise InputError(f"{path}: the file's ending must be .safetensors, .pt or .pth")
    write_whole(path, content)
