"""Depth against recursion: layers times L cycles is 12 throughout, layer applications are not (39 to 54 a step)."""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    depths = (r.GUIDE_DEPTH, r.DEPTH, r.STEP_FLOPS, r.TRAIN_FLOPS)
    return [pareto(study), r.accuracy(study, r.BY_NAME, *depths)]


def pareto(study):
    """Which arms no other one beats in accuracy and a cost."""
    score = study.score
    columns, fronts, panels = r.measured(study, score), [], []
    for cost in (r.SPEED, r.STEP_FLOPS, r.PARAMETERS, r.MEMORY):
        columns += r.measured(study, cost)
        if not (known := [arm for arm in study.ran if arm.values(cost)]):
            continue
        points = [(arm.mean(cost) * (-1 if cost.higher else 1), arm.mean(score)) for arm in known]
        words = {arm.name: "yes" if on else "no" for arm, on in zip(known, r.pareto_front(points), strict=True)}
        on, off = ([arm for arm in known if words[arm.name] == word] for word in ("yes", "no"))
        fronts.append(f"against {cost.name}, {r.listed(arm.name for arm in on)}")
        columns.append((f"on the front of {cost.name}", words))
        lines = [r.Line(on, score, "on the front")] + [r.Line(off, score, "beaten", "points")] * bool(off)
        panels.append(r.panel(f"Accuracy against {cost.name}", r.over_measure(study, cost), *lines))
    winner = r.best(study.ran, score)
    sentence = (
        f"No other arm beats these in mean accuracy and cost: {'; '.join(fronts)}. The highest mean {score.name} is "
        f"{winner.named}'s, {r.said(winner, score)}."
    )
    notes = (
        "Compute is counted from the settings: matrix products of the updates, whatever they ran on.",
        r.SPEED_NOTE,
        "Fronts are of means; whether two means differ is tested where accuracy is reported.",
    )
    title = "Pareto fronts of accuracy against costs"
    return r.Section(title, sentence, r.arm_table(study, columns), "pareto", tuple(panels), notes)


GROUPS = [
    Group.over(
        "exp03",
        "Few layers applied often or many applied seldom: which are on the Pareto front of accuracy against speed, "
        "parameters and memory?",
        "exp03a exp03b exp03c exp03d exp03e",
        {"model.L_layers": (1, 2, 3, 4, 6), "model.L_cycles": (12, 6, 4, 3, 2)},
        expects={"exact_accuracy": (0.87, 0.87, 0.87, 0.86, 0.85)},
        report=report,
    )
]
