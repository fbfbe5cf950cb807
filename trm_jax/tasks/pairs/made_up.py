"""Tasks of random grids, packed as real ones are: what a benchmark trains on and answers. They read no files."""

from __future__ import annotations

import dataclasses
import functools
from statistics import NormalDist

import numpy as np

from trm_jax.tasks.arc.files import Tasks
from trm_jax.tasks.arc.grids import COLORS, SIDE, ArcTask, Pair
from trm_jax.tasks.pairs import PairsConfig
from trm_jax.tasks.pairs.source import PairsEval, PairsTrain, of_tasks, packed

_FULL = 0.97  # of the tokens of its rows
_AUGMENTATIONS = 8  # of a pair, at most
# Median of a grid's side and deviation of its logarithm. Pairs have 223 tokens in the median and 374 in the mean then;
# those of the public sets have 227 and 375.
_MEDIAN, _DEVIATION = 10.0, 0.57


def _length(side):
    """Tokens of a pair of square grids, which no turn changes."""
    return 3 + 2 * side * (side + 1)


def _sides(count: int, longest: int) -> np.ndarray:
    """[count]: sides at evenly spaced quantiles, ascending; no pair has more than `longest` tokens."""
    largest = max(side for side in range(1, SIDE + 1) if side == 1 or _length(side) <= longest)
    quantiles = (np.arange(count) + 0.5) / count
    normal = np.array([NormalDist().inv_cdf(q) for q in quantiles])
    return np.clip(np.rint(_MEDIAN * np.exp(_DEVIATION * normal)), 1, largest).astype(np.int64)


def _fitting(cfg: PairsConfig, longest: int) -> int:
    """How many pairs a step takes so that its rows are nearly full."""
    capacity = cfg.rows_per_step * cfg.row_tokens
    count = max(1, round(_FULL * capacity / _length(_sides(1000, longest)).mean()))
    while packed(_length(_sides(count, longest)), np.arange(count), cfg.row_tokens)[1] > cfg.rows_per_step:
        count -= 1
    return count


@functools.lru_cache(maxsize=2)
def made_up(cfg: PairsConfig, ids: int) -> tuple[PairsTrain, PairsEval]:
    """Training and evaluation data of random tasks, at most `ids` of them: rows as `cfg` says, each epoch a step.

    So every step holds pairs of all lengths, as many as fill its rows, whatever data.pairs_per_step says.
    """
    draw = np.random.default_rng(0)
    longest = min(cfg.row_tokens, cfg.most_tokens or cfg.row_tokens)
    each = _fitting(cfg, longest)
    number = min(ids, each)

    def pairs(count: int) -> list[Pair]:
        sides = draw.permutation(_sides(count, longest))
        return [Pair(*draw.integers(0, COLORS, (2, side, side), dtype=np.uint8)) for side in sides]

    train, test = pairs(each), pairs(number)
    tasks: Tasks = {
        f"random{i}": ArcTask(f"random{i}", tuple(train[i::number]), (test[i],), "made up") for i in range(number)
    }
    few = min(_AUGMENTATIONS, cfg.augmentations)
    cfg = dataclasses.replace(cfg, epoch="one", epoch_steps=1, pairs_per_step=each, augmentations=few)
    return of_tasks(cfg, tasks, tasks)
