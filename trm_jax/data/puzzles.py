"""The addressing of training examples where a puzzle has several: which stands in which slot of which step.

As the official sampler does it: an epoch visits every group once, in random order; a visit draws one of its puzzles and
takes all of that puzzle's examples, in random order; a batch is filled so, and the puzzle that does not fit is cut at
its edge, so that a random part of it stays and the rest is lost. With evaluation intervals the last incomplete batch of
each is dropped.

Where a batch begins depends on all before it in the run, so the beginnings are kept: eight bytes a step, found by
adding up lengths.
"""

from __future__ import annotations

import threading

import numpy as np
from numba import njit

from trm_jax.data.addressing import ORDER, VARIANT, order_of
from trm_jax.data.hashing import draws_below, key_of, permutation, shuffle, stream_key
from trm_jax.errors import InputError

_INSIDE = 3  # stream of random numbers: the order of a puzzle's examples
_AT_ONCE = 4096  # steps found at a time


@njit(cache=True, nogil=True)
def _begin(seed, lengths, batch_size, epochs_per_interval, visit, starts):
    """Fill starts [n] with the visit at which each next batch begins; returns the visit after the last of them.

    lengths [G]: examples of a puzzle of each group. epochs_per_interval: 0 for none.
    """
    groups = lengths.shape[0]
    ends = epochs_per_interval * groups
    epoch = np.int64(-1)
    order = np.arange(groups)
    for step in range(starts.shape[0]):
        first, filled = visit, 0
        while filled < batch_size:
            if ends and first % ends + (visit - first) >= ends:  # the interval is over before the batch is full
                first, filled = visit, 0
            if visit // groups != epoch:
                epoch = visit // groups
                order = permutation(key_of(seed, ORDER, epoch), groups)
            filled += lengths[order[visit % groups]]
            visit += 1
        starts[step] = first
    return visit


@njit(cache=True, nogil=True)
def _inside(key, visits, lengths, positions):
    """[b]: which of the examples of its puzzle stands at `positions` [b] of the order drawn for `visits` [b]."""
    found = np.empty(visits.shape[0], np.int64)
    for row in range(visits.shape[0]):
        order = np.arange(lengths[row])
        shuffle(key_of(key, _INSIDE, visits[row]), 0, order)
        found[row] = order[positions[row]]
    return found


class PuzzleAddressing:
    """Which (group, variant, example) stands in which slot of which step, for one seed and batch size."""

    def __init__(self, seed: int, batch_size: int, lengths: np.ndarray, epochs_per_interval: int | None = None):
        """lengths [G] int64: how many examples a puzzle of each group has.

        Raises InputError for an evaluation interval that does not fill one batch.
        """
        examples = int(np.sum(lengths))
        if epochs_per_interval and epochs_per_interval * examples < batch_size:
            raise InputError(
                f"{epochs_per_interval} epochs of {examples} examples do not fill one batch of {batch_size}: lower the "
                "batch size or raise the epochs per evaluation interval"
            )
        self.seed, self.batch_size, self._lengths = seed, batch_size, np.asarray(lengths, np.int64)
        self._interval = epochs_per_interval or 0
        self._lock, self._starts, self._next = threading.Lock(), np.zeros(0, np.int64), 0

    def start(self, step: int) -> int:
        """The visit at which the batch of a step begins."""
        with self._lock:
            while step >= len(self._starts):
                more = np.empty(_AT_ONCE, np.int64)
                seed = np.int64(self.seed)
                self._next = _begin(seed, self._lengths, self.batch_size, self._interval, self._next, more)
                self._starts = np.concatenate([self._starts, more])
            return int(self._starts[step])

    def lookup(self, step: int, slots: np.ndarray, variants: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(group, variant, example), each [b] int64, of `slots` [b]; variants [G]: how many each group has."""
        groups, first = len(self._lengths), self.start(step)
        visits = np.arange(first, first + self.batch_size)  # more than enough: a puzzle has an example at least
        epochs = np.unique(visits // groups)
        of_visit = np.concatenate([order_of(self.seed, int(epoch), groups) for epoch in epochs])
        of_visit = of_visit[first - epochs[0] * groups :][: len(visits)]
        ends = np.cumsum(self._lengths[of_visit])
        at = np.searchsorted(ends, slots, side="right")
        chosen, lengths = of_visit[at], self._lengths[of_visit[at]]
        positions = np.asarray(slots, np.int64) - (ends[at] - lengths)
        drawn = draws_below(stream_key(self.seed, VARIANT), visits[at], variants[chosen])
        return chosen, drawn, _inside(np.int64(self.seed), visits[at], lengths, positions)
