"""The learning rate (the puzzle table's too) and its schedule: constant, or a cosine down to a share."""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    return [schedules(study), r.accuracy(study)]


def schedules(study):
    """The best constant rate, and each decayed schedule against the constant one of the same rate."""
    ratio, score = (lambda arm: arm.settings["optim.min_lr_ratio"]), study.score
    constant, decayed = ([arm for arm in study.ran if (ratio(arm) == 1) is kept] for kept in (True, False))
    pairs = [(d, c) for d in decayed for c in constant if d.settings["optim.lr"] == c.settings["optim.lr"]]
    table, tests = r.pair_table(pairs, ("decayed", "constant"), score)
    sentences = [f"Of the constant rates, {r.best_sentence(constant, score)}" if constant else "No constant rate ran."]
    sentences += [
        f"Decaying to {ratio(d):g} of the rate changes the mean against {c.name}: {r.verdict(test, r.FRACTION[0])}."
        for (d, c), test in zip(pairs, tests, strict=True)
    ]
    if not pairs:
        sentences.append("Decay against constant is not answered: no two of them were run with one rate.")
    lines = [r.Line(constant, score, "constant")] * bool(constant)
    lines += [r.Line([arm], score, f"decayed to {ratio(arm):g}") for arm in decayed]
    panel = r.panel("Accuracy over the learning rate", r.setting_axis("optim.lr", "learning rate", "log"), *lines)
    return r.Section("Optimum, and decay against constant", " ".join(sentences), table, "schedule", (panel,))


GROUPS = [
    Group.over(
        "exp10",
        "Which learning rate is best, and does letting it decay help against a constant one?",
        "exp10a exp10b exp10c exp10d exp10e",
        {
            "optim.lr": (3e-5, 1e-4, 3e-4, 1e-4, 1e-4),
            "optim.min_lr_ratio": (1.0, 1.0, 1.0, 0.1, 0.01),
            "optim.table_lr": (3e-5, 1e-4, 3e-4, 1e-4, 1e-4),
        },
        expects={"exact_accuracy": (0.85, 0.87, 0.86, 0.87, 0.86)},
        report=report,
    )
]
