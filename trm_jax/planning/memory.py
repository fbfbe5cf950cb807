"""What a training step needs of a device's memory, and how much its products move through it.

The state is counted exactly, from its abstract arrays and their shardings. Activations are an estimate: what the
backward pass of the last cycle keeps, and the largest of what it makes on the way; a compiler may need somewhat less
or more, and pads arrays on a TPU.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import jax
from jax.sharding import AbstractMesh

from trm_jax import sharding
from trm_jax.models import TRMConfig, params, trm
from trm_jax.models.layers import swiglu_width
from trm_jax.train.config import RunConfig
from trm_jax.train.state import state_shardings

_FLOAT32 = 4  # bytes: of weights and gradients, and of what a product gives before it is rounded


@dataclass(frozen=True)
class _Block:
    """Elements of one sequence in one block: mixing of tokens (attention or an MLP), then the MLP over features."""

    latent: int  # [T, D]
    inner: tuple[int, ...]  # the wide layer of each SwiGLU
    attention: int  # what the mixing by attention keeps for its backward pass
    moved: int  # operands and results of the products

    @property
    def kept(self) -> int:
        """For the backward pass: each SwiGLU's input, gate and up, and what attention needs."""
        return self.attention + sum(self.latent + 2 * wide for wide in self.inner)


def _block(cfg: TRMConfig) -> _Block:
    T, D = cfg.total_len, cfg.hidden_size
    inner = [T * swiglu_width(D, cfg.expansion)]
    attention = moved = 0
    if cfg.mlp_t:
        inner.append(D * swiglu_width(T, cfg.expansion))
    else:
        scores = cfg.num_heads * T * T
        attention = 5 * T * D + scores  # input, q, k, v, output, and the weights
        moved = (1 + 3) * T * D + (2 * T * D + scores) + (scores + 2 * T * D) + 2 * T * D
    # Of a SwiGLU: input -> gate and up; their product -> output.
    moved += sum(2 * T * D + 3 * wide for wide in inner)
    return _Block(T * D, tuple(inner), attention, moved)


def _itemsize(cfg: TRMConfig) -> int:
    return cfg.compute_dtype.itemsize


def abstract_mesh(cfg: RunConfig, chips: int) -> AbstractMesh:
    """The mesh of `chips` devices that need not be there. Raises InputError when the run's mesh does not fit them."""
    sizes = sharding.mesh_sizes(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, chips)
    return AbstractMesh(sizes, sharding.MESH_AXES)


def state_bytes(cfg: RunConfig, mesh: AbstractMesh) -> int:
    """Bytes of one device: weights, averages, optimiser moments, and the carry of its share of the batch."""
    abstract, lies = state_shardings(cfg, mesh, sharding.Rules())
    of_device = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)) * x.dtype.itemsize, abstract, lies)
    return sum(jax.tree.leaves(of_device))


def activation_bytes(cfg: TRMConfig, rows: int) -> int:
    """Estimate for `rows` sequences that are differentiated together, by what `remat` lets the last cycle keep.

    "dots" counts as "none": the backward passes keep little else than products anyway.
    """
    block, size = _block(cfg), _itemsize(cfg)
    calls, call = cfg.L_cycles + 1, cfg.L_layers * block.kept * size
    # With "block": the inputs of the calls, and one call computed again.
    kept = calls * block.latent * size + call if cfg.remat == "block" else calls * call
    # Of one SwiGLU on the way back: the gradient of its inner layer in float32; that layer, gate's and up's gradients.
    inner = max(block.inner) * (_FLOAT32 + 3 * size)
    return rows * (kept + inner + 4 * block.latent * _FLOAT32)


def step_bytes(cfg: RunConfig, mesh: AbstractMesh) -> int:
    """Estimate of what a step needs of one device besides the state: activations of a part of the batch, gradients."""
    share = cfg.train.batch_size / (mesh.shape["data"] * mesh.shape["fsdp"])
    parts = cfg.train.accumulation
    gradients = params.count(trm.param_specs(cfg.model)["weights"]) * _FLOAT32
    latents = 2 * cfg.model.total_len * cfg.model.hidden_size * _itemsize(cfg.model)
    if parts > 1:  # the sum and its next term; the latents cut into parts, and those that come back
        gradients, latents = 2 * gradients, 2 * latents
    return activation_bytes(cfg.model, math.ceil(share / parts)) + gradients + math.ceil(share * latents)


def accumulations(cfg: RunConfig, mesh: AbstractMesh) -> Iterator[int]:
    """More parts than now that a batch can be computed in on this mesh, ascending."""
    batch, ways = cfg.train.batch_size, mesh.shape["data"] * mesh.shape["fsdp"]
    return (n for n in range(cfg.train.accumulation + 1, batch // ways + 1) if batch % (n * ways) == 0)


def products_per_byte(cfg: TRMConfig) -> float:
    """FLOPs of the recursion for each byte that its products read and write, weights left out.

    Each product reads its operands once and writes its result once, with all that is element-wise fused into it: more
    a compiler that does not fuse products with each other cannot reach. Times a bandwidth it bounds the rate.
    """
    calls = cfg.H_cycles * (cfg.L_cycles + 1) * cfg.L_layers
    return trm.matmul_flops(cfg)[0] / (calls * _block(cfg).moved * _itemsize(cfg))
