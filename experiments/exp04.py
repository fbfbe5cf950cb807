"""Data: how many training puzzles, and how many variants of each.

The budget counts epochs, so exp04a_100 takes 813 steps and exp04a_5000 40,690; `alternatives.py` has rows of
one budget.
"""

import math
from itertools import product

import trm_jax.reports as r
from trm_jax.configs.registry import Group

# Numbers of boards in this ratio or less count as equal: puzzles and augmentations come in round numbers.
ABOUT = 1.15


def report(study):
    axes = {
        "data.train_puzzles": r.setting_axis("data.train_puzzles", "training puzzles", "log"),
        "data.augmentations": r.Axis("variants a puzzle", lambda arm: arm.settings["data.augmentations"] + 1.0, "log"),
    }
    axis = axes[study.varied[0]]
    return [
        smallest(study, axis),
        r.accuracy(study, axis),
        doublings(study, axis),
        r.power_law(study, axis),
        substitute(study),
        r.curves(study),
    ]


def smallest(study, axis):
    """The least of what is varied whose mean accuracy reaches a level, as measured and by the fit."""
    _, fit = r.fitted(study, axis)
    updates = r.updates_words(study.ran)
    mind = f" Updates differ too, {updates}, so {axis.label} alone do not explain it." if updates else ""
    said = "; ".join(_reached(study, axis, fit, level) for level in study.levels)
    title = f"The smallest number of {axis.label} for {r.listed(f'{level:g}' for level in study.levels)}"
    panel = r.arm_panel(study, study.score, axis, levels=study.levels)
    return r.Section(title, f"In these runs {said}.{mind}", name="smallest", panels=(panel,))


def _reached(study, axis, fit, level: float) -> str:
    if isinstance(fit, str) or not fit.determined:
        by_fit = "not determined"
    else:
        by_fit = r.digits(fit.reaches(fit.a - level)) if level < fit.a else "beyond its limit"
    arms = r.placed(study.ran, axis)
    enough = [arm for arm in arms if arm.mean(study.score) >= level]
    if not enough:
        return f"no mean reaches {level:g} (by the fit a - b x^-c: {by_fit})"
    first = enough[0]
    at = f"{r.digits(axis.of(first))} {axis.label}"
    where = f"from {at} on" if enough == arms[arms.index(first) :] else f"at {at}, though not by all above"
    return (
        f"{level:g} is reached {where} (by the fit a - b x^-c: {by_fit}), first by {first.name} with "
        f"{r.said(first, study.score)} after {first.mean(r.STEPS):,.0f} updates"
    )


def doublings(study, axis):
    """What each doubling along the axis gains, from arm to arm: diminishing returns."""
    title, arms = f"What each doubling of {axis.label} gains", r.placed(study.ran, axis)
    if len(arms) < 2:
        return r.Section(title, "Not answered: it takes two sizes that were run.")
    pairs = list(zip(arms[1:], arms, strict=False))
    table, tests = r.pair_table(study.score, pairs, ("more", "fewer"), {axis.label: lambda arm: r.digits(axis.of(arm))})
    sizes = [(axis.of(more), axis.of(fewer)) for more, fewer in pairs]
    gains = [test.difference / math.log2(a / b) for test, (a, b) in zip(tests, sizes, strict=True)]
    shown = [r.FRACTION[0].signed(gain) for gain in gains]
    rows = tuple((*row, gain) for row, gain in zip(table.rows, shown, strict=True))
    series = r.Series("gain", [math.sqrt(a * b) for a, b in sizes], gains, style="joined")
    panel = r.Panel("Gain a doubling", axis.label, f"change of {study.score.name}", (series,), "log", levels=(0.0,))
    sentence = (
        f"A doubling of {axis.label} changes the mean accuracy by {shown[0]} at the small end and by {shown[-1]} at "
        f"the large end; {r.shown_words(pairs, tests)}."
    )
    return r.Section(title, sentence, r.Table((*table.columns, "a doubling"), rows, table.caption), "gain", (panel,))


def boards(arm) -> int:
    """Training boards: each puzzle and its augmentations."""
    return arm.settings["data.train_puzzles"] * (arm.settings["data.augmentations"] + 1)


def substitute(study):
    """Few puzzles with many augmentations against more puzzles with fewer: about as many distinct boards."""
    title, other = "Is augmentation a substitute for data?", study.companion
    if other is None:
        return r.Section(title, f"Not answered: {study.companion_problem}.")
    both = (study, other) if study.varied == ("data.train_puzzles",) else (other, study)
    puzzles = lambda arm: arm.settings["data.train_puzzles"]  # noqa: E731
    pairs = [
        (many, few)
        for one, another in product(both[0].ran, both[1].ran)
        for few, many in [sorted((one, another), key=puzzles)]
        if puzzles(few) < puzzles(many) and 1 / ABOUT <= boards(few) / boards(many) <= ABOUT
    ]
    if not pairs:
        names = r.listed([group.name for group in both])
        return r.Section(title, f"Not answered: no runs of {names} have about as many boards.")
    pairs.sort(key=lambda pair: boards(pair[1]))
    told = {
        "distinct boards": lambda arm: r.digits(boards(arm)),
        "updates": lambda arm: r.digits(arm.mean(r.STEPS)),
    }
    heads = ("more puzzles, fewer augmentations", "fewer puzzles, more augmentations")
    table, tests = r.pair_table(study.score, pairs, heads, told)
    signs = {test.difference > 0 for test in tests if test.shown}
    answer = {
        (): "so nothing here says that augmentations cannot stand in for puzzles, nor that they can",
        (True,): "so augmentation is no full substitute, more puzzles are worth more",
        (False,): "so more augmentations of fewer puzzles are worth more",
    }.get(tuple(signs), "so whether it is depends on the number")
    axis = r.Axis("distinct boards: puzzles x (augmentations + 1)", lambda arm: float(boards(arm)), "log")
    lines = [
        r.Line(group.ran, study.score, f"{what} varied ({group.name})")
        for group, what in zip(both, ("puzzles", "augmentations"), strict=True)
    ]
    note = (
        "A budget in epochs gives fewer updates to fewer puzzles: compare the columns of updates before reading a "
        "difference as one of the data alone."
    )
    sentence = f"With about equally many boards {r.shown_words(pairs, tests)}, {answer}, in these runs."
    panel = r.panel("Accuracy over distinct boards", axis, *lines)
    return r.Section(title, sentence, table, "substitute", (panel,), (note,))


GROUPS = [
    Group.over(
        "exp04a",
        "How does accuracy grow with training puzzles, how few reach 85%, and when do more stop paying?",
        ("data.train_puzzles",),
        [
            ("exp04a_100", (100,), (0.75,)),
            ("exp04a_250", (250,), (0.80,)),
            ("exp04a_500", (500,), (0.85,)),
            ("exp04a_1000", (1000,), (0.87,)),
            ("exp04a_2000", (2000,), (0.87,)),
            ("exp04a_5000", (5000,), (0.87,)),
        ],
        report=report,
        levels=(0.85,),
        companion="exp04b",
    ),
    Group.over(
        "exp04b",
        "How does accuracy grow with augmentations, and do they stand in for more puzzles?",
        ("data.augmentations",),
        [
            ("exp04b_0010", (10,), (0.78,)),
            ("exp04b_0100", (100,), (0.83,)),
            ("exp04b_0500", (500,), (0.86,)),
            ("exp04b_1000", (1000,), (0.87,)),
            ("exp04b_2000", (2000,), (0.87,)),
        ],
        report=report,
        levels=(0.85,),
        companion="exp04a",
    ),
]
