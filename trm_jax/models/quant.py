"""Weights of linear layers in 8 or 4 bits, of which a product makes numbers of the compute dtype where it reads them.

A kernel is [..., in, out], as everywhere in this library; a quantised leaf stands in its place and keeps its arrays
[..., out, in], as files have them. Leading axes (layers) are scanned like those of any array. A leaf is one of

- `Int8`: whole numbers up to 127, a scale for each output row;
- `Int4`: two in a byte, a scale for each group along `in`, and with `minimum` the least value of the group;
- `Q8_0`, `Q4_0`, `Q4_1`: blocks of 32 as a GGUF file has them, byte for byte.

Nothing here is trained: gradients pass to the activations only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax

from trm_jax.errors import InputError
from trm_jax.models import layers
from trm_jax.models import params as P

LINEARS = ("q", "k", "v", "o", "gate", "up", "down")  # what is quantised; embedding, head and norms stay

# How a kernel is quantised: group along `in` (None: the whole row), dtype of what is stored beside the codes. A least
# value needs the digits of float16: the next bfloat16 may be several steps away.
KINDS: dict[str, tuple[int | None, Any]] = {
    "int8": (None, jnp.bfloat16),
    "int4": (64, jnp.bfloat16),
    "int4-min": (32, jnp.float16),
}


@struct.dataclass
class Int8:
    """w = codes * scale, for each output row."""

    codes: jax.Array  # [..., out, in] int8
    scale: jax.Array  # [..., out]

    def rows(self) -> jax.Array:
        """[..., out, in] float32."""
        return self.codes * self.scale.astype(jnp.float32)[..., None]


@struct.dataclass
class Int4:
    """w = code * scale [+ minimum] for each group along `in`; codes -7..7 in two's complement, 0..15 with a minimum.

    Byte j holds code 2j in its low half and code 2j + 1 in its high one.
    """

    packed: jax.Array  # [..., out, in / 2] uint8
    scale: jax.Array  # [..., out, in / group]
    minimum: jax.Array | None = None  # as scale

    def rows(self) -> jax.Array:
        """[..., out, in] float32."""
        codes = jnp.stack([self.packed & 15, self.packed >> 4], -1).reshape(*self.scale.shape, -1)
        if self.minimum is None:
            values = ((codes ^ 8).astype(jnp.float32) - 8) * self.scale.astype(jnp.float32)[..., None]
        else:
            values = codes * self.scale.astype(jnp.float32)[..., None] + self.minimum.astype(jnp.float32)[..., None]
        return values.reshape(*values.shape[:-2], -1)


def _float16(raw: jax.Array) -> jax.Array:
    """[..., 1] float32 from two bytes [..., 2]."""
    return lax.bitcast_convert_type(raw, jnp.float16).astype(jnp.float32)[..., None]


@struct.dataclass
class Blocks:
    """Blocks of 32 values along `in` as a GGUF file has them."""

    raw: jax.Array  # [..., out, in / 32 * BYTES] uint8
    BYTES: ClassVar[int]

    @staticmethod
    def values(block: jax.Array) -> jax.Array:
        """[..., 32] float32 of bytes [..., BYTES]."""
        raise NotImplementedError

    def rows(self) -> jax.Array:
        """[..., out, in] float32."""
        lead = self.raw.shape[:-1]
        return self.values(self.raw.reshape(*lead, -1, self.BYTES)).reshape(*lead, -1)


def _halves(packed: jax.Array) -> jax.Array:
    """[..., 32] float32: the low halves of 16 bytes, then the high ones."""
    return jnp.concatenate([packed & 15, packed >> 4], -1).astype(jnp.float32)


@struct.dataclass
class Q8_0(Blocks):  # noqa: N801 - the file format's name
    BYTES = 34

    @staticmethod
    def values(block):
        return _float16(block[..., :2]) * lax.bitcast_convert_type(block[..., 2:], jnp.int8)


@struct.dataclass
class Q4_0(Blocks):  # noqa: N801
    BYTES = 18

    @staticmethod
    def values(block):
        return _float16(block[..., :2]) * (_halves(block[..., 2:]) - 8)


@struct.dataclass
class Q4_1(Blocks):  # noqa: N801
    BYTES = 20

    @staticmethod
    def values(block):
        return _float16(block[..., :2]) * _halves(block[..., 4:]) + _float16(block[..., 2:4])


BLOCK = 32  # values of each
BLOCKS = {kind.__name__: kind for kind in (Q8_0, Q4_0, Q4_1)}
Leaf = Int8 | Int4 | Blocks


def is_quantised(w) -> bool:
    return isinstance(w, Leaf)


def _stored(span: jax.Array, steps: int, dtype) -> tuple[jax.Array, jax.Array]:
    """(span / steps as stored, the same in float32): codes are counted in steps of what is stored, and none is 0."""
    stored = (span / steps).astype(dtype)
    stored = jnp.where(stored == 0, jnp.ones_like(stored), stored)
    return stored, stored.astype(jnp.float32)


def _pack(codes: jax.Array) -> jax.Array:
    pairs = codes.astype(jnp.uint8).reshape(*codes.shape[:-1], -1, 2)
    return (pairs[..., 0] & 15) | (pairs[..., 1] << 4)


def quantise(w: jax.Array, how: str, group: int | None = None, dtype: Any = None) -> Int8 | Int4:
    """A kernel w [..., in, out] as a leaf: every weight within half a step of what it was.

    how: of `KINDS`, whose group and dtype of the scales hold where none is given. Codes are rounded half to even.
    Raises InputError for what is quantised already, a group that does not divide `in`, an unknown `how`.
    """
    if is_quantised(w):
        raise InputError(
            f"the weights are quantised already ({type(w).__name__}); load a file of plain ones, or do without"
        )
    if how not in KINDS:
        raise InputError(f"no quantisation {how!r}; choose one of {', '.join(KINDS)}")
    size = w.shape[-2]
    group, dtype = group or KINDS[how][0] or size, dtype or KINDS[how][1]
    if size % group or (how != "int8" and group % 2):
        raise InputError(f"{how}: a group of {group} does not divide {size} inputs into even parts; choose another")
    rows = jnp.swapaxes(w, -1, -2).astype(jnp.float32)
    if how == "int8":
        scale, step = _stored(jnp.max(jnp.abs(rows), -1), 127, dtype)
        return Int8(jnp.clip(jnp.round(rows / step[..., None]), -127, 127).astype(jnp.int8), scale)
    groups = rows.reshape(*rows.shape[:-1], -1, group)
    if how == "int4":
        scale, step = _stored(jnp.max(jnp.abs(groups), -1), 7, dtype)
        codes, minimum = jnp.clip(jnp.round(groups / step[..., None]), -7, 7).astype(jnp.int8), None
    else:
        # Rounded down, so that no weight lies below it by more than a step may hide.
        least = jnp.min(groups, -1)
        minimum = least.astype(dtype)
        minimum = jnp.where(
            minimum.astype(jnp.float32) > least, lax.nextafter(minimum, jnp.full_like(minimum, -jnp.inf)), minimum
        )
        low = minimum.astype(jnp.float32)
        scale, step = _stored(jnp.max(groups, -1) - low, 15, dtype)
        codes = jnp.clip(jnp.round((groups - low[..., None]) / step[..., None]), 0, 15)
    return Int4(_pack(codes.reshape(rows.shape)), scale, minimum)


def laid_out(axes: Sequence, leaf: Leaf) -> Leaf:
    """What each array of a leaf has in place of the (*lead, in, out) of the kernel that it stands for: its axes' names,
    or the mesh axes that they are cut along."""
    *lead, inner, out = axes
    return jax.tree.map(lambda x: (*lead, out, inner)[: len(x.shape)], leaf)


def of_kernel(lies: Any) -> jax.sharding.Sharding:
    """Where a kernel lies whose leaf's arrays lie so; the sharding of a plain array is its own."""
    if not is_quantised(lies):
        return lies
    widest = jax.tree.leaves(lies)[0]  # codes, [..., out, in]
    if not isinstance(widest, jax.sharding.NamedSharding):
        return widest
    *lead, out, inner = widest.spec
    return jax.sharding.NamedSharding(widest.mesh, jax.sharding.PartitionSpec(*lead, inner, out))


