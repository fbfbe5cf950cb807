"""One declaration per array: shape, logical axes, initialiser, kind and dtype, used many ways.

A model is a nested dict of `ParamSpec`. From it come the initial values (`init`), the abstract shapes (`abstract`), the
shardings (`trm_jax.sharding`), the optimiser of each array (`trm_jax.optim`) and the counts (`count`).
"""

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct

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


# What the optimiser does with an array: the first five are trained by gradient (`id_embedding` has a row for each id of
# a puzzle), `rows` are a table of which few rows have a gradient at a time, `frozen` is not trained.
KINDS = ("matrix", "embedding", "id_embedding", "head", "vector", "rows", "frozen")


@dataclass(frozen=True)
class ParamSpec:
    """Declaration of one array: `shape`, a logical axis name (or None) per dimension, how it begins and is trained."""

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    init: Initializer
    kind: str = "matrix"
    dtype: Any = jnp.float32
    decay: float = 1.0  # share of the optimiser's weight decay
    unit: int = 1  # so many neighbours along the last axis lie on one device

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ValueError(f"kind {self.kind!r} is not one of {', '.join(KINDS)}")
        if len(self.shape) != len(self.axes):
            raise ValueError(f"{len(self.shape)} dimensions but {len(self.axes)} axis names: {self}")


def is_spec(x) -> bool:
    return isinstance(x, ParamSpec)


def path_name(path) -> str:
    """'weights/layers/0/mlp/down' for a key path of `jax.tree_util`."""
    return "/".join(str(getattr(p, "key", getattr(p, "name", getattr(p, "idx", p)))) for p in path)


def init(specs, key: jax.Array):
    """Initial values. Each key is folded from the parameter's name, so adding one changes no other."""

    def one(path, spec: ParamSpec):
        name_hash = zlib.crc32(path_name(path).encode())
        return spec.init(jax.random.fold_in(key, name_hash), spec.shape, spec.dtype)

    return jax.tree_util.tree_map_with_path(one, specs, is_leaf=is_spec)


def abstract(specs):
    """`jax.ShapeDtypeStruct` per parameter."""
    return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), specs, is_leaf=is_spec)


def count(tree) -> int:
    """Number of scalars in a tree of specs, abstract values or arrays."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree, is_leaf=is_spec))


TABLE_ROWS = 256  # a table of so many rows or more is padded to a multiple of this, which every mesh divides


def table_rows(ids: int) -> int:
    """Rows of a table for so many ids: padded where a mesh shares it, however many devices there are."""
    return ids if ids < TABLE_ROWS else -(-ids // TABLE_ROWS) * TABLE_ROWS


@struct.dataclass
class Lookup:
    """A table in training: the gradient by the rows that were looked up is that by `delta`, as large as they are.

    A gradient by the table itself would be as large as the table.
    """

    table: jax.Array  # [N, E]
    delta: jax.Array  # [B, E] zeros


def look_up(table: jax.Array | Lookup, ids: jax.Array) -> jax.Array:
    """Rows [B, E] of a table of kind `rows` at ids [B]."""
    if isinstance(table, Lookup):
        return jnp.take(jax.lax.stop_gradient(table.table), ids, axis=0) + table.delta
    return jnp.take(table, ids, axis=0)
