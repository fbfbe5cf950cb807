"""The compiled functions of training: of one run, or of several side by side as one vectorised program.

Several runs are stacked along a new first axis, the lanes: their states, their batches and their numbers.
"""

from __future__ import annotations

from functools import cache, partial

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from trm_jax import compiler, sharding
from trm_jax.evals.runner import Evaluator
from trm_jax.train.config import RunConfig
from trm_jax.train.curriculum import stage_at, stages
from trm_jax.train.state import (
    TrainState,
    evaluation_params,
    initial_state,
    other_evaluation_params,
    state_shardings,
    with_shardings,
    zero_sums,
)
from trm_jax.train.step import make_train_step, numbers_of


def _lanes_before(lies: NamedSharding) -> NamedSharding:
    """The sharding of a stack of arrays that lie so: every device holds its part of every lane."""
    return NamedSharding(lies.mesh, PartitionSpec(None, *lies.spec))


def _unstack(tree, lanes: int) -> list:
    leaves, treedef = jax.tree.flatten(tree)
    return [treedef.unflatten([leaf[lane] for leaf in leaves]) for lane in range(lanes)]


def check_batches(cfg: RunConfig, mesh, rules: sharding.Rules) -> None:
    """Raise InputError unless the devices can share a batch, and the parts that it is accumulated from."""
    size, parts = cfg.train.batch_size, cfg.train.accumulation
    sharding.check_batch(mesh, rules, size, "train.batch_size")
    sharding.check_batch(mesh, rules, size // parts, "train.batch_size / train.accumulation =")


def jit_train_step(cfg: RunConfig, total_steps: int, cycles: tuple[int, int], lies, batch_lies, stacked: bool = False):
    """The compiled `train_step` of training: where its state and its batch lie, and that it takes the state's memory.

    cycles: (L_cycles, H_cycles). stacked: of several runs side by side, with their `Numbers` as the third argument.
    """
    step = make_train_step(cfg, total_steps, cycles)
    return jax.jit(
        jax.vmap(step) if stacked else step,
        in_shardings=(lies, batch_lies) + (None,) * stacked,
        out_shardings=lies,
        donate_argnums=0,
        compiler_options=compiler.options(),
    )


class Programs:
    """What the training loop calls, compiled for `cfgs`: one run, or several that differ in numbers only."""

    def __init__(self, cfgs: list[RunConfig], data, devices=None):
        train_data, eval_data = data
        self.cfgs, cfg = cfgs, cfgs[0]
        self.stacked = len(cfgs) > 1
        info = train_data.info
        self.total_steps = cfg.total_steps(info.groups, info.mean_examples_per_puzzle)
        self._stages = stages(cfg, self.total_steps, info.groups * info.mean_examples_per_puzzle)

        self.mesh = sharding.make_mesh(cfg.mesh.data, cfg.mesh.fsdp, cfg.mesh.tensor, devices)
        rules = sharding.Rules()
        check_batches(cfg, self.mesh, rules)
        self._batch_lies = sharding.batch_sharding(self.mesh, rules)
        self.slots = sharding.local_slots(self._batch_lies, cfg.train.batch_size)
        abstract, self.lies_alone = state_shardings(cfg, self.mesh, rules)
        self.abstract = with_shardings(abstract, self.lies_alone)  # of one run: what a checkpoint holds
        self._lies = jax.tree.map(_lanes_before, self.lies_alone) if self.stacked else self.lies_alone

        numbers = [numbers_of(cfg, self.total_steps) for cfg in cfgs]
        self._numbers = jax.tree.map(lambda *x: np.asarray(x, np.float32), *numbers)  # each [lanes]
        self._step_of = cache(self._compile_step)
        self._split = jax.jit(
            partial(_unstack, lanes=len(cfgs)),
            out_shardings=[self.lies_alone] * len(cfgs),
        )
        self._join = jax.jit(
            lambda trees: jax.tree.map(lambda *x: jax.numpy.stack(x), *trees), out_shardings=self._lies
        )
        self._zero_sums = jax.jit(self._make_zero_sums, out_shardings=self._lies.sums)
        self.evaluate = Evaluator(
            cfg.model,
            eval_data,
            mesh=self.mesh,
            rules=rules,
            batch_size=cfg.eval.batch_size,
            max_examples=cfg.eval.max_examples,
            lanes=len(cfgs) if self.stacked else 0,
        )
        # Collectives of several CPU devices share one thread pool and can starve each other when steps are queued.
        self._one_at_a_time = self.mesh.size > 1 and jax.default_backend() == "cpu"

    def _compile_step(self, cycles: tuple[int, int]):
        batch_lies = _lanes_before(self._batch_lies) if self.stacked else self._batch_lies
        return jit_train_step(self.cfgs[0], self.total_steps, cycles, self._lies, batch_lies, self.stacked)

    def _make_zero_sums(self):
        zeros = zero_sums(self.cfgs[0])
        if not self.stacked:
            return zeros
        return jax.tree.map(lambda x: jax.numpy.broadcast_to(x, (len(self.cfgs), *x.shape)), zeros)

    def first_state(self) -> TrainState:
        """Where the runs begin."""
        make = jax.jit(partial(initial_state, self.cfgs[0]), out_shardings=self.lies_alone)
        return self.join([make(jax.random.key(cfg.seed)) for cfg in self.cfgs])

    def join(self, states: list[TrainState]) -> TrainState:
        return self._join(states) if self.stacked else states[0]

    def split(self, state: TrainState) -> list[TrainState]:
        return self._split(state) if self.stacked else [state]

    def lanes_of(self, fetched) -> list:
        """The same for a tree on the host."""
        return _unstack(fetched, len(self.cfgs)) if self.stacked else [fetched]

    def train_step(self, state: TrainState, step: int, batches: list[dict]) -> TrainState:
        """Update number `step` + 1; batches: the rows `slots` of each run's batch."""
        step_fn = self._step_of(stage_at(self._stages, step)[1:])
        size = self.cfgs[0].train.batch_size
        if self.stacked:
            lanes = len(batches)
            rows = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
            lies = _lanes_before(self._batch_lies)
            batch = {
                name: jax.make_array_from_process_local_data(lies, x, (lanes, size, *x.shape[2:]))
                for name, x in rows.items()
            }
            state = step_fn(state, batch, self._numbers)
        else:
            state = step_fn(state, sharding.put_batch(self._batch_lies, batches[0], size))
        if self._one_at_a_time:
            jax.block_until_ready(state.step)
        return state

    def without_sums(self, state: TrainState) -> TrainState:
        """The state with the sums of its metrics at zero."""
        return state.replace(sums=self._zero_sums())

    def scores(self, state: TrainState, on_batch) -> list[dict] | None:
        """Evaluation scores of each run, those of `optim.ema_also` as exact_accuracy_NAME; None when given up."""
        scores = self.evaluate.each(evaluation_params(state), on_batch)
        if scores is None:
            return None
        for name, params in other_evaluation_params(state).items():
            others = self.evaluate.each(params, on_batch)
            if others is None:
                return None
            for own, other in zip(scores, others, strict=True):
                own[f"exact_accuracy_{name}"] = other["exact_accuracy"]
        return scores
