"""The curriculum over recursion: L_cycles and H_cycles grow to the model's while the run goes on."""

from __future__ import annotations

import dataclasses
from fractions import Fraction
from math import ceil
from typing import Any

from trm_jax.train.config import RunConfig

Stage = tuple[int, Any]  # first step, the model's config


def stages(cfg: RunConfig, total_steps: int, examples_per_epoch: float) -> list[Stage]:
    """The stages of a run in order; the first one begins at step 0, and without a curriculum it is the only one.

    After s updates p = min(epoch / curriculum_epochs, 1) with epoch = s * batch / examples_per_epoch;
    L = int(L_start + (L - L_start) * p), and H alike. Latents keep their shapes, so the carry lives on.
    """
    starts = cfg.curriculum_start
    if not starts:
        return [(0, cfg.model)]
    ends = {name: getattr(cfg.model, name) for name in starts}
    # In whole numbers: a float a hair below 1 would lose a step of the growth.
    length = cfg.train.curriculum_epochs * Fraction(examples_per_epoch) / cfg.train.batch_size
    grown = {ceil(length * k / (ends[n] - starts[n])) for n in starts for k in range(1, ends[n] - starts[n] + 1)}
    found = []
    for step in sorted({0} | {step for step in grown if step < total_steps}):
        p = min(step / length, Fraction(1))
        cycles = {name: int(start + (ends[name] - start) * p) for name, start in starts.items()}
        if cycles.get("H_cycles") == 1 and hasattr(cfg.model, "frozen_products"):
            cycles["frozen_products"] = "exact"  # no cycle is frozen yet
        found.append((step, dataclasses.replace(cfg.model, **cycles)))
    return found


def stage_at(found: list[Stage], step: int) -> Any:
    """The model's config in which update number `step` + 1 is computed."""
    return [model for first, model in found if first <= step][-1]


def train_flops(cfg: RunConfig, total_steps: int, examples_per_epoch: float) -> int:
    """Analytic matmul FLOPs of all updates, those of a curriculum at the recursion of their stage.

    examples_per_epoch: training puzzles times mean examples per puzzle (for Sudoku: the puzzles).
    """
    found = stages(cfg, total_steps, examples_per_epoch)
    ends = [first for first, _ in found[1:]] + [total_steps]
    steps = [(end - first, model) for (first, model), end in zip(found, ends, strict=True)]
    return sum(count * cfg.train.batch_size * cfg.family.flops(model)[0] for count, model in steps)
