"""The moving average of the weights.

`--set optim.ema_also=0` evaluates the live weights of the same run besides: with and without averaging.
"""

from trm_jax.configs.registry import Group

GROUPS = [
    Group.over(
        "exp08",
        "What does averaging the weights give, at which decay, and how do the live weights of the same run compare?",
        ("optim.ema_decay",),
        [
            ("exp08a", (0.0,), (0.84,)),
            ("exp08b", (0.99,), (0.86,)),
            ("exp08c", (0.995,), (0.87,)),
            ("exp08d", (0.999,), (0.87,)),
            ("exp08e", (0.9995,), (0.87,)),
        ],
    )
]
