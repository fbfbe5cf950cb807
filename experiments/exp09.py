"""The optimiser and its second decay."""

from trm_jax.configs.registry import Group

GROUPS = [
    Group.over(
        "exp09",
        "Which optimiser takes the fewest epochs to 85%, and how much does the second decay matter?",
        ("optim.name", "optim.beta2"),
        [
            ("exp09a", ("adam_atan2", 0.95), (0.87,)),
            ("exp09b", ("adamw", 0.95), (0.86,)),
            ("exp09c", ("adamw", 0.99), (0.87,)),
            ("exp09d", ("adamw", 0.999), (0.86,)),
            ("exp09e", ("lion", 0.99), (0.85,)),
        ],
    )
]
