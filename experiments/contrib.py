"""Contributions: a curriculum over recursion, and exploration of halting that fades."""

from trm_jax.configs.registry import Group

GROUPS = [
    Group.over(
        "contrib01",
        "Does a recursion whose L and H cycles grow in the first epochs reach 85% and 87% in fewer of them, and with a "
        "loss that varies less?",
        ("train.curriculum_epochs",),
        [
            ("contrib01_baseline", (0,), (0.87, 50_000)),
            ("contrib01_curriculum", (10_000,), (0.87, 35_000)),
        ],
        expects=("exact_accuracy", "epochs"),
    ),
    Group.over(
        "contrib02",
        "Does exploration that fades make the model halt earlier at equal accuracy: mean, variance and distribution of "
        "the halting step?",
        ("model.halt_exploration_prob", "train.halt_exploration_end"),
        [
            ("contrib02_baseline", (0.1, -1.0), (9.5,)),
            ("contrib02_adaptive", (0.3, 0.05), (7.2,)),
        ],
        expects=("steps",),
    ),
]
