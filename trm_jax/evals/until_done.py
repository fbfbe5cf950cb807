"""Inference that stops when it is done: a finished puzzle leaves the batch and the next one takes its row.

For families built on `trm_jax.models.supervision.Supervision`. All puzzles lie on the devices, each device has a share
of its own, and a loop there gives out rows: one compilation, no step in which the host is asked.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.sharding import PartitionSpec

from trm_jax import compiler, sharding
from trm_jax.data.dataset import EvalSource
from trm_jax.evals.runner import rows_of_batch

# When a row is finished: (q_halt [B], whether the whole answer is that of the step before [B]) -> [B].
RULES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "q": lambda q_halt, same: q_halt > 0,
    "settled": lambda q_halt, same: same,
}


class Finished(NamedTuple):
    """What was said of each puzzle when it left, in the order of the puzzles."""

    answers: np.ndarray  # [N, S] int32
    q_halt: np.ndarray  # [N] float32
    steps: np.ndarray  # [N] int32: supervision steps that it took
    stopped: np.ndarray  # [N] bool: the rule held; else it had all steps


@struct.dataclass
class _State:
    """Of one device: B rows at work, n puzzles of its share."""

    carry: Any
    place: jax.Array  # [B] int32: the puzzle of each row
    before: jax.Array  # [B, S] int32: its answer of the step before, -1 where there was none
    next: jax.Array  # [1] int32: the first puzzle that no row has had
    left: jax.Array  # [1] int32: puzzles that are not finished
    found: Finished  # of arrays [n, ...]


def _begin(family, cfg, rows: int, puzzles: dict, count: jax.Array) -> _State:
    """No row is at work. count [1] int32: how many of the device's puzzles there are, the others are padding."""
    size, length = puzzles["inputs"].shape
    zeros = partial(jnp.zeros, dtype=jnp.int32)
    answers, q_halt = zeros((size, length)), jnp.zeros(size, jnp.float32)
    found = Finished(answers, q_halt, zeros(size), jnp.zeros(size, bool))
    return _State(family.initial_carry(cfg, rows), zeros(rows), zeros((rows, length)), zeros(1), count, found)


def _think(family, cfg, rule: str, most: int, params: dict, puzzles: dict, count: jax.Array, state: _State) -> _State:
    """Up to `most` supervision steps, fewer where all puzzles are finished before."""
    size = puzzles["inputs"].shape[0]

    def step(numbered):
        number, state = numbered
        fresh = state.carry.halted
        place = jnp.where(fresh, state.next + jnp.cumsum(fresh, dtype=jnp.int32) - 1, state.place)
        idle = place >= count  # no puzzle is left for the row
        batch = {name: x[jnp.minimum(place, size - 1)] for name, x in puzzles.items()}
        carry, out = family.step(params, cfg, state.carry, batch)
        answers = jnp.argmax(out.logits, -1).astype(jnp.int32)
        same = (answers == jnp.where(fresh[:, None], -1, state.before)).all(-1)
        stops = RULES[rule](out.q_halt, same)
        done = stops | carry.halted
        leaving = jnp.where(done & ~idle, place, size)  # beyond the end nothing is written
        said = Finished(answers, out.q_halt, carry.steps, stops)
        return number + 1, _State(
            carry.replace(halted=done | idle),
            place,
            answers,
            jnp.minimum(state.next + jnp.sum(fresh, dtype=jnp.int32), count),
            state.left - jnp.sum(done & ~idle, dtype=jnp.int32),
            jax.tree.map(lambda all, new: all.at[leaving].set(new, mode="drop"), state.found, said),
        )

    return lax.while_loop(lambda numbered: (numbered[0] < most) & (numbered[1].left[0] > 0), step, (0, state))[1]


class UntilDone:
    """Lets a model think over a fixed set of puzzles, each until `rule` holds or it had `num_steps` supervision steps
    (0: the model's own number); compiled once.

    What it says of a puzzle is what `think` says at that step: neither order nor batch nor mesh change it.
    cfg: a `RunConfig`, whose `eval` says how many puzzles and rows.
    """

    def __init__(self, cfg, data: EvalSource, mesh, rule: str, num_steps: int = 0):
        rules = sharding.Rules()
        sharding.check_batch(mesh, rules, cfg.eval.batch_size, "eval.batch_size")
        self.total = min(cfg.eval.max_examples or len(data), len(data))
        self.steps = num_steps or cfg.model.halt_max_steps
        self._cfg, self._data, self._mesh = cfg, data, mesh
        self._share = math.ceil(self.total / mesh.size)  # puzzles of a device
        self._sharding = sharding.batch_sharding(mesh, rules)
        rows = rows_of_batch(cfg.eval.batch_size, self.total, mesh) // mesh.size
        model = dataclasses.replace(cfg.model, halt_max_steps=self.steps)
        whole, shared = PartitionSpec(), self._sharding.spec
        on_each = partial(jax.shard_map, mesh=mesh, out_specs=shared, check_vma=False)
        begin = on_each(partial(_begin, cfg.family, model, rows), in_specs=(shared, shared))
        # A call is as many steps as a batch has at full depth, so the host hears of it as often as in an evaluation.
        think = partial(_think, cfg.family, model, rule, self.steps)
        think = on_each(think, in_specs=(whole, shared, shared, shared))
        options = compiler.options(cfg.train.deterministic)
        self._begin = jax.jit(begin, compiler_options=options)
        self._think = jax.jit(think, donate_argnums=3, compiler_options=options)
        self._left = jax.jit(lambda state: state.left + 0)  # apart from the state, which the next call takes
        self._score = jax.jit(partial(cfg.task.score, cfg.data), compiler_options=options)

    def _put(self, x: np.ndarray) -> jax.Array:
        return jax.device_put(x, self._sharding)

    def __call__(
        self, params: dict, on_call: Callable[[int, int], Any] | None = None, first: int = 0
    ) -> tuple[Finished, dict[str, float]]:
        """What was said, and the task's scores of it, the ballot's where it has one; first: so many puzzles only,
        unless 0. `on_call(finished, total)` hears how far it is."""
        total, size = min(first or self.total, self.total), self._share * self._mesh.size
        rows = self._data.rows(np.minimum(np.arange(size), total - 1))
        puzzles = {name: self._put(x) for name, x in rows.items()}
        counts = np.clip(total - self._share * np.arange(self._mesh.size), 0, self._share)
        count = self._put(counts.astype(np.int32))
        state = self._begin(puzzles, count)
        left = total
        while left:  # one call ahead of the host
            ahead = self._left(state)
            state = self._think(params, puzzles, count, state)
            left = int(np.sum(jax.device_get(ahead)))
            if on_call:
                on_call(total - left, total)
        counted = self._put(np.arange(size) < total)
        sums = jax.device_get(self._score(state.found.answers, puzzles, counted))
        found = jax.tree.map(lambda x: np.asarray(x)[:total], state.found)
        scores = self._cfg.task.finish({name: np.float64(value) for name, value in sums.items()})
        if hasattr(self._cfg.task, "ballot"):
            ballot = self._cfg.task.ballot(self._cfg.data, self._data)
            ballot.add(np.arange(total), found.answers, found.q_halt)
            scores = {**ballot.scores(), **scores}
        return found, scores
