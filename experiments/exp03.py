"""Depth against recursion: layers times L cycles is 12 throughout, layer applications are not (39 to 54 a step)."""

from trm_jax.configs.registry import Group

GROUPS = [
    Group.over(
        "exp03",
        "Few layers applied often or many applied seldom: which are on the Pareto front of accuracy against speed, "
        "parameters and memory?",
        ("model.L_layers", "model.L_cycles"),
        [
            ("exp03a", (1, 12), (0.87,)),
            ("exp03b", (2, 6), (0.87,)),
            ("exp03c", (3, 4), (0.87,)),
            ("exp03d", (4, 3), (0.86,)),
            ("exp03e", (6, 2), (0.85,)),
        ],
    )
]
