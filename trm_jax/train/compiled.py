"""The compiled functions of a run, and where their arrays lie."""

from __future__ import annotations

from functools import cache, partial

import jax

from trm_jax import compiler, sharding
from trm_jax.data.dataset import DatasetInfo
from trm_jax.train.config import RunConfig
from trm_jax.train.curriculum import stage_at, stages
from trm_jax.train.memory import room, with_remat
from trm_jax.train.restore import started_from, with_given
from trm_jax.train.state import TrainState, abstract_state, initial_state, shardings_of
from trm_jax.train.step import hparams_of, make_train_step


def check_batches(cfg: RunConfig, mesh, rules: sharding.Rules) -> None:
    """Raise InputError unless the devices can share a batch, and the parts that it is accumulated from."""
    size, parts = cfg.train.batch_size, cfg.train.accumulation
    sharding.check_batch(mesh, rules, size, "train.batch_size")
    sharding.check_batch(mesh, rules, size // parts, "train.batch_size / train.accumulation =")


def jit_train_step(cfg: RunConfig, total_steps: int, model, abstract: TrainState, mesh):
    """The compiled `train_step(state, batch, hparams)` of training: it takes the state's memory.

    model: the family's config of a stage; abstract: of `abstract_state` on `mesh`.
    """
    whole, lies, rules = sharding.replicated(mesh), shardings_of(abstract), sharding.Rules()
    return jax.jit(
        sharding.traced_on(mesh, rules)(make_train_step(cfg, total_steps, model)),
        in_shardings=(lies, sharding.batch_sharding(mesh, rules), whole),
        out_shardings=(lies, whole),
        donate_argnums=0,
        compiler_options=compiler.options(cfg.train.deterministic),
    )


class Compiled:
    """What the training loop calls."""

    def __init__(self, cfg: RunConfig, info: DatasetInfo, devices=None):
        """devices: those the mesh spans (default: all)."""
        self._cfg = cfg
        self.total_steps = cfg.total_steps(info.groups, info.mean_examples_per_puzzle)
        self._stages = stages(cfg, self.total_steps, info.groups * info.mean_examples_per_puzzle)
        self.mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, devices)
        rules = sharding.Rules()
        check_batches(cfg, self.mesh, rules)
        self._batch_lies = sharding.batch_sharding(self.mesh, rules)
        self.slots = sharding.local_slots(self._batch_lies, cfg.train.batch_size)
        self.abstract = abstract_state(cfg, self.mesh)
        self._hparams = sharding.put_whole(self.mesh, hparams_of(cfg, self.total_steps))
        self.room = room(self.mesh.local_devices)  # the trainer makes it that of the smallest device of all
        self._step_of = cache(
            lambda model: jit_train_step(cfg, self.total_steps, self.settled(model), self.abstract, self.mesh)
        )

    def settled(self, model):
        """The family's config with model.remat settled by the memory there is."""
        return with_remat(self._cfg, model, self.mesh, self.room)

    def first_state(self, data=None) -> TrainState:
        """Where the run begins; data: the training source, where it gives parameters that are not learned."""
        make = jax.jit(partial(initial_state, self._cfg), out_shardings=shardings_of(self.abstract))
        state = make(jax.random.key(self._cfg.seed))
        state = state.replace(params=with_given(state.params, data, self.mesh))
        return started_from(self._cfg, state, self.mesh) if self._cfg.train.start_from else state

    def train_step(self, state: TrainState, step: int, rows: dict) -> tuple[TrainState, dict]:
        """(state, sums) of update number `step` + 1; rows: those of the batch that are this process's (`slots`)."""
        batch = sharding.put_batch(self._batch_lies, rows, self._cfg.train.batch_size)
        state, sums = self._step_of(stage_at(self._stages, step))(state, batch, self._hparams)
        if not sharding.may_queue(self.mesh):
            jax.block_until_ready(state.step)
        return state, sums
