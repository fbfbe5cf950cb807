"""Analytic matmul FLOPs of a run, by the counting of `trm.matmul_flops`: useful work, nothing rematerialised."""

from __future__ import annotations

from trm_jax.models import trm
from trm_jax.train.config import RunConfig
from trm_jax.train.curriculum import stages


def step_flops(cfg: RunConfig) -> int:
    """FLOPs of one update on a whole batch at the recursion that the run ends with."""
    return cfg.train.batch_size * trm.matmul_flops(cfg.model)[1]


def train_flops(cfg: RunConfig, total_steps: int, examples_per_epoch: float) -> int:
    """FLOPs of all updates, those of a curriculum at the recursion of their stage; evaluations not counted.

    examples_per_epoch: training puzzles times mean examples per puzzle (for Sudoku: the puzzles).
    """
    found = stages(cfg, total_steps, examples_per_epoch)
    ends = [*found[1:], (total_steps, 0, 0)]
    flops = 0
    for (first, L_cycles, H_cycles), (end, *_) in zip(found, ends, strict=True):
        model = trm.with_cycles(cfg.model, L_cycles, H_cycles)
        flops += (end - first) * cfg.train.batch_size * trm.matmul_flops(model)[1]
    return flops


def eval_flops(cfg: RunConfig, puzzles: int) -> int:
    """FLOPs of one evaluation of `puzzles` puzzles: each runs all its supervision steps."""
    return puzzles * cfg.model.halt_max_steps * trm.matmul_flops(cfg.model)[0]
