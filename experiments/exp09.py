"""The optimiser and its second decay."""

from dataclasses import replace

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    return [
        r.levels_reached(study, r.epochs_to),
        r.accuracy(study),
        beta2_sensitivity(study),
        r.stability(study),
        r.curves(study),
    ]


def beta2_sensitivity(study):
    """How far accuracy moves with beta2, of the optimiser that ran with several."""
    axis = r.Axis("1 - beta2", lambda arm: 1 - arm.settings["optim.beta2"], "log")
    arms = [arm for arm in study.arms if arm.settings["optim.name"] == "adamw"]
    of_adamw = replace(study, arms=tuple(arms))
    if len(of_adamw.ran) < 2:
        return r.Section("Sensitivity to beta2", "Not answered: no optimiser was run with two values of beta2.")
    part = r.accuracy(of_adamw, axis)
    return replace(part, title="Sensitivity to beta2", sentence=f"With adamw, {part.sentence}", name="beta2")


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
        report=report,
        levels=(0.85,),
    )
]
