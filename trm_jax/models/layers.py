"""The layers of tiny recursive reasoners as pure functions: linear, RMS norm, SwiGLU, rotary positions.

Master weights are float32 and are cast to the activations' dtype where they are used, as the reference
implementation does, so the gradients of repeated uses are summed in float32.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trm_jax.models import target


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def swiglu_width(width: int, expansion: float) -> int:
    """Inner width of a SwiGLU on `width` features: 2/3 of the expansion, rounded up to 256."""
    return round_up(round(expansion * width * 2 / 3), 256)


def _dot(x, w, contract_x: tuple[int, ...], contract_w: tuple[int, ...], dtype=jnp.float32):
    """Contract those axes and return `dtype`; float32 accumulates in full float32 (no TF32, no bfloat16 passes)."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    # cuBLAS accumulates in float32 whatever it returns; a cast behind it would be a kernel that reads float32.
    returned = dtype if target.platform() == "gpu" else jnp.float32
    if contract_x == contract_w == (0, 1) and target.platform() == "cpu" and target.alone():
        # Of two contracted axes XLA:CPU makes one by transposing x, a column at a time.
        x, w, contract_x, contract_w = *(a.reshape(-1, *a.shape[2:]) for a in (x, w)), (0,), (0,)
    dims = ((contract_x, contract_w), ((), ()))
    return lax.dot_general(x, w, dims, precision=precision, preferred_element_type=returned).astype(dtype)


# The operands of products that no gradient passes: the largest magnitude that each type holds.
QUANTISED = {"int8": (jnp.int8, 127.0), "float8": (jnp.float8_e4m3fn, 448.0)}
PRODUCTS = ("exact", *QUANTISED)  # "exact": operands of the compute dtype


def _quantise(x, axes: tuple[int, ...], products: str):
    """(x / scale in a type of `QUANTISED`, scale float32 without `axes`), a scale for each vector along `axes`."""
    dtype, largest = QUANTISED[products]
    x = x.astype(jnp.float32)
    scale = jnp.max(jnp.abs(x), axis=axes, keepdims=True) / largest
    values = x / jnp.where(scale > 0, scale, 1)
    values = jnp.round(values) if dtype == jnp.int8 else values
    return values.astype(dtype), jnp.squeeze(scale, axes)


def _quantised_dot(x, w, contract_x: tuple[int, ...], contract_w: tuple[int, ...], dtype, products: str):
    """As `_dot`, of operands rounded to 8 bits: per row and per column, when they are used."""
    (x, x_scale), (w, w_scale) = _quantise(x, contract_x, products), _quantise(w, contract_w, products)
    kept = jnp.int32 if x.dtype == jnp.int8 else jnp.float32
    y = lax.dot_general(x, w, ((contract_x, contract_w), ((), ())), preferred_element_type=kept)
    x_scale = x_scale.reshape(x_scale.shape + (1,) * w_scale.ndim)
    return (y.astype(jnp.float32) * x_scale * w_scale.reshape((1,) * (y.ndim - w_scale.ndim) + w_scale.shape)).astype(
        dtype
    )


# A weight w [in, ...out] applied to rows x [..., in] (axis -1) or columns x [in, N] (axis 0), so that no activation is
# ever transposed. Rows are not made a matrix: a batch axis that several devices share cannot be merged behind another
# axis, so every device would compute the whole batch. Weight gradients are float32.


def _project(x, w, axis: int, dtype=jnp.float32, products: str = "exact"):
    dot = _dot if products == "exact" else partial(_quantised_dot, products=products)
    return dot(w, x, (0,), (0,), dtype=dtype) if axis == 0 else dot(x, w, (x.ndim - 1,), (0,), dtype=dtype)


def _project_back(g, w, axis: int, dtype=jnp.float32):
    return _dot(w, g, (1,), (0,), dtype) if axis == 0 else _dot(g, w, (g.ndim - 1,), (1,), dtype)


def _weight_grad(x, g, axis: int):
    if axis != 0:
        rows = tuple(range(x.ndim - 1))
        return _dot(x, g, rows, rows)
    if g.shape[0] <= x.shape[0]:
        return _dot(x, g, (1,), (1,))
    # Eigen is faster when the longer side of a thin result comes first; without a barrier XLA turns it round again.
    turned = _dot(g, x, (1,), (1,))
    return (lax.optimization_barrier(turned) if target.platform() == "cpu" else turned).T


