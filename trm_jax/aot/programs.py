"""The programs of a run, traced for devices that need not be here: the training steps and the evaluation step."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from trm_jax import sharding
from trm_jax.evals.runner import jit_eval_step, rows_of_batch
from trm_jax.models import target
from trm_jax.planning import work
from trm_jax.planning.estimate import data_size
from trm_jax.train.compiled import jit_train_step
from trm_jax.train.config import RunConfig
from trm_jax.train.curriculum import Stage, stages
from trm_jax.train.state import abstract_state, evaluation_params
from trm_jax.train.step import hparams_of


@dataclass(frozen=True)
class Program:
    """One program of a run. cycles: (L_cycles, H_cycles), () of a model without; kind: "train" or "eval"."""

    kind: str
    cycles: tuple[int, ...]

    def __str__(self) -> str:
        return ", ".join([self.kind, *(f"L {L} H {H}" for L, H in [self.cycles] if self.cycles)])

    def model(self, cfg: RunConfig):
        """The model's config in this program."""
        cycles = dict(zip(("L_cycles", "H_cycles"), self.cycles, strict=False))
        return dataclasses.replace(cfg.model, **cycles)

    def flops(self, cfg: RunConfig, rows: int) -> int:
        """Analytic FLOPs of one execution on a batch of `rows`, on all devices together."""
        return rows * cfg.family.flops(self.model(cfg))[self.kind == "eval"]

    def rows(self, cfg: RunConfig, mesh) -> int:
        """Rows of its batch, on all devices together."""
        if self.kind == "train":
            return cfg.train.batch_size
        return rows_of_batch(cfg.eval.batch_size, work(cfg).eval_puzzles, mesh)


def run_stages(cfg: RunConfig) -> list[Stage]:
    """The stages of the run's curriculum; without one a single stage. Raises InputError as `planning.work` does."""
    return stages(cfg, work(cfg).steps, data_size(cfg)[0])


def cycles_of(model) -> tuple[int, ...]:
    """(L_cycles, H_cycles) of a model's config; () of one without."""
    return (model.L_cycles, model.H_cycles) if hasattr(model, "L_cycles") else ()


def programs_of(cfg: RunConfig, all_stages: bool = False) -> list[Program]:
    """The training step of the last stage, or those of every distinct stage in order, and the evaluation step."""
    cycles = [cycles_of(model) for _, model in run_stages(cfg)]
    trained = dict.fromkeys(cycles if all_stages else cycles[-1:])
    return [*(Program("train", pair) for pair in trained), Program("eval", cycles_of(cfg.model))]


def lower(cfg: RunConfig, program: Program, devices) -> jax.stages.Lowered:
    """The program as a run on `devices` calls it: the same function, the same arrays, the same shardings."""
    mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, devices)
    state, rows = abstract_state(cfg, mesh), program.rows(cfg, mesh)
    array = partial(jax.ShapeDtypeStruct, sharding=sharding.batch_sharding(mesh, sharding.Rules()))
    spec = cfg.task.batch_spec(cfg.data)
    batch = {name: array((rows, *shape), dtype) for name, (shape, dtype) in spec.items()}
    with target.made_for(devices[0].platform):
        if program.kind == "train":
            steps, whole = work(cfg).steps, sharding.replicated(mesh)
            hparams = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=whole), hparams_of(cfg, steps)
            )
            return jit_train_step(cfg, steps, program.model(cfg), state, mesh).lower(state, batch, hparams)
        return jit_eval_step(cfg, 0, mesh).lower(evaluation_params(state)[""], batch, array((rows,), jnp.bool_))
