"""The programs of a run, traced for devices that need not be here: the training steps and the evaluation step."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from trm_jax import sharding
from trm_jax.aot import gpu
from trm_jax.errors import InputError
from trm_jax.evals.runner import jit_eval_step, rows_of_batch
from trm_jax.models import target
from trm_jax.planning import Device, work
from trm_jax.planning.hardware import GPUS
from trm_jax.train.compiled import jit_train_step
from trm_jax.train.config import RunConfig
from trm_jax.train.curriculum import Stage, stages
from trm_jax.train.memory import with_remat
from trm_jax.train.state import abstract_state, evaluation_params
from trm_jax.train.step import hparams_of

Program = tuple[str, Any]  # "train" or "eval", the model's config in it


def libtpu_arguments(topology: Device) -> dict:
    """Of jax's get_topology_desc."""
    generation, shape = topology.name.partition("-")[0], "x".join(map(str, topology.shape))
    # Two cores of a v4 work as one device; without the name libtpu shows each as a device of its own.
    megacore = {"chip_config_name": "megacore"} if generation == "v4" else {}
    single = {"chips_per_host_bounds": (1, 1, 1)} if topology.chips == 1 else {}
    return {"topology_name": f"{generation}:{shape}", **megacore, **single}


def devices(topology: Device) -> list:
    """The JAX devices of a TPU slice or of GPUs, which only compile. Raises InputError where the installed libtpu shows
    others."""
    from jax.experimental import topologies

    if topology.name in GPUS:
        return gpu.devices(topology)
    found = topologies.get_topology_desc(platform="tpu", num_slices=1, **libtpu_arguments(topology)).devices
    if len(found) != topology.chips:
        shown = f"{topology.name} has {topology.chips} chips, and this libtpu shows {len(found)} devices for it"
        raise InputError(f"{shown}; install the one that belongs to this jax: pip install 'jax[tpu]'")
    return list(found)


def run_stages(cfg: RunConfig) -> list[Stage]:
    """The stages of the run's curriculum; without one a single stage. Raises InputError as `planning.work` does."""
    info = cfg.task.info(cfg.data)
    return stages(cfg, work(cfg).steps, info.groups * info.mean_examples_per_puzzle)


def programs_of(cfg: RunConfig) -> list[Program]:
    """The training steps of the run's distinct stages in order, and the evaluation step."""
    models = dict.fromkeys(model for _, model in run_stages(cfg))
    return [*(("train", model) for model in models), ("eval", cfg.model)]


def cycles_of(model) -> list[int]:
    """[L_cycles, H_cycles] of a model's config; [] of one without."""
    return [model.L_cycles, model.H_cycles] if hasattr(model, "L_cycles") else []


def rows_of(cfg: RunConfig, kind: str, mesh) -> int:
    """Rows of a program's batch, on all devices together."""
    if kind == "train":
        return cfg.train.batch_size
    return rows_of_batch(cfg.eval.batch_size, work(cfg).eval_puzzles, mesh)


def lower(cfg: RunConfig, program: Program, devices, room: int) -> jax.stages.Lowered:
    """The program as a run on `devices` calls it: the same function, the same arrays, the same shardings.

    room: bytes that a program may use of one of them.
    """
    kind, model = program
    mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, devices)
    state, rows = abstract_state(cfg, mesh), rows_of(cfg, kind, mesh)
    array = partial(jax.ShapeDtypeStruct, sharding=sharding.batch_sharding(mesh, sharding.Rules()))
    batch = {name: array((rows, *shape), dtype) for name, (shape, dtype) in cfg.task.batch_spec(cfg.data).items()}
    with target.made_for(devices[0].platform):
        if kind == "eval":
            return jit_eval_step(cfg, 0, mesh).lower(evaluation_params(state)[""], batch, array((rows,), jnp.bool_))
        steps, whole = work(cfg).steps, sharding.replicated(mesh)
        hparams = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), hparams_of(cfg, steps))
        model = with_remat(cfg, model, mesh, room)
        return jit_train_step(cfg, steps, model, state, mesh).lower(state, batch, hparams)
