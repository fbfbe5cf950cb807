"""Recursion: L cycles inside an H cycle, and H cycles inside a supervision step."""

from trm_jax.configs.registry import Group

GROUPS = [
    Group.over(
        "exp02a",
        "How many L cycles are best, how far apart are training and held-out accuracy, and which of L and H cycles "
        "serve better at equal depth?",
        ("model.L_cycles",),
        [
            ("exp02a_01", (2,), (0.82,)),
            ("exp02a_02", (4,), (0.85,)),
            ("exp02a_03", (6,), (0.87,)),
            ("exp02a_04", (8,), (0.87,)),
            ("exp02a_05", (10,), (0.86,)),
            ("exp02a_06", (12,), (0.85,)),
        ],
    ),
    Group.over(
        "exp02b",
        "How many H cycles are best, how far apart are training and held-out accuracy, and which of L and H cycles "
        "serve better at equal depth?",
        ("model.H_cycles",),
        [
            ("exp02b_01", (1,), (0.83,)),
            ("exp02b_02", (2,), (0.86,)),
            ("exp02b_03", (3,), (0.87,)),
            ("exp02b_04", (4,), (0.87,)),
            ("exp02b_05", (5,), (0.87,)),
        ],
    ),
]
