"""Batch size, with both learning rates growing by its square root.

The budget counts epochs, so larger batches take fewer steps and exp06_f ends inside the warm-up; `alternatives.py` has
rows whose warm-up is a share of the run. Batches above 12,288 are computed in parts of that size: the same update.
"""

import math

from trm_jax.configs.registry import Group


def _row(letter: str, batch: int, accuracy: float):
    lr = 1e-4 * math.sqrt(batch / 6144)
    return f"exp06_{letter}", (batch, lr, lr, max(1, batch // 12288)), (accuracy,)


GROUPS = [
    Group.over(
        "exp06",
        "How do accuracy and throughput change with the batch, what is the critical batch, and up to where is the gain "
        "linear?",
        ("train.batch_size", "optim.lr", "optim.table_lr", "train.accumulation"),
        [
            _row("a", 1536, 0.87),
            _row("b", 3072, 0.87),
            _row("c", 6144, 0.87),
            _row("d", 12288, 0.87),
            _row("e", 24576, 0.87),
            _row("f", 49152, 0.86),
        ],
    )
]
