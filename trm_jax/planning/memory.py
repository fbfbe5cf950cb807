"""What a training step needs of a device's memory.

The state is counted exactly, from its abstract arrays and their shardings; activations are the model's estimate.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
from jax.sharding import AbstractMesh

from trm_jax import sharding
from trm_jax.models import params
from trm_jax.models.layers import round_up
from trm_jax.planning.hardware import Device
from trm_jax.train import compiled
from trm_jax.train.config import RunConfig
from trm_jax.train.state import abstract_state

# What XLA set aside for a step was 0.8 to 1.4 times the estimate, compiled for a TPU v4 and for a CPU.
COMPILERS_TAKE = 1.4
_FLOAT32 = 4  # bytes of a gradient


def abstract_mesh(cfg: RunConfig, chips: int) -> AbstractMesh:
    """The mesh of `chips` devices that need not be there. Raises InputError when the run's mesh does not fit them."""
    sizes = sharding.mesh_sizes(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, chips)
    return AbstractMesh(sizes, sharding.MESH_AXES)


def check_batches(cfg: RunConfig, mesh: AbstractMesh) -> None:
    """Raise InputError unless the devices can share the batches of training and of evaluation."""
    compiled.check_batches(cfg, mesh, sharding.Rules())
    sharding.check_batch(mesh, sharding.Rules(), cfg.eval.batch_size, "eval.batch_size")


def state_bytes(cfg: RunConfig, mesh: AbstractMesh) -> int:
    """Bytes of one device: weights, averages, optimiser moments, and the carry of its share of the batch, which is
    filled up where it does not divide."""
    rows = round_up(cfg.train.batch_size, mesh.size // mesh.shape["tensor"] * cfg.train.accumulation)
    filled = dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, batch_size=rows))
    arrays = jax.tree.leaves(abstract_state(filled, mesh))
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * x.dtype.itemsize for x in arrays)


def step_bytes(cfg: RunConfig, mesh: AbstractMesh, parts: int) -> int:
    """Estimate of what a step needs of one device besides the state: activations of one of `parts` of the batch,
    gradients."""
    share = cfg.train.batch_size * mesh.shape["tensor"] / mesh.size  # of the batch, a device's
    gradients = params.count(cfg.family.specs(cfg.model)["weights"]) * _FLOAT32
    of_a_row = jax.tree.leaves(params.abstract(cfg.family.carry_specs(cfg.model, 1)))
    carry = math.ceil(share * sum(x.size * x.dtype.itemsize for x in of_a_row))
    copies = 2 if parts > 1 else 1  # the sum and its next term; the carry cut into parts, and those that come back
    return cfg.family.activation_bytes(cfg.model, math.ceil(share / parts)) + copies * (gradients + carry)


def shortage(cfg: RunConfig, device: Device, mesh: AbstractMesh) -> str:
    """Why the device's memory is too small by the estimate, and what to do; empty where it is not."""
    state = state_bytes(cfg, mesh)

    def takes(parts: int) -> float:
        return state + COMPILERS_TAKE * step_bytes(cfg, mesh, parts)

    needed, room = takes(cfg.train.accumulation), device.memory_gb * 1e9
    if needed <= room:
        return ""
    there = f"{device.name} has {device.memory_gb:g}: {remedy(cfg, mesh, takes, room)}"
    return f"about {needed / 1e9:.0f} GB a chip with what compilers take on top, and {there}"


def remedy(cfg: RunConfig, mesh: AbstractMesh, takes: Callable[[int], float], room: float) -> str:
    """What to do where a step takes more than `room` bytes of a chip; takes: its bytes, from train.accumulation."""
    batch, ways = cfg.train.batch_size, mesh.size // mesh.shape["tensor"]
    for parts in range(cfg.train.accumulation + 1, batch // ways + 1):
        if batch % (parts * ways) == 0 and takes(parts) <= room:
            return f"set train.accumulation={parts}, which gives the same update"
    return "no train.accumulation is enough; take more chips, model.remat=block or a smaller model"
