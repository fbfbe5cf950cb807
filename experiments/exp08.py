"""The moving average of the weights.

`--set optim.ema_also=0` evaluates the live weights of the same run besides: with and without averaging.
"""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    return [r.accuracy(study), averaging(study)]


def averaging(study):
    """The weights' average against the weights themselves, of the same runs."""
    title, score, live = "With and without EMA, of the same run", study.score, study.scores.live
    averaged = [arm for arm in study.ran if arm.settings["optim.ema_decay"]]
    known = [arm for arm in averaged if arm.values(live)]
    missing = ""
    if lacking := r.listed(arm.name for arm in averaged if not arm.values(live)):
        missing = f" Not answered for {lacking}: their live weights were not evaluated (optim.ema_also=0 does)."
    if not known:
        return r.Section(title, f"Not answered: no run was scored with its average and with its live weights.{missing}")
    values = [(arm.by_seed(score), arm.by_seed(live)) for arm in known]
    tests = r.adjusted([r.paired([one[seed] for seed in other], list(other.values())) for one, other in values])
    words = {arm.name: r.verdict(test, r.FRACTION[0]) for arm, test in zip(known, tests, strict=True)}
    table = r.arm_table(study, [*r.measured(study, score, live), ("averaged less live (paired t, Holm)", words)])
    said = "; ".join(f"in {arm} {word}" for arm, word in words.items())
    lines = r.Line(study.ran, score, "of record"), r.Line(study.ran, live, "live weights")
    sentence = f"Averaging changes the mean accuracy, by pairs of one seed (paired t, Holm): {said}.{missing}"
    panel = r.panel("Averaged and live weights", r.BY_NAME, *lines)
    return r.Section(title, sentence, table, "averaging", (panel,))


GROUPS = [
    Group.over(
        "exp08",
        "What does averaging the weights give, at which decay, and how do the live weights of the same run compare?",
        "exp08a exp08b exp08c exp08d exp08e",
        {"optim.ema_decay": (0.0, 0.99, 0.995, 0.999, 0.9995)},
        expects={"exact_accuracy": (0.84, 0.86, 0.87, 0.87, 0.87)},
        report=report,
    )
]
