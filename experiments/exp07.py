"""Precision of the activations; float16 scales the loss."""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    return [r.accuracy(study), r.costs(study, ratio=True), r.stability(study)]


GROUPS = [
    Group.over(
        "exp07",
        "What does precision cost and give: accuracy, speed, memory, the variance of the loss, gradient norms?",
        "exp07a exp07b exp07c",
        {"model.dtype": ("float32", "bfloat16", "float16")},
        # Speed and memory are relative.
        expects={"exact_accuracy": (0.87, 0.87, 0.85), "speed": (1.0, 1.8, 1.9), "memory": (2.0, 1.0, 1.0)},
        report=report,
    )
]
