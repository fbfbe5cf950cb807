"""Supervision steps: how often a model may improve its answer."""

from trm_jax.configs.registry import Group

GROUPS = [
    Group.over(
        "exp05",
        "What does accuracy cost in supervision steps, when does the model halt on average and how is that spread, and "
        "does it halt early?",
        ("model.halt_max_steps",),
        [
            ("exp05_a", (4,), (0.80, 3.5)),
            ("exp05_b", (8,), (0.84, 6.2)),
            ("exp05_c", (12,), (0.86, 8.1)),
            ("exp05_d", (16,), (0.87, 9.5)),
            ("exp05_e", (24,), (0.87, 9.7)),
            ("exp05_f", (32,), (0.87, 9.8)),
        ],
        expects=("exact_accuracy", "steps"),
    )
]
