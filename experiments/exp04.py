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
    axis = r.setting_axis("data.train_puzzles", "training puzzles", "log")
    if study.varied != ("data.train_puzzles",):
        axis = r.Axis("variants a puzzle", lambda arm: arm.settings["data.augmentations"] + 1, "log")
    return [smallest(study, axis), doublings(study, axis), r.power_law(study, axis), substitute(study)]


def smallest(study, axis):
    """Accuracy, and the least of what is varied whose mean reaches a level, as measured and by the fit."""
    fit, part = r.fitted(study, axis), r.accuracy(study, axis)
    said = "; ".join(_reached(study, axis, fit, level) for level in study.levels)
    return part._replace(sentence=f"In these runs {said}. {part.sentence}")


def _reached(study, axis, fit, level: float) -> str:
    by_fit = "not determined"
    if not isinstance(fit, str) and fit.determined:
        by_fit = r.digits(fit.reaches(fit.a - level)) if level < fit.a else "beyond its limit"
    by_fit = f"(by the fit a - b x^-c: {by_fit})"
    arms = r.placed(study.ran, axis)
    enough = [arm for arm in arms if arm.mean(study.score) >= level]
    if not enough:
        return f"no mean reaches {level:g} {by_fit}"
    first, steady = enough[0], "" if enough == arms[-len(enough) :] else ", though not by all above"
    return (
        f"{level:g} is reached at {r.digits(axis.of(first))} {axis.label}{steady} {by_fit}, first by {first.name} with "
        f"{r.said(first, study.score)} after {first.mean(r.STEPS):,.0f} updates"
    )


def doublings(study, axis):
    """What each doubling along the axis gains, from arm to arm: diminishing returns."""
    title, arms = f"What each doubling of {axis.label} gains", r.placed(study.ran, axis)
    if len(arms) < 2:
        return r.unanswered(title, "it takes two sizes that were run")
    pairs = list(zip(arms[1:], arms, strict=False))
    table, tests = r.pair_table(pairs, ("more", "fewer"), study.score)
    doubled = [math.log2(axis.of(more) / axis.of(fewer)) for more, fewer in pairs]
    shown = [r.FRACTION[0].signed(test.difference / n) for test, n in zip(tests, doubled, strict=True)]
    rows = tuple((*row, gain) for row, gain in zip(table.rows, shown, strict=True))
    sentence = (
        f"A doubling of {axis.label} changes the mean accuracy by {shown[0]} at the small end and by {shown[-1]} at "
        f"the large end; {r.shown_words(pairs, tests, study.score)}."
    )
    return r.Section(title, sentence, r.Table((*table.columns, "a doubling"), rows, table.caption))


def substitute(study):
    """Few puzzles with many augmentations against more puzzles with fewer: about as many distinct boards."""
    title = "Is augmentation a substitute for data?"
    if study.companion is None:
        return r.unanswered(title, study.companion_problem)
    both = sorted((study, study.companion), key=lambda group: group.varied)  # augmentations, puzzles
    puzzles, boards = (lambda arm: arm.settings["data.train_puzzles"]), (lambda arm: arm.mean(r.BOARDS))
    found = [sorted(pair, key=puzzles) for pair in product(*(group.ran for group in both))]
    different = [(many, few) for few, many in found if puzzles(few) < puzzles(many)]
    pairs = [pair for pair in different if 1 / ABOUT <= boards(pair[0]) / boards(pair[1]) <= ABOUT]
    if not pairs:
        return r.unanswered(title, f"no runs of {both[1].name} and {both[0].name} have about as many boards")
    pairs.sort(key=lambda pair: boards(pair[1]))
    heads = ("more puzzles, fewer augmentations", "fewer puzzles, more augmentations")
    table, tests = r.pair_table(pairs, heads, study.score, r.BOARDS, r.STEPS)
    answer = {
        (): "so nothing here says that augmentations cannot stand in for puzzles, nor that they can",
        (True,): "so augmentation is no full substitute, more puzzles are worth more",
        (False,): "so more augmentations of fewer puzzles are worth more",
    }.get(tuple({test.difference > 0 for test in tests if test.shown}), "so whether it is depends on the number")
    axis = r.Axis("distinct boards: puzzles x (augmentations + 1)", boards, "log")
    lines = [r.Line(group.ran, study.score, f"{group.varied[0][5:]} varied ({group.name})") for group in both]
    note = (
        "A budget in epochs gives fewer updates to fewer puzzles: compare the columns of updates before reading a "
        "difference as one of the data alone."
    )
    sentence = f"With about equally many boards {r.shown_words(pairs, tests, study.score)}, {answer}, in these runs."
    panel = r.panel("Accuracy over distinct boards", axis, *lines)
    return r.Section(title, sentence, table, "substitute", (panel,), (note,))


GROUPS = [
    Group.over(
        "exp04a",
        "How does accuracy grow with training puzzles, how few reach 85%, and when do more stop paying?",
        "exp04a_100 exp04a_250 exp04a_500 exp04a_1000 exp04a_2000 exp04a_5000",
        {"data.train_puzzles": (100, 250, 500, 1000, 2000, 5000)},
        expects={"exact_accuracy": (0.75, 0.80, 0.85, 0.87, 0.87, 0.87)},
        report=report,
        levels=(0.85,),
        companion="exp04b",
    ),
    Group.over(
        "exp04b",
        "How does accuracy grow with augmentations, and do they stand in for more puzzles?",
        "exp04b_0010 exp04b_0100 exp04b_0500 exp04b_1000 exp04b_2000",
        {"data.augmentations": (10, 100, 500, 1000, 2000)},
        expects={"exact_accuracy": (0.78, 0.83, 0.86, 0.87, 0.87)},
        report=report,
        levels=(0.85,),
        companion="exp04a",
    ),
]
