"""The block that mixes tokens, `rms_norm(x + swiglu(x))` over the sequence axis: plain, or one GPU kernel each way.

In the plain form a GPU waits for its memory: the inner layer is several times as large as x. In the kernels (Pallas,
Triton) a program owns some columns of x [T, N], goes through the inner layer in parts and keeps them on the chip; only
the products that give the weights' gradients are left to cuBLAS. T = tokens, N = B * D columns, I = inner width.
"""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from trm_jax.models import target
from trm_jax.models.layers import halves, rms_norm, round_up, swiglu

IMPLEMENTATIONS = ("plain", "triton")
MOST_TOKENS = 128  # of a kernel: all tokens of a column are held at once
# (columns of a program, part of the inner layer, warps, stages) forward and backward: the fastest of 9 and of 8 that
# were measured on an H200. Float32 has no tensor cores and needs twice the room.
_SHAPES = {2: ((128, 64, 8, 4), (64, 64, 4, 1)), 4: ((32, 32, 4, 1), (32, 32, 4, 1))}


def mix_tokens(params: dict, x: jax.Array, eps: float, impl: str = "auto", products: str = "exact") -> jax.Array:
    """The block over the first axis of x [T, B, D]; params: gate_up [T, 2, I], down [I, T].

    impl: "plain", "triton", or "auto": the kernels where they were measured to be faster, in half precision on a GPU of
    compute capability 9 and more. Products of 8 bits (`layers.QUANTISED`) are in the plain form only.
    """
    if impl == "auto":
        measured = target.compute_capability() >= 9 and x.dtype.itemsize == 2 and x.shape[0] <= MOST_TOKENS
        impl = "triton" if measured else "plain"
    if impl == "plain" or products != "exact":
        return rms_norm(x + swiglu(params, x, 0, products), 0, eps)
    return _block(x, params["gate_up"], params["down"], eps)


def _dot(a, b):
    """[m, k] @ [k, n] in float32."""
    precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
    return lax.dot_general(a, b, (((1,), (0,)), ((), ())), precision=precision, preferred_element_type=jnp.float32)


def _sigmoid(x, dtype):
    """In half precision on a GPU by its tanh, whose error of 2**-11 is less than the rounding of what comes of it."""
    if dtype == jnp.float32 or target.platform() != "gpu":
        return jax.nn.sigmoid(x)
    return 0.5 * triton.approx_tanh(0.5 * x) + 0.5


class _Tile:
    """The columns [start, start + n) of arrays [T, N] that a program owns, each lying on its side: [n, T']."""

    def __init__(self, like, n: int, padded: int):
        self.columns = pl.program_id(0) * n + lax.broadcasted_iota(jnp.int32, (n, 1), 0)
        self.rows = lax.broadcasted_iota(jnp.int32, (1, padded), 1)
        self.inside = self.columns < like.shape[1]

    def load(self, ref, dtype=None):
        x = triton.load(ref.at[self.rows, self.columns], mask=self.inside & (self.rows < ref.shape[0]), other=0)
        return x.astype(dtype or x.dtype)

    def store(self, ref, x, rows=None):
        rows = self.rows if rows is None else rows
        triton.store(ref.at[rows, self.columns], x.astype(ref.dtype), mask=self.inside & (rows < ref.shape[0]))


