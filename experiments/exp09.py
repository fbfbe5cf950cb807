"""The optimiser and its second decay."""

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
    """How far accuracy moves with beta2, for each optimiser that ran with several."""
    title = "Sensitivity to beta2"
    axis = r.Axis("1 - beta2", lambda arm: 1 - arm.settings["optim.beta2"], "log")
    by_name = {}
    for arm in study.ran:
        by_name.setdefault(arm.settings["optim.name"], []).append(arm)
    known = {name: arms for name, arms in by_name.items() if len(set(map(axis.of, arms))) > 1}
    if not known:
        return r.Section(title, "Not answered: no optimiser was run with two values of beta2.")
    rows = tuple(
        (arm.label, name, r.digits(arm.settings["optim.beta2"]), r.said(arm, study.score))
        for name, arms in known.items()
        for arm in arms
    )
    lines = [r.Line(arms, study.score, name) for name, arms in known.items()]
    return r.Section(
        title,
        " ".join(f"With {name}, {r.best_sentence(arms, study.score)}" for name, arms in known.items()),
        r.Table(("experiment", "optimiser", "beta2", study.score.name), rows, r.SPREADS),
        "beta2",
        (r.panel("Accuracy over beta2", axis, *lines),),
    )


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
