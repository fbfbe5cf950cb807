"""One declaration per parameter: shape, logical axes, initialiser and dtype, used many ways.

A model is a nested dict of `ParamSpec`. From it come the initial values (`init`), the abstract shapes
(`abstract`), the logical axes from which shardings are made (`logical_axes`) and the counts (`count`).
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]

# Standard deviation of a standard normal truncated to [-2, 2]; dividing by it restores the asked one.
_TRUNCATED_STD = 0.87962566103423978


def truncated_normal(std: float) -> Initializer:
    """Normal truncated at two deviations, rescaled so that the result's deviation really is `std`."""

    def init(key, shape, dtype):
        draw = jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32)
        return (draw * (std / _TRUNCATED_STD)).astype(dtype)

    return init


def constant(value: float) -> Initializer:
    return lambda key, shape, dtype: jnp.full(shape, value, dtype)


@dataclass(frozen=True)
class ParamSpec:
    """Declaration of one array: `shape`, one logical axis name (or None) per dimension, `init`, `dtype`."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Initializer
    dtype: Any = jnp.float32

    def __post_init__(self):
        if len(self.shape) != len(self.axes):
            raise ValueError(f"{len(self.shape)} dimensions but {len(self.axes)} axis names: {self}")


def _is_spec(x) -> bool:
    return isinstance(x, ParamSpec)


def _map(fn, specs):
    return jax.tree.map(fn, specs, is_leaf=_is_spec)


def path_name(path) -> str:
    """'weights/layers/0/mlp/down' for a key path of `jax.tree_util`."""
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def init(specs, key: jax.Array):
    """Initial values. Each key is folded from the parameter's name, so adding one changes no other."""

    def one(path, spec: ParamSpec):
        name_hash = zlib.crc32(path_name(path).encode())
        return spec.init(jax.random.fold_in(key, name_hash), spec.shape, spec.dtype)

    return jax.tree_util.tree_map_with_path(one, specs, is_leaf=_is_spec)


def abstract(specs):
    """`jax.ShapeDtypeStruct` per parameter."""
    return _map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), specs)


def logical_axes(specs):
    """Tuple of logical axis names per parameter; `trm_jax.sharding.Rules` turns them into mesh axes."""
    return _map(lambda s: s.axes, specs)


def count(tree) -> int:
    """Number of scalars in a tree of specs, abstract values or arrays."""
    leaves = jax.tree.leaves(tree, is_leaf=_is_spec)
    total = 0
    for leaf in leaves:
        size = 1
        for dim in leaf.shape:
            size *= dim
        total += size
    return total