def spec_of(kernel: P.ParamSpec, leaf: Leaf) -> Leaf:
    """The declaration of the arrays of a leaf, which are cut where the kernel is, between groups only."""
    along = [x.shape[-1] for x in jax.tree.leaves(leaf) if len(x.shape) == len(kernel.shape)]
    groups = along[0] // leaf.BYTES if isinstance(leaf, Blocks) else min(along)

    def one(x, axes) -> P.ParamSpec:
        unit = x.shape[-1] // groups if len(x.shape) == len(kernel.shape) else 1
        return P.ParamSpec(x.shape, axes, P.constant(0), "frozen", x.dtype, 0.0, unit)

    return jax.tree.map(one, leaf, laid_out(kernel.axes, leaf))


def specs(plain: dict, how: str) -> dict:
    """The declaration of a decoder (`decoder.specs`) whose linears are quantised. Raises InputError for a kernel that
    its groups do not divide, by name."""

    def one(name: str, spec: P.ParamSpec):
        if name not in LINEARS:
            return spec
        try:
            leaf = jax.eval_shape(lambda w: quantise(w, how), jax.ShapeDtypeStruct(spec.shape, spec.dtype))
        except InputError as error:
            raise InputError(f"{name}: {error}") from None
        return spec_of(spec, leaf)

    return {**plain, "layers": {name: one(name, spec) for name, spec in plain["layers"].items()}}


def dequantise(leaf: Leaf) -> jax.Array:
    """The kernel [..., in, out] in float32 that a leaf stands for."""
    return jnp.swapaxes(leaf.rows(), -1, -2)


def bytes_of(tree) -> int:
    """Bytes of a tree of arrays, abstract values or leaves."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def linear(x: jax.Array, w: jax.Array | Leaf) -> jax.Array:
    """x [..., in] times a kernel [in, out] or a leaf of one -> [..., out] in x's dtype, accumulated in float32."""
    return _of_leaf(x, w) if is_quantised(w) else layers.linear(x, w)


def _operand(leaf: Leaf, dtype) -> tuple[jax.Array, jax.Array | float]:
    """(matrix [out, in] that a product reads, what its result is multiplied by)."""
    if isinstance(leaf, Int8):  # codes are exact in every dtype
        return leaf.codes.astype(dtype), leaf.scale.astype(jnp.float32)
    return leaf.rows().astype(dtype), 1.0


@jax.custom_vjp
def _of_leaf(x, leaf):
    matrix, scale = _operand(leaf, x.dtype)
    return (layers._dot(x, matrix, (x.ndim - 1,), (1,)) * scale).astype(x.dtype)


def _of_leaf_bwd(leaf, g):
    matrix, scale = _operand(leaf, g.dtype)
    return layers._dot((g * scale).astype(g.dtype), matrix, (g.ndim - 1,), (0,), g.dtype), None


# What is kept is the leaf: the numbers that it stands for would be as large as what was to be saved.
_of_leaf.defvjp(lambda x, leaf: (_of_leaf(x, leaf), leaf), _of_leaf_bwd)
