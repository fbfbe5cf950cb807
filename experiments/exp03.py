"""Depth against recursion: layers times L cycles is 12 throughout, layer applications are not (39 to 54 a step)."""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    return [pareto(study), r.accuracy(study), depths(study)]


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


def depths(study):
    """Depth by both counts, layer applications and compute."""
    paper = "depth H*(L+1)*layers (the paper's) = layer applications"
    counts = {"depth H*L (the guide's)": r.guide_depth, paper: r.depth}
    columns = [(name, {arm.name: r.digits(of(arm)) for arm in study.arms}) for name, of in counts.items()]
    columns += r.measured(study, r.STEP_FLOPS, r.TRAIN_FLOPS, study.score)
    first, last = study.arms[0], study.arms[-1]
    sentence = (
        f"From {first.name} to {last.name} the guide's depth H*L goes from {r.guide_depth(first)} to "
        f"{r.guide_depth(last)} while the layer applications of a supervision step go from {r.depth(first)} to "
        f"{r.depth(last)}. {r.best_sentence(study.ran, r.TRAIN_FLOPS)}"
    )
    panels = tuple(r.arm_panel(study, study.score, r.Axis(name, of)) for name, of in counts.items())
    return r.Section("Effective depth and compute", sentence, r.arm_table(study, columns), "depth", panels)


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