def _forward_kernel(part: int, n: int, eps: float, x_ref, gate_ref, up_ref, down_ref, y_ref, scale_ref):
    tile = _Tile(x_ref, n, gate_ref.shape[0])
    x = tile.load(x_ref)

    def body(i, total):
        some = pl.ds(i * part, part)
        gate, up = _dot(x, gate_ref[:, some]), _dot(x, up_ref[:, some])
        return total + _dot((gate * _sigmoid(gate, x.dtype) * up).astype(x.dtype), down_ref[some, :])

    zeros = jnp.zeros(x.shape, jnp.float32)
    out = lax.fori_loop(0, gate_ref.shape[1] // part, body, zeros)
    s = (x + out.astype(x.dtype)).astype(jnp.float32)
    scale = lax.rsqrt(jnp.sum(s * s, axis=1, keepdims=True) / x_ref.shape[0] + eps)
    tile.store(y_ref, s * scale)
    tile.store(scale_ref, scale, rows=jnp.zeros((1, 1), jnp.int32))


def _backward_kernel(
    part: int, n: int, x_ref, y_ref, scale_ref, g_ref, gate_ref, up_ref, down_ref, dx_ref, ds_ref, copy_ref, *wide_refs
):
    """copy_ref: x again, with rows of zeros below it as ds has; wide_refs: the inner layer and the gradients of gate
    and up, [I, N]."""
    tile = _Tile(x_ref, n, gate_ref.shape[0])
    x, y, g = tile.load(x_ref), tile.load(y_ref, jnp.float32), tile.load(g_ref, jnp.float32)
    scale = triton.load(scale_ref.at[jnp.zeros((1, 1), jnp.int32), tile.columns], mask=tile.inside, other=0)
    ds = (scale * (g - y * (jnp.sum(g * y, axis=1, keepdims=True) / x_ref.shape[0]))).astype(x.dtype)
    tile.store(ds_ref, ds)
    tile.store(copy_ref, x)

    def body(i, total):
        some = pl.ds(i * part, part)
        gate_w, up_w = gate_ref[:, some], up_ref[:, some]
        gate, up, g_inner = _dot(x, gate_w), _dot(x, up_w), _dot(ds, down_ref[some, :].T)
        sigmoid = _sigmoid(gate, x.dtype)
        silu = gate * sigmoid
        d_gate, d_up = g_inner * up * (sigmoid + silu * (1 - sigmoid)), g_inner * silu
        for ref, value in zip(wide_refs, (silu * up, d_gate, d_up), strict=True):
            tile.store(ref, value, rows=i * part + lax.broadcasted_iota(jnp.int32, (1, part), 1))
        return total + _dot(d_gate.astype(x.dtype), gate_w.T) + _dot(d_up.astype(x.dtype), up_w.T)

    dx = lax.fori_loop(0, gate_ref.shape[1] // part, body, jnp.zeros(x.shape, jnp.float32))
    tile.store(dx_ref, dx.astype(x.dtype) + ds)


def _weights(gate_up, down, dtype):
    """gate, up [T', I] and down [I, T'], T' a power of two as Triton wants it; what is added is zero."""
    more = max(16, pl.next_power_of_2(down.shape[1])) - down.shape[1]
    gate, up = (jnp.pad(w.astype(dtype), ((0, more), (0, 0))) for w in halves(gate_up))
    return gate, up, jnp.pad(down.astype(dtype), ((0, 0), (0, more)))


def _call(kernel, backward: bool, arrays, weights, rows):
    """`kernel` on each device's columns of `arrays` [., B, D] -> arrays of so many `rows` [rows, B, D]."""
    n, part, warps, stages = _SHAPES[arrays[0].dtype.itemsize][backward]
    part = min(part, weights[0].shape[1])

    def of_device(*operands):
        columns = [x.reshape(x.shape[0], -1) for x in operands[: len(arrays)]]
        size = columns[0].shape[1]
        outputs = [jax.ShapeDtypeStruct((r, size), jnp.float32 if r == 1 else columns[0].dtype) for r in rows]
        call = pl.pallas_call(
            partial(kernel, part, n),
            grid=(pl.cdiv(size, n),),
            out_shape=outputs,
            interpret=target.platform() != "gpu",
            compiler_params=triton.CompilerParams(num_warps=warps, num_stages=stages),
            name=f"token_mlp_{'backward' if backward else 'forward'}",
        )
        found = call(*columns, *operands[len(arrays) :])
        return tuple(x.reshape(x.shape[0], *operands[0].shape[1:]) for x in found)

    cut, whole = (None, "batch", None), (None, None)
    names = [cut] * len(arrays) + [whole] * len(weights)
    return target.on_each_device(of_device, names, [cut] * len(rows))(*arrays, *weights)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _block(x, gate_up, down, eps):
    return _block_fwd(x, gate_up, down, eps)[0]


def _block_fwd(x, gate_up, down, eps):
    def kernel(part, n, *refs):
        _forward_kernel(part, n, eps, *refs)

    y, scale = _call(kernel, False, (x,), _weights(gate_up, down, x.dtype), (x.shape[0], 1))
    return y, (x, gate_up, down, y, scale)


def _block_bwd(eps, kept, g):
    x, gate_up, down, y, scale = kept
    tokens, inner = x.shape[0], down.shape[0]
    rows8 = round_up(tokens, 8)  # as tensor cores want them: XLA would copy the arrays to pad them
    rows = (tokens, rows8, rows8, inner, inner, inner)
    dx, ds, x, *wide = _call(_backward_kernel, True, (x, y, scale, g), _weights(gate_up, down, x.dtype), rows)

    def over_columns(a, b):  # [m, B, D], [n, B, D] -> [m, n]
        precision = lax.Precision.HIGHEST if a.dtype == jnp.float32 else None
        dims = (((1, 2), (1, 2)), ((), ()))
        return lax.dot_general(a, b, dims, precision=precision, preferred_element_type=jnp.float32)

    d_gate_up = jnp.stack([over_columns(x, one)[:tokens] for one in wide[1:]], axis=1)
    return dx, d_gate_up.astype(gate_up.dtype), over_columns(ds, wide[0])[:tokens].T.astype(down.dtype)


_block.defvjp(_block_fwd, _block_bwd)
