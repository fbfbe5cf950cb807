"""The addressing of training examples: which one stands in which slot of which step.

It is a pure function of (seed, step, slot), so there is no iterator state to save and the number of hosts may
change: each host asks for its own slots of the global batch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from trm_jax.data.dataset import Batch, DatasetInfo
from trm_jax.data.hashing import draws_below, permutation, stream_key
from trm_jax.errors import InputError

ORDER, VARIANT = 1, 2  # independent streams of random numbers under one seed
_DRAWS = {"train": 11, "test": 12}


@dataclass(frozen=True)
class Addressing:
    """Which (group, variant) stands in which (step, slot).

    Example number n = step * batch_size + slot runs through epochs of `groups` examples, each a new random
    order; epochs run on across batch borders. With `epochs_per_interval`, interval i starts at epoch i *
    epochs_per_interval and holds only whole batches: the last incomplete one is dropped, as the reference
    does.
    """

    seed: int
    batch_size: int
    groups: int
    epochs_per_interval: int | None = None

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.groups < 1:
            raise InputError(f"batch size {self.batch_size} with {self.groups} puzzles: both must be at least 1")
        if self.epochs_per_interval is not None and self.steps_per_interval < 1:
            raise InputError(
                f"{self.epochs_per_interval} epochs of {self.groups} puzzles do not fill one batch of "
                f"{self.batch_size}: lower the batch size or raise the epochs per evaluation interval"
            )

    @property
    def steps_per_interval(self) -> int | None:
        """Whole batches in an evaluation interval; None without intervals."""
        return self.epochs_per_interval and self.epochs_per_interval * self.groups // self.batch_size

    def numbers(self, step: int, slots: np.ndarray) -> np.ndarray:
        """Example numbers [b] int64 of `slots` [b] at `step`."""
        start = step * self.batch_size
        if self.epochs_per_interval is not None:
            interval, step = divmod(step, self.steps_per_interval)
            start = interval * self.epochs_per_interval * self.groups + step * self.batch_size
        return start + np.asarray(slots, np.int64)

    def lookup(self, step: int, slots: np.ndarray, variants: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(group, variant), each [b] int64, of `slots` at `step`; variants [G]: how many each group has."""
        numbers = self.numbers(step, slots)
        epochs, places = np.divmod(numbers, self.groups)
        groups = np.empty_like(numbers)
        for epoch in np.unique(epochs):
            here = epochs == epoch
            groups[here] = order_of(self.seed, int(epoch), self.groups)[places[here]]
        return groups, draws_below(stream_key(self.seed, VARIANT), numbers, variants[groups])


@functools.lru_cache(maxsize=32)
def order_of(seed: int, epoch: int, groups: int) -> np.ndarray:
    """The order in which an epoch visits the groups, [G] int64."""
    order = permutation(stream_key(seed, ORDER, epoch), groups)
    order.setflags(write=False)
    return order


@dataclass(frozen=True)
class PoolTrain:
    """A `TrainSource` over a pool: training examples in groups (an original and its variants).

    The pool has `variants` [G] int64, how many each group has, and `examples(groups [b], variants [b])`, a `Batch`.
    """

    info: DatasetInfo
    pool: Any

    def batch(
        self, step: int, slots: np.ndarray, *, seed: int, batch_size: int, epochs_per_interval: int | None = None
    ) -> Batch:
        """The rows `slots` [b] of the global batch at `step`."""
        addressing = Addressing(seed, batch_size, self.info.groups, epochs_per_interval)
        return self.pool.examples(*addressing.lookup(step, slots, self.pool.variants))


def draw_rows(available: int, count: int, seed: int, split: str, origin: object, more: str) -> np.ndarray:
    """Rows [count] of a seeded draw without replacement, in file order; `count` 0 = all.

    Raises InputError where there are not so many; more: where to get them, for the message.
    """
    if count > available:
        asks = f"{split}_puzzles asks for {count}: ask for at most {available} (0 = all)"
        raise InputError(f"{origin} holds {available} puzzles, {asks}, or {more}")
    if count in (0, available):
        return np.arange(available)
    return np.sort(permutation(stream_key(seed, _DRAWS[split]), available)[:count])
