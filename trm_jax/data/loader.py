"""Batches in step order, read ahead by grain's threads.

A record of the grain source IS the whole batch of a step (vectorised), this process's slots only: hundreds of
times faster than one record per example, and the only state is the step.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import grain
import numpy as np

from trm_jax.data.addressing import Addressing
from trm_jax.data.dataset import Batch, TrainSource
from trm_jax.errors import InputError


@dataclass(frozen=True)
class BatchSource:
    """A random-access source for grain: record i is the batch of step `start_step + i`."""

    train: TrainSource
    seed: int
    batch_size: int  # of all processes together
    slots: np.ndarray  # [b] the rows of the global batch that this process holds
    start_step: int
    stop_step: int
    epochs_per_interval: int | None = None

    def __post_init__(self) -> None:
        Addressing(self.seed, self.batch_size, self.train.info.groups, self.epochs_per_interval)
        slots = np.asarray(self.slots)
        if slots.size and not (0 <= slots.min() and slots.max() < self.batch_size):
            raise InputError(f"slots {slots.min()}..{slots.max()} lie outside a batch of {self.batch_size}")

    def __len__(self) -> int:
        return max(self.stop_step - self.start_step, 0)

    def __getitem__(self, index: int) -> Batch:
        return self.train.batch(
            self.start_step + int(index),
            self.slots,
            seed=self.seed,
            batch_size=self.batch_size,
            epochs_per_interval=self.epochs_per_interval,
        )


def batches(
    train: TrainSource,
    *,
    seed: int,
    batch_size: int,
    slots: np.ndarray,
    start_step: int,
    stop_step: int,
    epochs_per_interval: int | None = None,
    prefetch: int = 8,
    threads: int = 2,
) -> Iterator[Batch]:
    """The batches of steps start_step .. stop_step - 1, in order: this process's `slots` of each.

    `prefetch` batches are read ahead by `threads` threads (0: in the caller's). Raises `InputError` for slots
    outside the batch and for an evaluation interval too short for one batch.
    """
    source = BatchSource(train, seed, batch_size, np.asarray(slots), start_step, stop_step, epochs_per_interval)
    if not len(source):
        return iter(())
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch if threads else 0)
    return iter(grain.MapDataset.source(source).to_iter_dataset(options))
