"""The official PyTorch checkpoint format: names, shapes and layouts, there and back bit for bit.

A state dict maps names such as `model.inner.L_level.layers.0.mlp.gate_up_proj.weight` to arrays; linears are stored
[out, in]. Everything here is NumPy: reading a file is `trm_jax.models.convert.torch_files`.
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from trm_jax.errors import InputError
from trm_jax.models import params as P
from trm_jax.models.layers import swiglu_width
from trm_jax.models.trm import TRMConfig, param_specs

COMPILED_PREFIX = "_orig_mod."  # torch.compile adds it
PREFIX = "model.inner."


def _names(cfg: TRMConfig) -> dict[str, tuple[str, bool]]:
    """Our parameter path -> (official name without prefix, whether it is transposed)."""
    names = {
        "weights/embed_tokens": ("embed_tokens.embedding_weight", False),
        "weights/lm_head": ("lm_head.weight", True),
        "weights/q_head/kernel": ("q_head.weight", True),
        "weights/q_head/bias": ("q_head.bias", False),
        "buffers/H_init": ("H_init", False),
        "buffers/L_init": ("L_init", False),
    }
    if cfg.puzzle_emb_ndim:
        names["puzzle_emb"] = ("puzzle_emb.weights", False)
    if cfg.pos_encodings == "learned":
        names["weights/embed_pos"] = ("embed_pos.embedding_weight", False)
    modules = {"mlp": ("mlp", "gate_up", "down"), "mlp_t": ("mlp_t", "gate_up", "down")}
    modules["attn"] = ("self_attn", "qkv", "out")
    projections = {"gate_up": "gate_up_proj", "down": "down_proj", "qkv": "qkv_proj", "out": "o_proj"}
    for i in range(cfg.L_layers):
        for ours in ("mlp_t", "mlp") if cfg.mlp_t else ("attn", "mlp"):
            theirs, *matrices = modules[ours]
            for matrix in matrices:
                official = f"L_level.layers.{i}.{theirs}.{projections[matrix]}.weight"
                names[f"weights/layers/{i}/{ours}/{matrix}"] = (official, True)
    return names


def _strip(name: str) -> str:
    return name.removeprefix(COMPILED_PREFIX).removeprefix(PREFIX)


def prefix_of(state_dict: dict) -> str:
    """The prefix that the names of an official state dict share, to be given back to `export_state_dict`."""
    name = next((n for n in state_dict if n.endswith("H_init")), PREFIX + "H_init")
    return name.removesuffix("H_init")


def import_state_dict(state_dict: dict[str, np.ndarray], cfg: TRMConfig) -> dict:
    """Official state dict -> our params. Raises InputError naming every missing, unknown or misshapen entry.

    So is one whose numbers the model cannot hold exactly (float64) or are not finite. Narrower ones (bfloat16) keep
    their values, and are exported in the model's float32.
    """
    given = {_strip(name): array for name, array in state_dict.items()}
    names = _names(cfg)
    specs = param_specs(cfg)
    problems = []
    known = {official for official, _ in names.values()}
    problems += [f"unknown entry {name}" for name in sorted(set(given) - known)]
    problems += [f"missing entry {name}" for name in sorted(known - set(given))]

    def one(path, spec):
        key = P.path_name(path)
        if key not in names:  # the zero-wide table of a model without puzzle embedding
            return np.zeros(spec.shape, spec.dtype)
        official, transposed = names[key]
        want = spec.shape[::-1] if transposed else spec.shape
        array = given.get(official)
        if array is None:
            return None
        if tuple(array.shape) != tuple(want):
            problems.append(f"{official} has shape {tuple(array.shape)}, the model has {tuple(want)}")
            return None
        if not np.can_cast(array.dtype, spec.dtype):
            kept = np.dtype(spec.dtype).name
            problems.append(f"{official} is {array.dtype}, of which {kept} would lose digits; save it as {kept}")
            return None
        if not np.isfinite(array).all():
            problems.append(f"{official} holds values that are not finite")
            return None
        return np.ascontiguousarray(array.T if transposed else array).astype(spec.dtype)

    params = jax.tree_util.tree_map_with_path(one, specs, is_leaf=lambda x: isinstance(x, P.ParamSpec))
    if problems:
        raise InputError("the state dict does not fit the model: " + "; ".join(problems))
    return params


def export_state_dict(params: dict, cfg: TRMConfig, prefix: str = PREFIX) -> dict[str, np.ndarray]:
    """Our params -> official state dict (NumPy arrays, linears [out, in])."""
    names = _names(cfg)
    out = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        key = P.path_name(path)
        if key in names:
            official, transposed = names[key]
            array = np.asarray(leaf)
            out[prefix + official] = np.ascontiguousarray(array.T if transposed else array)
    return out


def infer_config(state_dict: dict[str, np.ndarray], cfg: TRMConfig) -> TRMConfig:
    """`cfg` with every setting that the arrays themselves tell: sizes, depth, block kind, compute dtype.

    Cycles, heads and rotary or no positions leave no trace in a state dict and are taken from `cfg`.
    """
    given = {_strip(name): array for name, array in state_dict.items()}
    needed = ("embed_tokens.embedding_weight", "H_init", "L_level.layers.0.mlp.gate_up_proj.weight")
    for name in needed:
        if name not in given:
            raise InputError(f"not an official TRM state dict: it has no entry {PREFIX}{name}")
    mixer = "L_level.layers.0.mlp_t.gate_up_proj.weight"
    for name in (*needed, mixer, "embed_pos.embedding_weight", "puzzle_emb.weights"):
        dims = 1 if name == "H_init" else 2
        if name in given and given[name].ndim != dims:
            raise InputError(f"not an official TRM state dict: {name} has shape {given[name].shape}, not {dims} axes")
    vocab, hidden = given["embed_tokens.embedding_weight"].shape
    depth = len({n.split(".")[2] for n in given if n.startswith("L_level.layers.")})
    mlp_t = mixer in given
    learned = "embed_pos.embedding_weight" in given
    total = cfg.total_len
    if mlp_t:
        total = given[mixer].shape[1]
    elif learned:
        total = given["embed_pos.embedding_weight"].shape[0]
    table = given.get("puzzle_emb.weights")
    ids, ndim = table.shape if table is not None else (1, 0)
    positions = "learned" if learned else ("none" if mlp_t or cfg.pos_encodings == "learned" else cfg.pos_encodings)
    emb_len = cfg.puzzle_emb_len if ndim else 0
    projections = ("L_level.layers.0.mlp.gate_up_proj.weight", *[mixer] * mlp_t)
    widths = [(given[name].shape[1], given[name].shape[0] // 2) for name in projections]
    found = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "L_layers": depth,
        "mlp_t": mlp_t,
        "pos_encodings": positions,
        "num_puzzle_ids": ids,
        "puzzle_emb_ndim": ndim,
        "puzzle_emb_len": emb_len,
        "seq_len": total - emb_len,
        "expansion": _infer_expansion(widths, cfg.expansion),
        "dtype": str(given["H_init"].dtype),
    }
    try:
        return dataclasses.replace(cfg, **found)
    except ValueError as error:
        raise InputError(f"the state dict and the settings it does not hold make no model: {error}") from None


def _infer_expansion(widths: list[tuple[int, int]], expansion: float) -> float:
    """`expansion` where it gives the inner widths found, of (outer, inner); else the largest that does not exceed them.

    Widths are rounded up to 256, so several do.
    """
    if all(swiglu_width(outer, expansion) == inner for outer, inner in widths):
        return expansion
    return min(inner * 3 / (2 * outer) for outer, inner in widths)
