"""What a task's data looks like to the trainer and the evaluator."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

Batch = dict[str, np.ndarray]  # inputs, labels [b, S] int32 (-100 = ignored label), puzzle_ids [b] int32
IGNORED = -100


@dataclass(frozen=True)
class DatasetInfo:
    """The numbers a model and a schedule need."""

    vocab_size: int  # tokens, PAD (0) included
    seq_len: int  # S
    num_puzzle_ids: int  # rows of the puzzle table
    groups: int  # originals; an epoch visits each once; 0 = not known yet
    mean_examples_per_puzzle: float = 1.0


class TrainSource(Protocol):
    """Training data addressed by step: the example of (seed, step, slot) is a pure function."""

    info: DatasetInfo

    def batch(
        self, step: int, slots: np.ndarray, *, seed: int, batch_size: int, epochs_per_interval: int | None = None
    ) -> Batch:
        """The rows `slots` of the global batch of `batch_size` rows at `step`."""


class EvalSource(Protocol):
    """An evaluation set of `len` examples. One with notes() -> lines says what a person should know of its scores; one
    with of_run(settings) is told under which settings the model was trained, and what it began with."""

    info: DatasetInfo
    digest: str  # identifies the content

    def __len__(self) -> int: ...

    def rows(self, indices: np.ndarray) -> Batch:
        """The examples at `indices` [b]."""
