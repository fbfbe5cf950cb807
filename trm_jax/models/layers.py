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


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def swiglu_width(width: int, expansion: float) -> int:
    """Inner width of a SwiGLU on `width` features: 2/3 of the expansion, rounded up to 256."""
    return round_up(round(expansion * width * 2 / 3), 256)


def _dot(x, w, contract_x: int, contract_w: int):
    """Contract one axis of each; float32 accumulates in full float32 (no TF32, no bfloat16 passes)."""
    precision = lax.Precision.HIGHEST if x.dtype == jnp.float32 else None
    dims = (((contract_x,), (contract_w,)), ((), ()))
    return lax.dot_general(x, w, dims, precision=precision, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _linear2d(x, w):
    return _dot(x, w.astype(x.dtype), 1, 0).astype(x.dtype)


def _linear2d_fwd(x, w):
    return _linear2d(x, w), (x, w)


def _linear2d_bwd(residuals, g):
    # Written out so that both products take operands of the compute dtype and accumulate in float32:
    # JAX's own transpose of a product with a float32 result would multiply float32 by bfloat16.
    x, w = residuals
    dx = _dot(g, w.astype(g.dtype), 1, 1).astype(x.dtype)
    dw = _dot(x, g, 0, 0).astype(w.dtype)
    return dx, dw


_linear2d.defvjp(_linear2d_fwd, _linear2d_bwd)


def linear(x: jax.Array, w: jax.Array) -> jax.Array:
    """`x [..., in] @ w [in, out]` in x's dtype with float32 accumulation."""
    lead = x.shape[:-1]
    return _linear2d(x.reshape(-1, x.shape[-1]), w).reshape(*lead, w.shape[1])


def rms_norm(x: jax.Array, axis: int = -1, eps: float = 1e-5) -> jax.Array:
    """Divide by the root mean square over `axis`: computed in float32, no learned scale, x's dtype back."""
    x32 = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(x32), axis=axis, keepdims=True)
    return (x32 * lax.rsqrt(mean_square + eps)).astype(x.dtype)


def swiglu(params: dict, x: jax.Array) -> jax.Array:
    """`down(silu(gate) * up)` over the last axis of x [..., width], gate and up from one fused product."""
    gate, up = jnp.split(linear(x, params["gate_up"]), 2, axis=-1)
    return linear(jax.nn.silu(gate) * up, params["down"])


def rope_tables(length: int, head_dim: int, theta: float) -> tuple[np.ndarray, np.ndarray]:
    """cos and sin [length, head_dim] in float32 for rotate-half rotary positions 0..length-1."""
    inv_freq = 1.0 / theta ** (np.arange(0, head_dim, 2, dtype=np.float32) / head_dim)
    angles = np.outer(np.arange(length, dtype=np.float32), inv_freq.astype(np.float32))
    angles = np.concatenate([angles, angles], axis=-1)
    return np.cos(angles), np.sin(angles)


def apply_rope(x: jax.Array, cos, sin) -> jax.Array:
    """Rotate x [B, T, H, K] (non-interleaved halves) in float32; x's dtype back."""
    x32 = x.astype(jnp.float32)
    first, second = jnp.split(x32, 2, axis=-1)
    rotated = jnp.concatenate([-second, first], axis=-1)
    return (x32 * cos[:, None, :] + rotated * sin[:, None, :]).astype(x.dtype)


REMAT_POLICIES = ("none", "dots", "block")


def remat(fn, mode: str):
    """What the backward pass keeps of `fn`: everything (none), products only (dots) or inputs only (block)."""
    if mode == "none":
        return fn
    policy = jax.checkpoint_policies.dots_saveable if mode == "dots" else None
    return partial(jax.checkpoint, policy=policy, prevent_cse=False)(fn)


def inverse_sqrt(n: int) -> float:
    return 1.0 / math.sqrt(n)
