"""Solvers of ARC tasks by language models: from demonstrations and test inputs to predictions.

What a solver sees of a task is a `Question`, which has no answers to its test inputs; scorers alone open those.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np

from trm_jax.tasks.arc.grids import ArcTask, Pair


@dataclass(frozen=True, eq=False)
class Question:
    """A task without the answers to its test inputs."""

    id: str
    demonstrations: tuple[Pair, ...]
    inputs: tuple[np.ndarray, ...]  # [H, W] uint8, to be answered


def question(task: ArcTask) -> Question:
    """What a solver may see of a task."""
    return Question(task.id, task.train, tuple(pair.input for pair in task.test))


def generator(seed: int, task: str, what: str) -> np.random.Generator:
    """Random numbers for one purpose in one task: the same in every process and whatever else is drawn."""
    return np.random.default_rng((seed, zlib.crc32(task.encode()), zlib.crc32(what.encode())))
