"""The curriculum over recursion: L_cycles and H_cycles grow to the model's while the run goes on."""

from __future__ import annotations

from fractions import Fraction
from math import ceil

from trm_jax.train.config import RunConfig

Stage = tuple[int, int, int]  # first step, L_cycles, H_cycles


def stages(cfg: RunConfig, total_steps: int, examples_per_epoch: float) -> list[Stage]:
    """The stages of a run in order; the first one begins at step 0, and without a curriculum it is the only one.

    After s updates p = min(epoch / curriculum_epochs, 1) with epoch = s * batch / examples_per_epoch;
    L = int(L_start + (L - L_start) * p), and H alike. Latents keep their shapes, so the carry lives on.
    """
    final = (cfg.model.L_cycles, cfg.model.H_cycles)
    if not cfg.train.curriculum_epochs:
        return [(0, *final)]
    start = (cfg.train.curriculum_L_start, cfg.train.curriculum_H_start)
    # In whole numbers: a float a hair below 1 would lose a step of the growth.
    length = cfg.train.curriculum_epochs * Fraction(examples_per_epoch) / cfg.train.batch_size
    grown = {
        ceil(length * k / (last - first))
        for first, last in zip(start, final, strict=True)
        for k in range(1, last - first + 1)
    }
    found = []
    for step in sorted({0} | {step for step in grown if step < total_steps}):
        p = min(step / length, Fraction(1))
        found.append((step, *(int(first + (last - first) * p) for first, last in zip(start, final, strict=True))))
    return found


def stage_at(found: list[Stage], step: int) -> Stage:
    """The stage in which update number `step` + 1 is computed."""
    return [stage for stage in found if stage[0] <= step][-1]
