"""Batches in step order, read ahead by grain's threads.

A record of grain IS the whole batch of a step (vectorised), this process's slots only: hundreds of
times faster than one record per example, and the only state is the step.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator

import grain
import numpy as np

from trm_jax.data.addressing import Addressing
from trm_jax.data.dataset import Batch, TrainSource


def batches(
    train: TrainSource,
    *,
    seed: int,
    batch_size: int,
    slots: np.ndarray,
    start_step: int,
    stop_step: int,
    epochs_per_interval: int | None = None,
    threads: int = 2,
) -> Iterator[Batch]:
    """The batches of steps start_step .. stop_step - 1, in order: this process's `slots` of each.

    8 batches are read ahead by `threads` threads (0: in the caller's). batch_size: of all processes. Raises
    `InputError` for an evaluation interval too short for one batch.
    """
    Addressing(seed, batch_size, round(train.info.groups * train.info.mean_examples_per_puzzle), epochs_per_interval)
    how = {"seed": seed, "batch_size": batch_size, "epochs_per_interval": epochs_per_interval}
    if start_step >= stop_step:
        return iter(())
    steps = grain.MapDataset.range(start_step, stop_step).map(functools.partial(train.batch, slots=slots, **how))
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=8 if threads else 0)
    return iter(steps.to_iter_dataset(options))
