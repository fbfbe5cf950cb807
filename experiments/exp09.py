"""The optimiser and its second decay."""

from dataclasses import replace

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    return [r.levels_reached(study, "epochs"), r.accuracy(study), beta2_sensitivity(study), r.stability(study)]


def beta2_sensitivity(study):
    """How far accuracy moves with beta2, of the optimiser that ran with several."""
    title, axis = "Sensitivity to beta2", r.Axis("1 - beta2", lambda arm: 1 - arm.settings["optim.beta2"], "log")
    adamw = replace(study, arms=tuple(arm for arm in study.arms if arm.settings["optim.name"] == "adamw"))
    if len(adamw.ran) < 2:
        return r.unanswered(title, "no optimiser was run with two values of beta2")
    part = r.accuracy(adamw, axis)
    return part._replace(title=title, sentence=f"With adamw, {part.sentence}", name="beta2")


GROUPS = [
    Group.over(
        "exp09",
        "Which optimiser takes the fewest epochs to 85%, and how much does the second decay matter?",
        "exp09a exp09b exp09c exp09d exp09e",
        {
            "optim.name": ("adam_atan2", "adamw", "adamw", "adamw", "lion"),
            "optim.beta2": (0.95, 0.95, 0.99, 0.999, 0.99),
        },
        expects={"exact_accuracy": (0.87, 0.86, 0.87, 0.86, 0.85)},
        report=report,
        levels=(0.85,),
    )
]
