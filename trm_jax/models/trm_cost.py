"""What a TRM costs: FLOPs of its products and activations.

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


def activation_bytes(cfg: TRMConfig, rows: int) -> int:
    """Estimate for `rows` sequences that are differentiated together, by what `remat` lets the last cycle keep."""
    T, D, size = cfg.total_len, cfg.hidden_size, cfg.compute_dtype.itemsize
    latent, scores = T * D, cfg.num_heads * T**2
    # The inner layer of each SwiGLU of a block.
    wide = [T * swiglu_width(D, cfg.expansion)] + [D * swiglu_width(T, cfg.expansion)] * cfg.mlp_t
    # Attention keeps its input, q, k, v, output, and the weights; a SwiGLU its input, gate and up.
    attention = 0 if cfg.mlp_t else 5 * latent + scores
    call = cfg.L_layers * (attention + sum(latent + 2 * inner for inner in wide)) * size
    calls = cfg.L_cycles + 1
    # With "block": the inputs of the calls, and one call computed again.
    kept = calls * latent * size + call if cfg.remat == "block" else calls * call
    # Of one SwiGLU on the way back: the gradient of its inner layer in float32; that layer, gate's and up's gradients.
    return rows * (kept + max(wide) * (_FLOAT32 + 3 * size) + 4 * latent * _FLOAT32)
