"""What a training step needs of a device's memory, and what is computed again where there is too little of it.

The state is counted exactly, from its abstract arrays and their shardings; activations are the model's estimate.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from trm_jax.models import params
from trm_jax.models.layers import round_up
from trm_jax.train.config import RunConfig
from trm_jax.train.state import abstract_state

# What XLA set aside for a step was 0.8 to 1.4 times the estimate, compiled for a TPU v4 and for a CPU.
COMPILERS_TAKE = 1.4
_FLOAT32 = 4  # bytes of a gradient


def state_bytes(cfg: RunConfig, mesh: Mesh | AbstractMesh) -> int:
    """Bytes of one device: weights, averages, optimiser moments, and the carry of its share of the batch, which is
    filled up where it does not divide."""
    rows = round_up(cfg.train.batch_size, mesh.size // mesh.shape["tensor"] * cfg.train.accumulation)
    filled = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, batch_size=rows))
    arrays = jax.tree.leaves(abstract_state(filled, mesh))
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in arrays)


def step_bytes(cfg: RunConfig, mesh: Mesh | AbstractMesh, parts: int) -> int:
    """Estimate of what a step needs of one device besides the state: gradients, and activations of one of `parts` of
    the batch or, when those are gone, updates."""
    share = cfg.train.batch_size * mesh.shape["tensor"] / mesh.size  # of the batch, a device's
    gradients = params.count(cfg.family.specs(cfg.model)["weights"]) * _FLOAT32
    of_a_row = jax.tree.leaves(params.abstract(cfg.family.carry_specs(cfg.model, 1)))
    carry = math.ceil(share * sum(x.size * x.dtype.itemsize for x in of_a_row))
    copies = 2 if parts > 1 else 1  # the sum and its next term; the carry cut into parts, and those that come back
    activations = cfg.family.activation_bytes(cfg.model, math.ceil(share / parts))
    return max(activations, gradients) + copies * (gradients + carry)


def takes(cfg: RunConfig, mesh: Mesh | AbstractMesh, parts: int) -> float:
    """Bytes of one device with what compilers take on top, for a step of so many parts."""
    return state_bytes(cfg, mesh) + COMPILERS_TAKE * step_bytes(cfg, mesh, parts)


def with_remat(cfg: RunConfig, model: Any, mesh: Mesh | AbstractMesh, room: float | None) -> Any:
    """`model`, the family's config, with model.remat=auto settled: "block" where the backward pass would otherwise keep
    more than fits into `room` bytes of a device by the estimate. room: None where nobody knows."""
    if getattr(model, "remat", "") != "auto":
        return model
    kept = dataclasses.replace(model, remat="none")
    fits = room is None or takes(dataclasses.replace(cfg, model=kept), mesh, cfg.train.accumulation) <= room
    return kept if fits else dataclasses.replace(model, remat="block")


def room(devices) -> int | None:
    """Bytes that a program may use of each of the devices; None where they do not tell, as CPUs."""
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    return None if None in limits else min(limits)
