"""Low-rank adapters of a decoder's kernels: y = x w + scale (x a) b. Pure functions over a tree beside the base's.

An adapter is {name of a kernel: {"a" [L, in, r], "b" [L, r, out]}}; "embed" ([V, r], [r, D]) and "head" ([D, r],
[r, V]) have no axis of layers. `decoder.forward` takes (adapter, scale). Many adapters of one shape are one tree with
an axis in front, side by side by `jax.vmap`. Source: Hu et al. 2021; Kalajdzievski 2023 (rsLoRA). Files:
`trm_jax.language.peft`.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from trm_jax.errors import InputError
from trm_jax.models import params as P
from trm_jax.models import quant
from trm_jax.settings import check, number, positive

TARGETS = (*quant.LINEARS, "embed", "head")


@dataclass(frozen=True)
class Lora:
    """What an adapter is besides its numbers."""

    rank: int = number(low=1)
    alpha: float = positive()
    targets: tuple[str, ...] = ("q", "v")
    rslora: bool = False  # scaled by the square root of the rank

    def __post_init__(self):
        check(self, "lora: ")
        if not self.targets or set(self.targets) - set(TARGETS):
            raise InputError(f"lora: targets {', '.join(self.targets) or '(none)'}; choose of {', '.join(TARGETS)}")

    @property
    def scale(self) -> float:
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)


def uniform(bound: float) -> P.Initializer:
    return lambda key, shape, dtype: jax.random.uniform(key, shape, dtype, -bound, bound)


def normal(key, shape, dtype):
    return jax.random.normal(key, shape, dtype)


def specs(base: dict, lora: Lora, dtype: Any = jnp.float32) -> dict:
    """The declaration of an adapter of a decoder that declares itself by `base` (`decoder.specs`).

    `params.init` of it gives an adapter that changes nothing yet.
    """

    def pair(name: str) -> dict:
        if name == "head" and "head" not in base:  # tied: the embedding, turned
            shape, axes = base["embed"].shape[::-1], base["embed"].axes[::-1]
        else:
            spec = base["layers"][name] if name in quant.LINEARS else base[name]
            shape, axes = spec.shape, spec.axes
        *layers, inner, out = shape
        *lead, of_inner, of_out = axes
        if name == "embed":  # an id's row is read, not multiplied: this half is the one that begins with zeros
            begin = {"a": P.constant(0.0), "b": normal}
        else:
            begin = {"a": uniform(1 / math.sqrt(inner)), "b": P.constant(0.0)}
        return {
            "a": P.ParamSpec((*layers, inner, lora.rank), (*lead, of_inner, None), begin["a"], dtype=dtype),
            "b": P.ParamSpec((*layers, lora.rank, out), (*lead, None, of_out), begin["b"], dtype=dtype),
        }

    return {name: pair(name) for name in lora.targets}


def merge(params: dict, cfg: Any, adapter: dict, scale: float) -> tuple[dict, Any]:
    """(parameters with the adapter added to their kernels, the `decoder.Config` that they now have).

    An adapter of embedding or head unties a tied base: one array cannot hold two different sums. Raises InputError for
    quantised kernels, which do not hold the sum.
    """

    def added(name: str, w):
        if name not in adapter:
            return w
        if quant.is_quantised(w):
            raise InputError(f"an adapter cannot be merged into quantised weights ({name}); merge it into plain ones")
        change = jnp.matmul(adapter[name]["a"], adapter[name]["b"], precision=lax.Precision.HIGHEST)
        return (w.astype(jnp.float32) + scale * change).astype(w.dtype)

    if cfg.tied and adapter.keys() & {"embed", "head"}:
        params, cfg = {**params, "head": params["embed"].T}, dataclasses.replace(cfg, tied=False)
    top = {name: added(name, params[name]) for name in ("embed", "head") if name in params}
    layers = {name: added(name, w) for name, w in params["layers"].items()}
    return {**params, **top, "layers": layers}, cfg
