"""Whether a run fits into the memory of a device that need not be here, and what to do where it does not."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

from jax.sharding import AbstractMesh

from trm_jax import sharding
from trm_jax.planning.hardware import Device
from trm_jax.train import compiled, memory
from trm_jax.train.config import RunConfig


def abstract_mesh(cfg: RunConfig, chips: int) -> AbstractMesh:
    """The mesh of `chips` devices that need not be there. Raises InputError when the run's mesh does not fit them."""
    sizes = sharding.mesh_sizes(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, chips)
    return AbstractMesh(sizes, sharding.MESH_AXES)


def check_batches(cfg: RunConfig, mesh: AbstractMesh) -> None:
    """Raise InputError unless the devices can share the batches of training and of evaluation."""
    compiled.check_batches(cfg, mesh, sharding.Rules())
    sharding.check_batch(mesh, sharding.Rules(), cfg.eval.batch_size, "eval.batch_size")


def on(cfg: RunConfig, device: Device, mesh: AbstractMesh) -> RunConfig:
    """The run as it is there: with model.remat=auto settled by the device's memory."""
    return dataclasses.replace(cfg, model=memory.with_remat(cfg, cfg.model, mesh, device.memory_gb * 1e9))


def shortage(cfg: RunConfig, device: Device, mesh: AbstractMesh) -> str:
    """Why the device's memory is too small by the estimate, and what to do; empty where it is not."""
    takes = functools.partial(memory.takes, cfg, mesh)
    needed, room = takes(cfg.train.accumulation), device.memory_gb * 1e9
    if needed <= room:
        return ""
    there = f"{device.name} has {device.memory_gb:g}: {remedy(cfg, mesh, takes, room)}"
    return f"about {needed / 1e9:.0f} GB a chip with what compilers take on top, and {there}"


def remedy(cfg: RunConfig, mesh: AbstractMesh, takes: Callable[[int], float], room: float) -> str:
    """What to do where a step takes more than `room` bytes of a chip; takes: its bytes, from train.accumulation."""
    batch, ways = cfg.train.batch_size, mesh.size // mesh.shape["tensor"]
    rows = batch // (cfg.models or 1)  # of a model, of which every part has as many
    for parts in range(cfg.train.accumulation + 1, batch // ways + 1):
        if batch % (parts * ways) == 0 and rows % parts == 0 and takes(parts) <= room:
            return f"set train.accumulation={parts}, which gives the same update"
    if cfg.models:
        return "no train.accumulation is enough; lower data.most_tasks, data.rows_per_step and train.batch_size"
    again = ", model.remat=block" if getattr(cfg.model, "remat", "block") != "block" else ""
    return f"no train.accumulation is enough; take more chips{again} or a smaller model"
