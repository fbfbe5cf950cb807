"""What a model does while it thinks, measured: the first half of `trm eval --diagnose`.

For families built on `trm_jax.models.supervision.Supervision`. T = supervision steps, N = puzzles.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trm_jax import compiler, sharding
from trm_jax.data.dataset import IGNORED, Batch, DatasetInfo
from trm_jax.evals.runner import Evaluator
from trm_jax.evals.until_done import RULES


@dataclass(frozen=True)
class Originals:
    """The originals of training puzzles, as rows to be scored; pool: of a `PoolTrain`."""

    info: DatasetInfo
    pool: Any

    def __len__(self) -> int:
        return self.info.groups

    def rows(self, indices: np.ndarray) -> Batch:
        return self.pool.examples(indices, np.zeros_like(indices))


def headline(task: Any) -> str:
    """The score of a single answer: the task's headline, but where that is of votes."""
    return "exact_accuracy" if hasattr(task, "ballot") else task.headline


def jit_diagnose(cfg, num_steps: int, mesh) -> Callable[[dict, dict, jax.Array], tuple[dict, dict]]:
    """The compiled `diagnose(params, batch, counted) -> (sums by step {name: [T]}, rows {name: [B]})` of a run.

    The sums are over the rows that are scored. residual: |latents after - latents before the step|, over all latents of
    a row; changed: tokens of the answer that differ from the step before (neither means anything in step 1); score: of
    `headline`; halts: q_halt > 0. Of a row: known (it is scored), score, exact and q_halt at the last step, settled_at
    (the first step after which its answer never changes), and where a rule of `until_done.RULES` would stop it:
    RULE_steps, RULE_score, RULE_stopped (it holds there).
    """
    family, model = cfg.family, dataclasses.replace(cfg.model, halt_max_steps=num_steps)

    def one_row(answers, row):
        sums = cfg.task.score(cfg.data, answers[None], {name: x[None] for name, x in row.items()}, jnp.ones(1, bool))
        return sums[headline(cfg.task)], sums["count"] > 0

    @sharding.traced_on(mesh, sharding.Rules())
    def diagnose(params, batch, counted):
        zeros = jnp.zeros(counted.shape, jnp.float32)
        rows = {name: zeros for name in ("known", "score", "exact", "q_halt", "settled_at")}
        rows |= {f"{rule}_{what}": zeros for rule in RULES for what in ("steps", "score", "stopped")}

        def step(state, number):
            before, answered, rows = state
            carry, out = family.step(params, model, before, batch)
            answers = jnp.argmax(out.logits, -1).astype(jnp.int32)
            moved = (jnp.float32(getattr(carry, name)) - jnp.float32(getattr(before, name)) for name in family.LATENTS)
            residual = jnp.sqrt(sum(jnp.sum(x * x, tuple(range(1, x.ndim))) for x in moved))
            changed = jnp.sum(answers != answered, -1)
            score, known = jax.vmap(one_row)(answers, batch)
            known &= counted
            exact = ((answers == batch["labels"]) | (batch["labels"] == IGNORED)).all(-1)
            now = {"known": known, "score": score, "exact": exact, "q_halt": out.q_halt}
            now["settled_at"] = jnp.where(changed > 0, number, rows["settled_at"])
            for rule, holds_where in RULES.items():
                holds = holds_where(out.q_halt, changed == 0)
                ends = (rows[f"{rule}_steps"] == 0) & (holds | (number == num_steps))
                for what, value in (("steps", number), ("score", score), ("stopped", holds)):
                    now[f"{rule}_{what}"] = jnp.where(ends, value, rows[f"{rule}_{what}"])
            sums = {"residual": residual, "changed": changed, "score": score, "halts": out.q_halt > 0}
            sums = {name: jnp.sum(jnp.where(known, x, 0), dtype=jnp.float32) for name, x in sums.items()}
            return (carry, answers, {name: x.astype(jnp.float32) for name, x in now.items()}), sums

        start = family.initial_carry(model, counted.size), jnp.full_like(batch["labels"], -1), rows
        (*_, rows), sums = lax.scan(step, start, jnp.arange(1, num_steps + 1))
        return sums, rows

    return jax.jit(
        diagnose,
        out_shardings=sharding.replicated(mesh),
        compiler_options=compiler.options(cfg.train.deterministic),
    )


class Diagnosis:
    """Measures a run on puzzles, compiled once; cfg: a `RunConfig`; num_steps: 0 for the model's own."""

    def __init__(self, cfg, mesh, num_steps: int = 0):
        self.steps = num_steps or cfg.model.halt_max_steps
        self._cfg, self._mesh, self._ahead = cfg, mesh, int(sharding.may_queue(mesh))
        self._diagnose = jit_diagnose(cfg, self.steps, mesh)

    def batches(self, data, most: int = 0) -> Evaluator:
        """What cuts an `EvalSource` into batches; most: so many puzzles, 0: as many as the run's `eval` says."""
        settings = dataclasses.replace(self._cfg.eval, max_examples=most or self._cfg.eval.max_examples)
        return Evaluator(dataclasses.replace(self._cfg, eval=settings), data, self._mesh)

    def measure(
        self, params: dict, batches: Evaluator, on_batch: Callable[[int, int], Any] | None = None
    ) -> tuple[dict, dict]:
        """(sums by step {name: [T]}, rows {name: [N]}) of all puzzles of `batches`, in float64."""
        waiting, found = deque(), []
        for index in range(batches.num_batches):
            if on_batch:
                on_batch(index, batches.num_batches)
            waiting.append(self._diagnose(params, *batches.batch(index, batches.total)))
            while len(waiting) > self._ahead:
                found.append(jax.device_get(waiting.popleft()))
        found += map(jax.device_get, waiting)
        sums, rows = zip(*found, strict=True)
        sums = {name: np.sum([one[name] for one in sums], 0, np.float64) for name in sums[0]}
        rows = {name: np.concatenate([one[name] for one in rows])[: batches.total] for name in rows[0]}
        return sums, {name: x.astype(np.float64) for name, x in rows.items()}
