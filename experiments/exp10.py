"""The learning rate (the puzzle table's too) and its schedule: constant, or a cosine down to a share."""

from trm_jax.configs.registry import Group

GROUPS = [
    Group.over(
        "exp10",
        "Which learning rate is best, and does letting it decay help against a constant one?",
        ("optim.lr", "optim.table_lr", "optim.min_lr_ratio"),
        [
            ("exp10a", (3e-5, 3e-5, 1.0), (0.85,)),
            ("exp10b", (1e-4, 1e-4, 1.0), (0.87,)),
            ("exp10c", (3e-4, 3e-4, 1.0), (0.86,)),
            ("exp10d", (1e-4, 1e-4, 0.1), (0.87,)),
            ("exp10e", (1e-4, 1e-4, 0.01), (0.86,)),
        ],
    )
]
