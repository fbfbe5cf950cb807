"""Depth against recursion: layers times L cycles is 12 throughout, layer applications are not (39 to 54 a step)."""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    return [pareto(study), r.accuracy(study), depths(study), r.curves(study)]


def pareto(study):
    """Which arms no other one beats in accuracy and a cost; costs in which arms do not compare are only told."""
    score, title = study.score, "Pareto fronts of accuracy against costs"
    columns, fronts, unlike, panels = r.measured(study, score), [], [], []
    for cost in (r.SPEED, r.STEP_FLOPS, r.PARAMETERS, r.MEMORY):
        columns += r.measured(study, cost)
        unlike.append(r.not_compared(study, cost))
        known = [arm for arm in study.ran if arm.values(cost)]
        if not known or study.shared(cost):
            continue
        points = [(arm.mean(cost) * (-1 if cost.higher else 1), arm.mean(score)) for arm in known]
        front = {arm.name: on for arm, on in zip(known, r.pareto_front(points), strict=True)}
        on, off = ([arm for arm in known if front[arm.name] is kept] for kept in (True, False))
        fronts.append(f"against {cost.name}, {r.listed(arm.name for arm in on)}")
        words = {arm.name: "yes" if arm in on else "no" for arm in known}
        columns.append(
            r.Column(f"on the front of {cost.name}", lambda arm, words=words: words.get(arm.name, "not known"))
        )
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
    said = " ".join(filter(None, (sentence, *unlike)))
    return r.Section(title, said, r.arm_table(study, columns), "pareto", tuple(panels), notes)


def depths(study):
    """Depth by both counts, layer applications and compute."""
    guide, paper = "depth H*L (the guide's)", "depth H*(L+1)*layers (the paper's) = layer applications"
    counts = {
        guide: lambda arm: arm.settings["model.H_cycles"] * arm.settings["model.L_cycles"],
        paper: lambda arm: r.depth(arm.settings),
    }
    columns = [r.Column(name, lambda arm, of=of: r.digits(of(arm)), always=True) for name, of in counts.items()]
    columns += r.measured(study, r.STEP_FLOPS, r.TRAIN_FLOPS, study.score)
    ends = study.arms[0], study.arms[-1]
    first, last = ([of(arm) for of in counts.values()] for arm in ends)
    return r.Section(
        "Effective depth and compute",
        f"From {ends[0].name} to {ends[1].name} the guide's depth H*L goes from {first[0]} to {last[0]} while the "
        f"layer applications of a supervision step go from {first[1]} to {last[1]}. "
        + r.best_sentence(study.ran, r.TRAIN_FLOPS),
        r.arm_table(study, columns),
        "depth",
        tuple(r.arm_panel(study, study.score, r.Axis(name, of)) for name, of in counts.items()),
    )


GROUPS = [
    Group.over(
        "exp03",
        "Few layers applied often or many applied seldom: which are on the Pareto front of accuracy against speed, "
        "parameters and memory?",
        ("model.L_layers", "model.L_cycles"),
        [
            ("exp03a", (1, 12), (0.87,)),
            ("exp03b", (2, 6), (0.87,)),
            ("exp03c", (3, 4), (0.87,)),
            ("exp03d", (4, 3), (0.86,)),
            ("exp03e", (6, 2), (0.85,)),
        ],
        report=report,
    )
]
