"""Weights of Hugging Face folders: safetensors, single or sharded, as the tree of `trm_jax.models.decoder`.

Files are memory-mapped. A process reads the slices that its devices hold and no others, and casts while it reads.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.errors import InputError
from trm_jax.models import decoder, quant
from trm_jax.models.params import is_spec
from trm_jax.storage.paths import replacement

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": jnp.bfloat16}
# Our name of an array -> its module in a file; those of layers stand in model.layers.N.
TOP = {"embed": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
OF_LAYERS = {
    "attn_norm": "input_layernorm",
    "mlp_norm": "post_attention_layernorm",
    **{name: f"self_attn.{name}_proj" for name in "qkvo"},
    **{name: f"self_attn.{name}" for name in ("q_norm", "k_norm")},
    **{name: f"mlp.{name}_proj" for name in ("gate", "up", "down")},
}
_SHOWN = 3  # names in a message


@dataclass(frozen=True)
class Tensor:
    """A tensor in a file."""

    path: Path
    name: str
    dtype: str
    shape: tuple[int, ...]
    start: int  # its first byte in the file

    def open(self) -> np.ndarray:
        """[out, in] or [n], memory-mapped."""
        return np.memmap(self.path, DTYPES[self.dtype], "r", self.start, self.shape)


def names_of(name: str, layers: int) -> list[str]:
    """The tensors in a file that an array of the tree is made of, those of layers in their order."""
    if name in TOP:
        return [f"{TOP[name]}.weight"]
    module, kind = (OF_LAYERS[name[0]], "bias") if name.endswith("_bias") else (OF_LAYERS[name], "weight")
    return [f"model.layers.{i}.{module}.{kind}" for i in range(layers)]


def header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, without reading them. Raises InputError if the file is not whole."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            said = json.loads(file.read(length)) if 8 + length <= size else None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from None
    except ValueError:
        raise InputError(f"{path} is not a safetensors file") from None
    if not isinstance(said, dict):
        raise InputError(f"{path} is cut off in its header, or is not a safetensors file; copy it again")
    found = {}
    for name, one in said.items():
        if name == "__metadata__":
            continue
        try:
            (start, end), shape, dtype = map(int, one["data_offsets"]), tuple(map(int, one["shape"])), str(one["dtype"])
        except (KeyError, TypeError, ValueError, OverflowError):
            raise InputError(f"{path} is not a safetensors file: its header says nothing of {name}") from None
        if 8 + length + end > size:
            raise InputError(f"{path} is cut off: {name} ends at byte {8 + length + end} of {size}; copy it again")
        if dtype in DTYPES and end - start != math.prod(shape) * np.dtype(DTYPES[dtype]).itemsize:
            raise InputError(f"{path}: {name} has {end - start} bytes, which are not {list(shape)} of {dtype}")
        found[name] = Tensor(path, name, dtype, shape, 8 + length + start)
    return found


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder by name: of model.safetensors, or of the files that its index lists."""
    if (folder / SINGLE).is_file():
        return header(folder / SINGLE)
    index = folder / INDEX
    if not index.is_file():
        raise InputError(f"{folder} has neither {SINGLE} nor {INDEX}; name a folder with weights as safetensors")
    try:
        listed = {name: str(file) for name, file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{index} is not an index of safetensors files: it has no weight_map") from None
    found = {}
    for file in sorted(set(listed.values())):
        if not (folder / file).is_file():
            some = next(name for name, where in listed.items() if where == file)
            raise InputError(f"{folder / file} is not there, but {INDEX} lists it, for {some} and others; fetch it")
        found |= {name: one for name, one in header(folder / file).items() if listed.get(name, file) == file}
    for name, file in listed.items():
        if name not in found:
            raise InputError(f"{folder / file} has no tensor {name}, but {INDEX} says so; fetch both again")
    return found


def _some(names: Iterable[str]) -> str:
    names = sorted(names)
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _check(folder: str | Path, cfg: decoder.Config, tensors: Mapping[str, Tensor], wanted: Mapping[str, tuple]) -> None:
    """Raise InputError unless the folder has the wanted tensors (name -> shape) and no others."""
    extra = {name for name in tensors.keys() - wanted.keys() if not name.endswith(".rotary_emb.inv_freq")}
    head, embedding = (f"{TOP[name]}.weight" for name in ("head", "embed"))
    redundant = cfg.tied and head in extra
    if missing := wanted.keys() - tensors.keys():
        raise InputError(f"{folder}: tensors are missing: {_some(missing)}; are config and weights of one model?")
    if extra := extra - {head} if redundant else extra:
        raise InputError(
            f"{folder}: tensors have no place in the model: {_some(extra)}; are config and weights of one?"
        )
    for name, shape in wanted.items():
        tensor = tensors[name]
        if tensor.dtype not in DTYPES:
            raise InputError(f"{tensor.path}: {name} is {tensor.dtype}; supported are {', '.join(DTYPES)}")
        if tensor.shape != shape:
            raise InputError(f"{tensor.path}: {name} is {list(tensor.shape)}, but the config makes it {list(shape)}")
    if redundant and not _equal(tensors[head], tensors[embedding]):
        raise InputError(
            f"{folder}: {head} differs from {embedding}, but the config says tie_word_embeddings; one is wrong"
        )


def _equal(one: Tensor, other: Tensor) -> bool:
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    rows = 4096  # at a time: a comparison of whole files would take as much memory
    a, b = one.open(), other.open()
    return all(np.array_equal(a[i : i + rows], b[i : i + rows]) for i in range(0, len(a), rows))


def _part(tensors: list[Tensor], spec: Any, stacked: bool, index: tuple[slice, ...]) -> np.ndarray:
    """The part `index` of an array of the tree, of the tensors that it is made of; kernels turned to [in, out]."""
    spans = [s.indices(size) for s, size in zip(index, spec.shape, strict=True)]
    out = np.empty([stop - start for start, stop, _ in spans], spec.dtype)
    layers, inner = (range(*spans[0]), index[1:]) if stacked else ((0,), index)
    turned = spec.kind in ("matrix", "head")
    for to, layer in zip(out if stacked else (out,), layers, strict=True):
        tensor = tensors[layer].open()
        to[...] = tensor[inner[::-1]].T if turned else tensor[inner]
    return out


def load(
    folder: str | Path,
    cfg: decoder.Config,
    place: Callable[[dict], dict] | None = None,
    *,
    quantise: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict:
    """The parameters of a folder in cfg's dtype, as `decoder.specs(cfg)` declares them.

    place: from the declaration of what is given back to its shardings (`trm_jax.sharding.shardings` of a mesh and its
    rules); without, all lies on the first device. quantise: how each kernel of the layers is quantised as soon as it is
    there (`trm_jax.models.quant`). progress is called with the numbers done and in all. Raises InputError, in one line,
    for tensors that are missing, of no use, of another shape, or cut off.
    """
    specs = decoder.specs(cfg)
    given = quant.specs(specs, quantise) if quantise else specs
    flat, tree = jax.tree_util.tree_flatten_with_path(specs, is_leaf=is_spec)
    first = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    laid = jax.tree.map(lambda _: first, given, is_leaf=is_spec) if place is None else place(given)
    places = jax.tree.leaves(laid, is_leaf=quant.is_quantised)
    names = [names_of(path[-1].key, cfg.layers) for path, _ in flat]
    tensors = tensors_of(Path(folder))
    wanted = {}
    for (path, spec), some in zip(flat, names, strict=True):
        shape = spec.shape[len(path) - 1 :]
        wanted |= dict.fromkeys(some, shape[::-1] if spec.kind in ("matrix", "head") else shape)
    _check(folder, cfg, tensors, wanted)

    done, total = 0, sum(math.prod(spec.shape) for _, spec in flat)
    found = []
    for (path, spec), some, lies in zip(flat, names, places, strict=True):
        read = _once(partial(_part, [tensors[name] for name in some], spec, len(path) > 1))
        leaf = jax.make_array_from_callback(spec.shape, quant.of_kernel(lies), read)
        if quant.is_quantised(lies):
            leaf = quantised(leaf, quantise, lies)
        found.append(leaf)
        done += math.prod(spec.shape)
        if progress:
            progress(done, total)
    return jax.tree.unflatten(tree, found)


def save(folder: Path, cfg: decoder.Config, params: dict) -> None:
    """Write parameters as the model.safetensors of a folder, in cfg's dtype; they are those of `decoder.specs(cfg)`."""
    from safetensors.numpy import save_file

    tensors = {}
    for path, spec in jax.tree_util.tree_leaves_with_path(decoder.specs(cfg), is_leaf=is_spec):
        array = np.asarray(params["layers"][path[-1].key] if len(path) > 1 else params[path[-1].key], spec.dtype)
        for name, part in zip(names_of(path[-1].key, cfg.layers), array if len(path) > 1 else [array], strict=True):
            tensors[name] = np.ascontiguousarray(part.T if spec.kind in ("matrix", "head") else part)
    with replacement(folder / SINGLE) as new:
        save_file(tensors, new, metadata={"format": "pt"})


def _once(read: Callable) -> Callable:
    """`read`, for devices that hold the same part once."""
    parts: dict = {}

    def of(index):
        key = tuple((s.start, s.stop) for s in index)
        if key not in parts:
            parts[key] = read(index)
        return parts[key]

    return of


def quantised(kernels: jax.Array, how: str, lies: quant.Leaf | None = None) -> quant.Leaf:
    """Kernels [L, in, out] as a leaf of `trm_jax.models.quant`; lies: the shardings of its arrays."""
    return _quantising(how, lies)(kernels)


@functools.cache
def _quantising(how: str, lies: quant.Leaf | None) -> Callable[[jax.Array], quant.Leaf]:
    # Layer by layer: numbers in between are float32, of all layers at once they would be larger than the model.
    return jax.jit(lambda kernels: jax.lax.map(partial(quant.quantise, how=how), kernels), out_shardings=lies)