# The backward passes are written out for two reasons. Their products take operands of the compute dtype and
# accumulate in float32, where JAX's transpose of a product with a float32 result would multiply float32 by bfloat16.
# And they keep little: page-faulting gigabytes of residuals costs more on a CPU than recomputing element-wise work.


@partial(jax.custom_vjp, nondiff_argnums=(2,))
def linear(x: jax.Array, w: jax.Array, products: str = "exact") -> jax.Array:
    """x [..., in] times w [in, *out] -> [..., *out] in x's dtype, accumulated in float32; products: of `PRODUCTS`."""
    return _project(x, w.astype(x.dtype), -1, x.dtype, products)


def _linear_fwd(x, w, products):
    return linear(x, w, products), (x, w)


def _linear_bwd(products, kept, g):
    x, w = kept
    out = w.ndim - 1
    dx = _dot(g, w.astype(g.dtype), tuple(range(g.ndim - out, g.ndim)), tuple(range(1, w.ndim)), x.dtype)
    rows = tuple(range(x.ndim - 1))
    return dx, _dot(x, g, rows, rows).astype(w.dtype)


linear.defvjp(_linear_fwd, _linear_bwd)


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def rms_norm(x: jax.Array, axis: int = -1, eps: float = 1e-5) -> jax.Array:
    """Divide by the root mean square over `axis`: computed in float32, no learned scale, x's dtype back."""
    return _rms_norm_fwd(x, axis, eps)[0]


def _rms_norm_fwd(x, axis, eps):
    x32 = x.astype(jnp.float32)
    scale = lax.rsqrt(jnp.mean(jnp.square(x32), axis=axis, keepdims=True) + eps)
    y = (x32 * scale).astype(x.dtype)
    return y, (y, scale)


def _rms_norm_bwd(axis, eps, kept, g):
    y, scale = kept
    y32, g32 = y.astype(jnp.float32), g.astype(jnp.float32)
    return ((scale * (g32 - y32 * jnp.mean(g32 * y32, axis=axis, keepdims=True))).astype(g.dtype),)


rms_norm.defvjp(_rms_norm_fwd, _rms_norm_bwd)


def halves(gate_up: jax.Array | tuple) -> tuple[jax.Array, jax.Array]:
    """The weights [width, inner] of gate and of up, from gate_up [width, 2, inner] or as `cut` gives them."""
    return gate_up if isinstance(gate_up, tuple) else (gate_up[:, 0], gate_up[:, 1])


def cut(layers: dict) -> dict:
    """`layers` with the two `halves` of every gate_up: before a loop, as XLA:CPU would copy them in each iteration."""

    def of(path, w):
        return halves(w) if path[-1].key == "gate_up" else w

    return jax.tree_util.tree_map_with_path(of, layers)


def _gated(gate, up):
    gate32 = gate.astype(jnp.float32)
    return (gate32 * jax.nn.sigmoid(gate32) * up.astype(jnp.float32)).astype(gate.dtype)


def _gated_grads(gate, up, g_inner, separate: bool = False):
    """(silu(gate) * up, gradient of gate, gradient of up) from the product's gradient g_inner (float32).

    separate: hide from the compiler that the three share work. XLA:CPU would store the shared terms and pass over
    memory four more times, which costs twice what computing the sigmoid again does.
    """
    copy = lax.optimization_barrier if separate else lambda x: x
    dtype = gate.dtype

    def float32(*xs):
        return (x.astype(jnp.float32) for x in copy(xs))

    inner = _gated(*copy((gate, up)))
    a, g = float32(gate, g_inner)
    g_up = g * (a * jax.nn.sigmoid(a))
    a, u, g = float32(gate, up, g_inner)
    sigmoid = jax.nn.sigmoid(a)
    g_gate = g * u * (sigmoid * (1 + a * (1 - sigmoid)))
    return inner, g_gate.astype(dtype), g_up.astype(dtype)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _swiglu(x, gate_up, down, axis: int, products: str):
    return _swiglu_fwd(x, gate_up, down, axis, products)[0]


def _swiglu_fwd(x, gate_up, down, axis, products):
    dtype = x.dtype
    # Two products of half the width instead of one whose result is cut in two: cutting the weight is cheap.
    gate, up = (_project(x, w.astype(dtype), axis, dtype, products) for w in halves(gate_up))
    y = _project(_gated(gate, up), down.astype(dtype), axis, dtype, products)
    return y, (x, gate_up, down, gate, up)


