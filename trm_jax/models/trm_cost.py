"""What a TRM costs: FLOPs of its products, applications of its layers, activations, memory traffic.

Activations are an estimate: what the backward pass of the last cycle keeps, and the largest of what it makes on the
way; a compiler may need somewhat less or more, and pads arrays on a TPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from trm_jax.models.layers import swiglu_width

if TYPE_CHECKING:
    from trm_jax.models.trm import TRMConfig

_FLOAT32 = 4  # bytes: of what a product gives before it is rounded


def matmul_flops(cfg: TRMConfig) -> tuple[int, int]:
    """Analytic matmul FLOPs of one sequence in one supervision step: (forward, forward and backward).

    A product of [m, k] and [k, n] counts 2mkn; the backward pass of the last cycle counts twice its forward.
    Rematerialised work is not counted, so a utilisation from these figures is of useful work.
    """
    D, T, S = cfg.hidden_size, cfg.total_len, cfg.seq_len
    block = 2 * T * 3 * D * swiglu_width(D, cfg.expansion)
    if cfg.mlp_t:
        block += 2 * D * 3 * T * swiglu_width(T, cfg.expansion)
    else:
        block += 2 * T * 4 * D * D + 2 * 2 * T * T * D
    cycle = cfg.L_layers * (cfg.L_cycles + 1) * block
    head = 2 * S * D * cfg.vocab_size + 2 * D * 2
    forward_only = cfg.H_cycles * cycle + head
    return forward_only, forward_only + 2 * (cycle + head)


def flops(cfg: TRMConfig) -> tuple[int, int]:
    """Analytic matmul FLOPs of one sequence: (one training step, one evaluation)."""
    forward_only, both = matmul_flops(cfg)
    return both, cfg.halt_max_steps * forward_only


def layer_applications(cfg: TRMConfig) -> int:
    """Of one supervision step."""
    return cfg.H_cycles * (cfg.L_cycles + 1) * cfg.L_layers


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
    """Estimate for `rows` sequences that are differentiated together, by what `remat` lets the last cycle keep."""
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
    return matmul_flops(cfg)[0] / (layer_applications(cfg) * moved * cfg.compute_dtype.itemsize)
