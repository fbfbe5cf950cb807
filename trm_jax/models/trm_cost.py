"""What a TRM costs beside its products (`trm.matmul_flops`): applications of its layers, activations, memory traffic.

Activations are an estimate: what the backward pass of the last cycle keeps, and the largest of what it makes on the
way; a compiler may need somewhat less or more, and pads arrays on a TPU.
"""

from __future__ import annotations

from trm_jax.models import trm
from trm_jax.models.layers import swiglu_width
from trm_jax.models.trm import TRMConfig

_FLOAT32 = 4  # bytes: of what a product gives before it is rounded


def layer_applications(cfg: TRMConfig) -> int:
    """Of one supervision step."""
    return cfg.H_cycles * (cfg.L_cycles + 1) * cfg.L_layers


def carry_bytes(cfg: TRMConfig, rows: int) -> int:
    """Bytes of the two latents of `rows` sequences."""
    return rows * 2 * cfg.total_len * cfg.hidden_size * cfg.compute_dtype.itemsize


def _wide(cfg: TRMConfig) -> list[int]:
    """Elements of the inner layer of each SwiGLU of a block, for one sequence."""
    T, D = cfg.total_len, cfg.hidden_size
    return [T * swiglu_width(D, cfg.expansion)] + [D * swiglu_width(T, cfg.expansion)] * cfg.mlp_t


def _attention(cfg: TRMConfig) -> tuple[int, int]:
    """Elements that the attention of a block keeps for its backward pass, and that its products read and write."""
    if cfg.mlp_t:
        return 0, 0
    latent, scores = cfg.total_len * cfg.hidden_size, cfg.num_heads * cfg.total_len**2
    # Kept: input, q, k, v, output, and the weights. Moved: input -> q, k, v -> weights -> output -> output.
    return 5 * latent + scores, 4 * latent + (2 * latent + scores) + (scores + 2 * latent) + 2 * latent


def activation_bytes(cfg: TRMConfig, rows: int) -> int:
    """Estimate for `rows` sequences that are differentiated together, by what `remat` lets the last cycle keep.

    "dots" counts as "none": the backward passes keep little else than products anyway.
    """
    size, latent, wide = cfg.compute_dtype.itemsize, cfg.total_len * cfg.hidden_size, _wide(cfg)
    # Of a block: each SwiGLU's input, gate and up, and what attention needs.
    call = cfg.L_layers * (_attention(cfg)[0] + sum(latent + 2 * inner for inner in wide)) * size
    calls = cfg.L_cycles + 1
    # With "block": the inputs of the calls, and one call computed again.
    kept = calls * latent * size + call if cfg.remat == "block" else calls * call
    # Of one SwiGLU on the way back: the gradient of its inner layer in float32; that layer, gate's and up's gradients.
    return rows * (kept + max(wide) * (_FLOAT32 + 3 * size) + 4 * latent * _FLOAT32)


def products_per_byte(cfg: TRMConfig) -> float:
    """FLOPs of the recursion for each byte that its products read and write, weights left out.

    Each product reads its operands once and writes its result once, with all that is element-wise fused into it: more
    a compiler that does not fuse products with each other cannot reach. Times a bandwidth it bounds the rate.
    """
    latent = cfg.total_len * cfg.hidden_size
    # Of a SwiGLU: input -> gate and up; their product -> output.
    moved = _attention(cfg)[1] + sum(2 * latent + 3 * inner for inner in _wide(cfg))
    return trm.matmul_flops(cfg)[0] / (layer_applications(cfg) * moved * cfg.compute_dtype.itemsize)