def _swiglu_bwd(axis, products, kept, g):
    x, gate_up, down, gate, up = kept
    dtype, on_cpu = x.dtype, target.platform() == "cpu"
    g_inner = _project_back(g, down.astype(dtype), axis, dtype if target.platform() == "gpu" else jnp.float32)
    inner, *g_halves = _gated_grads(gate, up, g_inner, separate=on_cpu)
    if target.platform() != "tpu":  # Eigen and cuBLAS are faster with the halves than with the stack
        dx_gate, dx_up = (
            _project_back(g, w.astype(dtype), axis) for g, w in zip(g_halves, halves(gate_up), strict=True)
        )
        dx, d_gate_up = (dx_gate + dx_up).astype(dtype), jnp.stack([_weight_grad(x, one, axis) for one in g_halves], 1)
    else:
        dx, d_gate_up = _halves_grads(x, gate_up.astype(dtype), jnp.stack(g_halves, axis=0 if axis == 0 else -2), axis)
    return dx, d_gate_up.astype(gate_up.dtype), _weight_grad(inner, g, axis).astype(down.dtype)


def _halves_grads(x, gate_up, g, axis: int):
    """Gradients of x and of gate_up [in, 2, inner] from g, of both halves: [..., 2, inner] or [2, inner, N].

    One product each: a stack of two weight gradients would stand between the sum over the devices and the sum over a
    loop, and XLA moves the first behind the second only where they follow one another.
    """
    if axis == 0:
        return _dot(gate_up, g, (1, 2), (0, 1), x.dtype), _dot(x, g, (1,), (2,))
    rows = tuple(range(x.ndim - 1))
    return _dot(g, gate_up, (x.ndim - 1, x.ndim), (1, 2), x.dtype), _dot(x, g, rows, rows)


_swiglu.defvjp(_swiglu_fwd, _swiglu_bwd)


def swiglu(params: dict, x: jax.Array, axis: int = -1, products: str = "exact") -> jax.Array:
    """`down(silu(gate) * up)` over the last axis of x [..., width], or over its first, x [width, ...].

    params: gate_up [width, 2, inner] (an axis for the two, so that a mesh can cut `inner`), down [inner, width].
    """
    columns = x.reshape(x.shape[0], -1) if axis == 0 else x
    return _swiglu(columns, params["gate_up"], params["down"], axis, products).reshape(x.shape)


def rope_tables(length: int, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin [length, head_dim] in float32 for rotate-half rotary positions 0..length-1."""
    inv_freq = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = np.outer(np.arange(length, dtype=np.float32), inv_freq.astype(np.float32))
    angles = np.concatenate([angles, angles], axis=-1)
    return np.cos(angles), np.sin(angles)


def apply_rope(x: jax.Array, cos, sin) -> jax.Array:
    """Rotate x [B, T, H, K] (non-interleaved halves) in float32; x's dtype back. cos, sin: [T, K] or [B, T, K]."""
    x32 = x.astype(jnp.float32)
    first, second = jnp.split(x32, 2, axis=-1)
    rotated = jnp.concatenate([-second, first], axis=-1)
    return (x32 * cos[..., None, :] + rotated * sin[..., None, :]).astype(x.dtype)


# Above so many tokens a one-hot product costs more than a scatter.
_ONE_HOT_TOKENS = 256


@jax.custom_vjp
def embed_tokens(table: jax.Array, tokens: jax.Array) -> jax.Array:
    """Rows [..., D] of table [V, D] at tokens [...]; gradients of equal tokens are summed in float32.

    In a small vocabulary by a product with one-hot vectors: a GPU would add them up in any order.
    """
    return jnp.take(table, tokens, axis=0)


def _embed_fwd(table, tokens):
    return embed_tokens(table, tokens), (table, tokens)


def _embed_bwd(kept, g):
    table, tokens = kept
    if table.shape[0] > _ONE_HOT_TOKENS:
        return jnp.zeros_like(table).at[tokens].add(g.astype(table.dtype)), None
    one_hot = jax.nn.one_hot(tokens, table.shape[0], dtype=g.dtype)
    rows = tuple(range(tokens.ndim))
    return _dot(one_hot, g, rows, rows).astype(table.dtype), None


embed_tokens.defvjp(_embed_fwd, _embed_bwd)


def inverse_sqrt(n: int) -> float:
    return 1.0 / math.sqrt(n)
