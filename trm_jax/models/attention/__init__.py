"""One attention function with a choice of implementation; a new one is one file here and one line in the registry."""

from collections.abc import Callable

import jax

from trm_jax.models.attention.dense import dense
from trm_jax.models.attention.flash import flash

IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {"dense": dense, "flash": flash}


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    segments: jax.Array | None = None,
    scale: float | None = None,
    impl: str = "dense",
) -> jax.Array:
    """Attention of q, k, v [B, T, H, K] -> [B, T, H, K] in q's dtype, softmax in float32.

    causal: token t sees 0..t only. segments [B, T] int32: tokens see those of their own segment only. scale: of the
    scores, by default K**-0.5. impl: "dense" is plain XLA and materialises the [B, H, T, T] scores;
    "flash" keeps them on the chip of a GPU.
    """
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"attention implementation {impl!r} is not one of {', '.join(IMPLEMENTATIONS)}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    return IMPLEMENTATIONS[impl](q, k, v, causal=causal, segments=segments, scale=scale)
