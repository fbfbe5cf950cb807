"""Data: how many training puzzles, and how many variants of each.

The budget counts epochs, so exp04a_100 takes 813 steps and exp04a_5000 40,690; `alternatives.py` has rows of
one budget.
"""

from trm_jax.configs.registry import Group

GROUPS = [
    Group.over(
        "exp04a",
        "How does accuracy grow with training puzzles, how few reach 85%, and when do more stop paying?",
        ("data.train_puzzles",),
        [
            ("exp04a_100", (100,), (0.75,)),
            ("exp04a_250", (250,), (0.80,)),
            ("exp04a_500", (500,), (0.85,)),
            ("exp04a_1000", (1000,), (0.87,)),
            ("exp04a_2000", (2000,), (0.87,)),
            ("exp04a_5000", (5000,), (0.87,)),
        ],
    ),
    Group.over(
        "exp04b",
        "How does accuracy grow with augmentations, and do they stand in for more puzzles?",
        ("data.augmentations",),
        [
            ("exp04b_0010", (10,), (0.78,)),
            ("exp04b_0100", (100,), (0.83,)),
            ("exp04b_0500", (500,), (0.86,)),
            ("exp04b_1000", (1000,), (0.87,)),
            ("exp04b_2000", (2000,), (0.87,)),
        ],
    ),
]
