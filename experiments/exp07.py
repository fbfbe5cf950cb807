"""Precision of the activations; float16 scales the loss."""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    return [
        r.accuracy(study),
        r.figures(study, "Speed and memory", "costs", r.SPEED, r.MEMORY, ratio=True),
        r.stability(study),
        r.curves(study),
    ]


GROUPS = [
    Group.over(
        "exp07",
        "What does precision cost and give: accuracy, speed, memory, the variance of the loss, gradient norms?",
        ("model.dtype",),
        [
            ("exp07a", ("float32",), (0.87, 1.0, 2.0)),
            ("exp07b", ("bfloat16",), (0.87, 1.8, 1.0)),
            ("exp07c", ("float16",), (0.85, 1.9, 1.0)),
        ],
        expects=("exact_accuracy", "speed", "memory"),  # the last two relative
        report=report,
    )
]
