"""The programs of a run, traced for devices that need not be here: the training steps and the evaluation step."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp

from trm_jax import sharding
from trm_jax.evals.runner import jit_eval_step, rows_of_batch
from trm_jax.models import target, trm
from trm_jax.planning import work
from trm_jax.planning.estimate import data_size
from trm_jax.train import cost
from trm_jax.train.config import RunConfig
from trm_jax.train.curriculum import Stage, stages
from trm_jax.train.programs import jit_train_step
from trm_jax.train.state import evaluation_params, state_shardings, with_shardings


@dataclass(frozen=True)
class Program:
    """One program of a run. cycles: (L_cycles, H_cycles); kind: "train" or "eval"."""

    kind: str
    cycles: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.kind}, L {self.cycles[0]} H {self.cycles[1]}"

    def flops(self, cfg: RunConfig, rows: int) -> int:
        """Analytic FLOPs of one execution on a batch of `rows`, on all devices together."""
        if self.kind == "eval":
            return cost.eval_flops(cfg, rows)
        return rows * trm.matmul_flops(trm.with_cycles(cfg.model, *self.cycles))[1]

    def rows(self, cfg: RunConfig, mesh) -> int:
        """Rows of its batch, on all devices together."""
        if self.kind == "train":
            return cfg.train.batch_size
        return rows_of_batch(cfg.eval.batch_size, work(cfg).eval_puzzles, mesh)


def run_stages(cfg: RunConfig) -> list[Stage]:
    """The stages of the run's curriculum; without one a single stage. Raises InputError as `planning.work` does."""
    return stages(cfg, work(cfg).steps, data_size(cfg)[0])


def programs_of(cfg: RunConfig, all_stages: bool = False) -> list[Program]:
    """The training step of the last stage, or those of every distinct stage in order, and the evaluation step."""
    cycles = [stage[1:] for stage in run_stages(cfg)]
    trained = dict.fromkeys(cycles if all_stages else cycles[-1:])
    return [*(Program("train", pair) for pair in trained), Program("eval", (cfg.model.L_cycles, cfg.model.H_cycles))]


def lower(cfg: RunConfig, program: Program, devices) -> jax.stages.Lowered:
    """The program as a run on `devices` calls it: the same function, the same arrays, the same shardings."""
    mesh, rules = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, devices), sharding.Rules()
    abstract, placed = state_shardings(cfg, mesh, rules)
    batch_sharding, rows = sharding.batch_sharding(mesh, rules), program.rows(cfg, mesh)
    array = partial(jax.ShapeDtypeStruct, sharding=batch_sharding)
    tokens = array((rows, cfg.model.seq_len), jnp.int32)
    batch = {"inputs": tokens, "labels": tokens, "puzzle_ids": array((rows,), jnp.int32)}
    state = with_shardings(abstract, placed)
    with target.made_for(devices[0].platform):
        if program.kind == "train":
            return jit_train_step(cfg, work(cfg).steps, program.cycles, placed, batch_sharding).lower(state, batch)
        step = jit_eval_step(cfg.model, cfg.model.halt_max_steps, mesh)
        return step.lower(evaluation_params(state), batch, array((rows,), jnp.bool_))
