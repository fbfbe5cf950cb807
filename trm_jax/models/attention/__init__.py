"""One attention function with a choice of implementation; a new one is one file here and one line in the registry."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from trm_jax.errors import InputError
from trm_jax.models import target
from trm_jax.models.attention.cudnn import cudnn
from trm_jax.models.attention.dense import dense
from trm_jax.models.attention.dropout import words
from trm_jax.models.attention.flash import flash
from trm_jax.models.attention.splash import splash

IMPLEMENTATIONS: dict[str, Callable[..., jax.Array]] = {
    "dense": dense,
    "flash": flash,
    "cudnn": cudnn,
    "splash": splash,
}
DROPPING = ("dense", "flash")  # those that can drop weights


def fastest(length: int, dtype: jnp.dtype, segmented: bool = False, dropping: bool = False) -> str:
    """What "auto" takes: on an H200 flash is the fastest at 97 tokens, cuDNN at 916; compiled for a TPU, dense moves
    fewer bytes at 97 and splash at 916 (docs/extending.md). GPUs before Ampere cannot run either kernel. dropping: of
    weights, which of the kernels flash alone can."""
    if target.compute_capability() >= 8 and dtype.itemsize == 2:
        return "cudnn" if length > 128 and not (segmented or dropping) else "flash"
    return "splash" if target.platform() == "tpu" and length >= 256 and not dropping else "dense"


def attention(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    *,
    causal: bool = False,
    segments: jax.Array | None = None,
    scale: float | None = None,
    impl: str = "dense",
    dropout: float = 0.0,
    keys: jax.Array | None = None,
) -> jax.Array:
    """Attention of q, k, v [B, T, H, K] -> [B, T, H, K] in q's dtype, softmax in float32; k and v may have fewer heads,
    each of which then serves as many heads of q, those that stand together.

    causal: token t sees 0..t only. segments [B, T] int32: tokens see those of their own segment only. scale: of the
    scores, by default K**-0.5. impl: "dense" is plain XLA and materialises the [B, H, T, T] scores; "flash" and "cudnn"
    (GPU) and "splash" (TPU) are kernels that do not; "auto" chooses by platform and length.

    dropout: the share of softmax's weights that are dropped, below 1; the others grow. keys [B, 2] uint32, one for each
    row, say which: the same by every implementation and on every mesh. Without keys none are. "cudnn" and "splash"
    cannot. Raises ValueError for what an implementation cannot do.
    """
    if not 0 <= dropout < 1:
        raise ValueError(f"attention's dropout is {dropout}, not in [0, 1)")
    dropping = bool(dropout) and keys is not None
    if impl == "auto":
        impl = fastest(q.shape[1], q.dtype, segments is not None, dropping)
    if impl not in IMPLEMENTATIONS:
        raise ValueError(f"attention implementation {impl!r} is not one of auto, {', '.join(IMPLEMENTATIONS)}")
    if dropping and impl not in DROPPING:
        raise InputError(f"attention_impl {impl} drops no weights; choose auto, {' or '.join(DROPPING)}, or no dropout")
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if (served := q.shape[2] // k.shape[2]) > 1:
        k, v = (jnp.repeat(x, served, axis=2) for x in (k, v))
    attend = partial(IMPLEMENTATIONS[impl], causal=causal, scale=scale)
    optional = {} if segments is None else {"segments": segments}
    if dropping:
        attend = partial(attend, rate=dropout)
        optional["words"] = words(keys, q.shape[2], q.shape[1])
    if impl == "dense":
        return attend(q, k, v, **optional)
    # No compiler cuts a kernel: every device would compute the whole batch.
    heads = ("batch", None, "heads", None)
    others = {"segments": ("batch", None), "words": (None, "batch", "heads", None)}

    def of_device(q, k, v, *rest):
        return (attend(q, k, v, **dict(zip(optional, rest, strict=True))),)

    names = [heads] * 3 + [others[name] for name in optional]
    return target.on_each_device(of_device, names, [heads])(q, k, v, *optional.values())[0]
