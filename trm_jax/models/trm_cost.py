"""What a TRM costs: FLOPs of its products and activations.

Activations are an estimate: what the backward pass of the last cycle keeps, and the largest of what it makes on the
way; a compiler may need somewhat less or more, and pads arrays on a TPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from trm_jax.models.attention import fastest
from trm_jax.models.layers import swiglu_width

if TYPE_CHECKING:
    from trm_jax.models.trm import TRMConfig

_FLOAT32 = 4  # bytes: of what a product gives before it is rounded


def block_flops(cfg: TRMConfig) -> int:
    """Analytic matmul FLOPs of one block on one sequence, forward: a product of [m, k] and [k, n] counts 2mkn."""
    D, T = cfg.hidden_size, cfg.total_len
    block = 2 * T * 3 * D * swiglu_width(D, cfg.expansion)
    if cfg.mlp_t:
        block += 2 * D * 3 * T * swiglu_width(T, cfg.expansion)
    else:
        heads = cfg.num_heads * cfg.head_dim
        block += 2 * T * 4 * D * heads + 2 * 2 * T * T * heads
    return block


def step_flops(cfg: TRMConfig, block: int, head: int) -> tuple[int, int]:
    """FLOPs of one sequence in one supervision step, by those of a block and of the head: as `matmul_flops`."""
    frozen, differentiated = (sum(layers * calls[i] for layers, *calls in cfg.calls) * block for i in (0, 1))
    forward_only = frozen + differentiated + head
    late = round(cfg.late_start_prob * sum(cfg.late_starts) / len(cfg.late_starts) * forward_only)
    return forward_only, (1 + cfg.q_continue) * forward_only + late + 2 * (differentiated + head)


def matmul_flops(cfg: TRMConfig) -> tuple[int, int]:
    """Analytic matmul FLOPs of one sequence in one supervision step: (forward, forward and backward).

    The backward pass of the calls with gradient counts twice its forward. With `q_continue` a training step has a
    forward pass more, with late starts the mean of theirs. Rematerialised work is not counted, so a utilisation from
    these figures is of useful work.
    """
    head = 2 * cfg.seq_len * cfg.hidden_size * cfg.vocab_size + 2 * cfg.hidden_size * 2
    return step_flops(cfg, block_flops(cfg), head)


def flops(cfg: TRMConfig) -> tuple[int, int]:
    """Analytic matmul FLOPs of one sequence: (one training step, one evaluation)."""
    forward_only, both = matmul_flops(cfg)
    return both, cfg.halt_max_steps * forward_only


class Part(NamedTuple):
    """What one part of a training step computes, and moves to and from a device's memory.

    flops, row_bytes: of one sequence; step_bytes: once a step, however many sequences there are (weights). fusible: of
    row_bytes, those between products, norms and gates, which move nothing where a block is one kernel.
    """

    flops: int = 0
    row_bytes: int = 0
    step_bytes: int = 0
    fusible: int = 0


def parts(cfg: TRMConfig) -> dict[str, Part]:
    """A training step by part: analytic matmul FLOPs and bytes.

    The FLOPs add up to `matmul_flops(cfg)[1]` but for the forward passes of `q_continue` and of late starts.
    Each kernel (a product, a norm with its residual, the gate of a SwiGLU, attention with its scores on the chip) reads
    what it needs once and writes its result once. A product's backward pass is two of its size.
    """
    D, T, S, V, size = cfg.hidden_size, cfg.total_len, cfg.seq_len, cfg.vocab_size, cfg.compute_dtype.itemsize
    calls = cfg.L_layers * (cfg.L_cycles + 1)  # of a block, in one cycle
    passes = cfg.H_cycles + 2  # of a cycle's products: forward in every one, and twice its size back through the last

    def products(flops: int, ends: int, inner: int, weights: int) -> Part:
        """ends: values at the block's ends; inner: those inside it."""
        times = passes * calls
        gradients = calls * weights * 2 * _FLOAT32  # every call reads and writes their float32 sum
        return Part(
            times * flops, times * (ends + inner) * size, times * weights * size + gradients, times * inner * size
        )

    def element_wise(values: int) -> Part:
        return Part(row_bytes=values * size, fusible=values * size)

    inner, mixer = swiglu_width(D, cfg.expansion), swiglu_width(T, cfg.expansion)
    gates = 3 * (T * inner + D * mixer * cfg.mlp_t)
    rotated = 4 * T * D * (not cfg.mlp_t and cfg.pos_encodings == "rope")
    found = {"token products": products(6 * T * D * inner, 2 * T * D, 3 * T * inner, 3 * D * inner)}
    if cfg.mlp_t:
        found["sequence mixing"] = products(6 * D * T * mixer, 2 * T * D, 3 * D * mixer, 3 * T * mixer)
    else:
        found["attention projections"] = products(8 * T * D * D, 2 * T * D, 4 * T * D, 4 * D * D)
        found["attention"] = products(4 * T * T * D, 0, 4 * T * D, 0)
    return found | {
        # Forward: read two, write one; back: as much again.
        "norms": element_wise((cfg.H_cycles + 1) * calls * 2 * 3 * T * D),
        "element-wise": element_wise(passes * (calls * (gates + rotated) + (cfg.L_cycles + 1) * 3 * T * D)),
        "head": Part(3 * (2 * S * D * V + 4 * D), 3 * (S * D + 2 * S * V) * size, D * V * (3 * size + 2 * _FLOAT32)),
        # The carry is read and written, and rows of the batch may take the place of its own.
        "data": Part(row_bytes=5 * T * D * size + 6 * S * _FLOAT32),
    }


def activation_bytes(cfg: TRMConfig, rows: int) -> int:
    """Estimate for `rows` sequences that are differentiated together, by what `remat` lets the last cycle keep."""
    T, D, size = cfg.total_len, cfg.hidden_size, cfg.compute_dtype.itemsize
    latent, scores = T * D, 0
    if not cfg.mlp_t and cfg.attention_impl in ("auto", "dense"):  # the other implementations keep none
        dense = cfg.attention_impl == "dense" or fastest(T, cfg.compute_dtype) == "dense"
        scores = cfg.num_heads * T**2 * dense
    # The inner layer of each SwiGLU of a block.
    wide = [T * swiglu_width(D, cfg.expansion)] + [D * swiglu_width(T, cfg.expansion)] * cfg.mlp_t
    # Attention keeps its input, q, k, v, output, and the weights; a SwiGLU its input, gate and up.
    attention = 0 if cfg.mlp_t else 5 * latent + scores
    block = (attention + sum(latent + 2 * inner for inner in wide)) * size
    # With "block": the inputs of the calls, and one call computed again.
    again = sum(calls for _, _, calls in cfg.calls) * latent * size + max(layers for layers, *_ in cfg.calls) * block
    kept = again if cfg.remat == "block" else sum(layers * calls for layers, _, calls in cfg.calls) * block
    # Of one SwiGLU on the way back: the gradient of its inner layer in float32; that layer, gate's and up's gradients.
    return rows * (kept + max(wide) * (_FLOAT32 + 3 * size) + 4 * latent * _FLOAT32)
