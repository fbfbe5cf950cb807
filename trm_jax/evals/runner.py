"""Evaluation: let a model think over puzzles and score its answers."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trm_jax import compiler, sharding
from trm_jax.data.dataset import EvalSource
from trm_jax.metrics import halt_histogram, means, score_sums
from trm_jax.models import TRMConfig, trm
from trm_jax.models.layers import round_up


def think(params: dict, cfg: TRMConfig, batch: dict, num_steps: int) -> tuple[jax.Array, jax.Array]:
    """Answers [num_steps, B, S] int32 and q_halt [num_steps, B] after each supervision step from a fresh start.

    No row stops early: the reference evaluates every sequence at exactly halt_max_steps steps.
    """
    carry = trm.refill(params["buffers"], trm.initial_carry(cfg, batch["inputs"].shape[0]), batch)
    rows = jnp.take(params["puzzle_emb"], carry.puzzle_ids, axis=0)

    def supervise(z, _):
        z_H, z_L, out = trm.forward(params["weights"], rows, cfg, carry.inputs, *z)
        return (z_H, z_L), (jnp.argmax(out.logits, -1).astype(jnp.int32), out.q_halt)

    _, (answers, q_halt) = lax.scan(supervise, (carry.z_H, carry.z_L), length=num_steps)
    return answers, q_halt


def make_eval_step(cfg: TRMConfig, num_steps: int):
    """`eval_step(params, batch, counted) -> sums` at `num_steps` steps; `counted` [B] marks the real rows.

    Besides the reference's scores: those of rows that stop at their first q_halt > 0 (our extension), as "early_exit_",
    and how many rows would stop at each step, "halt_steps" [num_steps] (the last one counts those that never would).
    """

    def eval_step(params, batch, counted):
        answers, q_halt = think(params, cfg, batch, num_steps)
        wants = (q_halt > 0).at[-1].set(True)
        first = jnp.argmax(wants, axis=0)
        rows = jnp.arange(first.size)
        steps = jnp.full(counted.shape, num_steps)
        early = score_sums(answers[first, rows], q_halt[first, rows], first + 1, batch["labels"], counted)
        return {
            **score_sums(answers[-1], q_halt[-1], steps, batch["labels"], counted),
            "early_exit_exact_accuracy": early["exact_accuracy"],
            "early_exit_steps": early["steps"],
            "halt_steps": halt_histogram(first + 1, counted, num_steps),
        }

    return eval_step


def jit_eval_step(cfg: TRMConfig, num_steps: int, mesh, lanes: int = 0):
    """The compiled `eval_step` of evaluations; with lanes, of so many models stacked along a new first axis."""
    step = make_eval_step(cfg, num_steps)
    return jax.jit(
        jax.vmap(step, in_axes=(0, None, None)) if lanes else step,
        out_shardings=sharding.replicated(mesh),
        compiler_options=compiler.options(),
    )


def rows_of_batch(batch_size: int, puzzles: int, mesh) -> int:
    """Rows of an evaluation's batches: no more than the puzzles there are, rounded up to the devices that share it."""
    return min(batch_size, round_up(puzzles, mesh.size))


class Evaluator:
    """Scores parameters on a fixed set of puzzles, compiled once.

    max_examples 0 means all.
    lanes: parameters are those of so many models, stacked along a new first axis; 0 = of one.
    """

    def __init__(
        self,
        cfg: TRMConfig,
        data: EvalSource,
        *,
        mesh,
        rules,
        batch_size: int,
        max_examples: int = 0,
        num_steps: int = 0,
        lanes: int = 0,
    ):
        sharding.check_batch(mesh, rules, batch_size, "eval.batch_size")
        self.data = data
        self.total = min(max_examples or len(data), len(data))
        self.batch_size = batch_size = rows_of_batch(batch_size, self.total, mesh)
        self.num_steps = num_steps or cfg.halt_max_steps
        self._sharding = sharding.batch_sharding(mesh, rules)
        self._slots = sharding.local_slots(self._sharding, batch_size)
        self._lanes = lanes
        self._step = jit_eval_step(cfg, self.num_steps, mesh, lanes)

    @property
    def num_batches(self) -> int:
        return -(-self.total // self.batch_size)

    def _batch(self, index: int) -> tuple[dict, jax.Array]:
        """Batch number `index`; rows past the end repeat the first puzzle and are not counted."""
        rows = index * self.batch_size + self._slots
        counted = rows < self.total
        rows = np.where(counted, rows, 0)
        local = {**self.data.rows(rows), "counted": counted}
        batch = sharding.put_batch(self._sharding, local, self.batch_size)
        return batch, batch.pop("counted")

    def __call__(self, params: dict, on_batch: Callable[[int, int], bool] | None = None) -> dict | None:
        """The scores of one model, without lanes; see `each`."""
        scores = self.each(params, on_batch)
        return scores and scores[0]

    def each(self, params: dict, on_batch: Callable[[int, int], bool] | None = None) -> list[dict] | None:
        """The scores of each lane's model.

        {"exact_accuracy", "accuracy", "q_halt_accuracy", "steps", "count", "early_exit_exact_accuracy",
        "early_exit_steps", "halt_steps": a count for each step}. `on_batch(done, total)` is called before each batch;
        when it returns True the evaluation is given up and the result is None.
        """
        total: dict | None = None
        for index in range(self.num_batches):
            if on_batch and on_batch(index, self.num_batches):
                return None
            sums = jax.device_get(self._step(params, *self._batch(index)))
            sums = {name: np.float64(value) for name, value in sums.items()}
            total = sums if total is None else {name: total[name] + sums[name] for name in sums}
        lanes = [{name: x[lane] for name, x in total.items()} for lane in range(self._lanes)] or [total]
        return [_scores(sums) for sums in lanes]


def _scores(sums: dict) -> dict:
    count = max(float(sums["count"]), 1.0)
    early = {name: float(sums[name] / count) for name in ("early_exit_exact_accuracy", "early_exit_steps")}
    halts = [int(n) for n in sums["halt_steps"]]
    return {**means(sums), "count": int(sums["count"]), **early, "halt_steps": halts}
