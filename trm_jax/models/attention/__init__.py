"""One attention function with a choice of implementation; a new one is one file here and one line in the registry."""

from collections.abc import Callable
from functools import partial

import jax

from trm_jax.models import target
from trm_jax.models.attention.cudnn import cudnn
from trm_jax.models.attention.dense import dense
from trm_jax.models.attention.flash import flash
from trm_jax.models.attention.splash import splash

IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "dense": dense,
    "flash": flash,
    "cudnn": cudnn,
    "splash": splash,
}
# What "auto" takes on a platform for sequences of so many tokens and more; for others, "dense". Compiled for a TPU,
# dense moves fewer bytes at 97 tokens and splash at 916 (docs/extending.md); no GPU has measured its line yet.
AUTO = {"gpu": ("flash", 256), "tpu": ("splash", 256)}


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
    scores, by default K**-0.5. impl: "dense" is plain XLA and materialises the [B, H, T, T] scores; "flash" and "cudnn"
    (GPU) and "splash" (TPU) are kernels that do not; "auto" chooses by platform and length.
    """
    if impl == "auto":
        kernel, least = AUTO.get(target.platform(), ("dense", 0))
        impl = kernel if q.shape[1] >= least else "dense"
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"attention implementation {impl!r} is not one of auto, {', '.join(IMPLEMENTATIONS)}")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    attend = partial(IMPLEMENTATIONS[impl], causal=causal, scale=scale)
    if impl == "dense":
        return attend(q, k, v, segments=segments)
    # No compiler cuts a kernel: every device would compute the whole batch.
    heads, optional = ("batch", None, "heads", None), [] if segments is None else [segments]

    def of_device(q, k, v, segments=None):
        return attend(q, k, v, segments=segments)

    return target.on_each_device(of_device, [heads] * 3 + [("batch", None)] * len(optional), heads)(q, k, v, *optional)
