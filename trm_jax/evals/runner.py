"""Evaluation: let a model think over puzzles and score its answers."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trm_jax import compiler, sharding
from trm_jax.metrics import means, score_sums
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
    """`eval_step(params, batch, counted) -> sums` at `num_steps` steps; `counted` [B] marks the real rows."""

    def eval_step(params, batch, counted):
        answers, q_halt = think(params, cfg, batch, num_steps)
        steps = jnp.full(counted.shape, num_steps)
        return score_sums(answers[-1], q_halt[-1], steps, batch["labels"], counted)

    return eval_step


class Evaluator:
    """Scores parameters on a fixed set of puzzles, compiled once.

    data: an evaluation source with inputs, labels [N, S] and puzzle_ids [N]; max_examples 0 means all.
    """

    def __init__(
        self, cfg: TRMConfig, data, *, mesh, rules, batch_size: int, max_examples: int = 0, num_steps: int = 0
    ):
        sharding.check_batch(mesh, rules, batch_size, "eval.batch_size")
        self.data = data
        self.total = min(max_examples or len(data.inputs), len(data.inputs))
        # A batch is no larger than the puzzles there are, rounded up to the devices that share it.
        self.batch_size = min(batch_size, round_up(self.total, mesh.size))
        batch_size = self.batch_size
        self.num_steps = num_steps or cfg.halt_max_steps
        self._sharding = sharding.batch_sharding(mesh, rules)
        self._slots = sharding.local_slots(self._sharding, batch_size)
        self._step = jax.jit(
            make_eval_step(cfg, self.num_steps),
            out_shardings=sharding.replicated(mesh),
            compiler_options=compiler.options(),
        )

    @property
    def num_batches(self) -> int:
        return -(-self.total // self.batch_size)

    def _batch(self, index: int) -> tuple[dict, jax.Array]:
        """Batch number `index`; rows past the end repeat the first puzzle and are not counted."""
        rows = index * self.batch_size + self._slots
        counted = rows < self.total
        rows = np.where(counted, rows, 0)
        local = {
            "inputs": self.data.inputs[rows],
            "labels": self.data.labels[rows],
            "puzzle_ids": self.data.puzzle_ids[rows],
            "counted": counted,
        }
        batch = sharding.put_batch(self._sharding, local, self.batch_size)
        return batch, batch.pop("counted")

    def __call__(self, params: dict, on_batch: Callable[[int, int], bool] | None = None) -> dict | None:
        """{"exact_accuracy", "accuracy", "q_halt_accuracy", "steps", "count"}.

        `on_batch(done, total)` is called before each batch; when it returns True the evaluation is given up
        and the result is None.
        """
        total: dict | None = None
        for index in range(self.num_batches):
            if on_batch and on_batch(index, self.num_batches):
                return None
            sums = jax.device_get(self._step(params, *self._batch(index)))
            sums = {name: np.float64(value) for name, value in sums.items()}
            total = sums if total is None else {name: total[name] + sums[name] for name in sums}
        return {**means(total), "count": int(total["count"])}
