"""Evaluation: let a model think over puzzles and score its answers."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import jax
import numpy as np

from trm_jax import compiler, sharding
from trm_jax.data.dataset import EvalSource
from trm_jax.models.layers import round_up

_EARLY = "early_exit_"  # scores of rows that stop by themselves


def jit_eval_step(cfg, num_steps: int, mesh):
    """The compiled `eval_step(params, batch, counted) -> (sums, rows)` of a run's task and family.

    cfg: a `RunConfig`; num_steps: supervision steps, 0 for the model's own; `counted` [B] marks the real rows. rows:
    the answers, at every process all of them, where the task collects them; else {}.
    """
    score, collects = partial(cfg.task.score, cfg.data), hasattr(cfg.task, "ballot")

    @sharding.traced_on(mesh, sharding.Rules())
    def eval_step(params, batch, counted):
        sums = cfg.family.evaluate(params, cfg.model, batch, counted, score, num_steps)
        rows = sums.pop("rows", {})
        return sums, rows if collects else {}

    return jax.jit(
        eval_step,
        out_shardings=sharding.replicated(mesh),
        compiler_options=compiler.options(cfg.train.deterministic),
    )


def finish(cfg, sums: Mapping, sequences: float = 0) -> dict:
    """Figures of a record from fetched sums; sequences: how many rows were trained on meanwhile, for their losses."""
    early = {name.removeprefix(_EARLY): value for name, value in sums.items() if name.startswith(_EARLY)}
    early_scores = cfg.task.finish({**sums, **early}) if early else {}
    return {
        **cfg.task.finish(sums),
        **{f"{_EARLY}{name}": value for name, value in early_scores.items() if name in early},
        **cfg.family.finish(sums, float(sums["count"]), sequences),
    }


def rows_of_batch(batch_size: int, puzzles: int, mesh) -> int:
    """Rows of an evaluation's batches: no more than the puzzles there are, rounded up to the devices that share it."""
    return min(batch_size, round_up(puzzles, mesh.size))


def added(sums: Sequence[Mapping]) -> dict[str, np.ndarray]:
    """The fetched sums of several batches, each exact or rounded once in float32, added up in float64."""
    return {name: sum(np.float64(one[name]) for one in sums) for name in sums[0]}


class Evaluator:
    """Scores parameters on a fixed set of puzzles, compiled once; cfg: a `RunConfig`, whose `eval` says how many."""

    def __init__(self, cfg, data: EvalSource, mesh, num_steps: int = 0):
        rules, size = sharding.Rules(), cfg.eval.batch_size
        sharding.check_batch(mesh, rules, size, "eval.batch_size")
        self._cfg, self._data = cfg, data
        self.steps = num_steps or getattr(cfg.model, "halt_max_steps", 1)
        self.total = min(cfg.eval.max_examples or len(data), len(data))
        self.rows = rows_of_batch(size, self.total, mesh)  # of a batch
        self._sharding = sharding.batch_sharding(mesh, rules)
        self._slots = sharding.local_slots(self._sharding, self.rows)
        self._step = jit_eval_step(cfg, num_steps, mesh)
        self._ahead = int(sharding.may_queue(mesh))
        self._collects, self.ballot = hasattr(cfg.task, "ballot"), None  # of the last call

    @property
    def num_batches(self) -> int:
        return -(-self.total // self.rows)

    def batch(self, index: int, total: int) -> tuple[dict, jax.Array]:
        """Batch number `index`; rows past the end repeat the first puzzle and are not counted."""
        rows = index * self.rows + self._slots
        counted = rows < total
        local = {**self._data.rows(np.where(counted, rows, 0)), "counted": counted}
        batch = sharding.put_batch(self._sharding, local, self.rows)
        return batch, batch.pop("counted")

    def __call__(
        self, params: dict, on_batch: Callable[[int, int], bool] | None = None, first: int = 0, *, more: bool = False
    ) -> dict | None:
        """The scores, "count" among them; first: so many of the puzzles only, unless 0. `on_batch(done, total)` is
        called before each batch; when it returns True the evaluation is given up and the result is None. more: the
        answers go to the ballot of the last call, and its scores are of them all."""
        totals = self.sums(params, on_batch, first, more=more)
        if totals is None:
            return None
        voted = self.ballot.scores() if self.ballot else {}
        return {**voted, **finish(self._cfg, totals), "count": int(totals["count"])}

    def sums(
        self, params: dict, on_batch: Callable[[int, int], bool] | None = None, first: int = 0, *, more: bool = False
    ) -> dict | None:
        """What the scores are made of: see `added`."""
        total = min(first or self.total, self.total)
        if self._collects and not more:
            self.ballot = self._cfg.task.ballot(self._cfg.data, self._data)
        count, sums, waiting = -(-total // self.rows), [], deque()
        for index in range(count):
            if on_batch and on_batch(index, count):
                return None
            done, rows = self._step(params, *self.batch(index, total))
            sums.append(done)
            waiting.append((index, done, rows))
            # The host makes one batch while the devices are at another, and is no further ahead of them.
            while len(waiting) > self._ahead:
                self._collect(*waiting.popleft(), total)
        while waiting:
            self._collect(*waiting.popleft(), total)
        return added(jax.device_get(sums))

    def _collect(self, index: int, sums: dict, rows: dict, total: int) -> None:
        """Wait for batch number `index`; its answers go to the ballot, where there is one."""
        jax.block_until_ready(sums)
        if self.ballot:
            fetched = jax.device_get(rows)
            indices = np.arange(index * self.rows, min((index + 1) * self.rows, total))
            self.ballot.add(indices, fetched["answers"][: len(indices)], fetched["q_halt"][: len(indices)])
