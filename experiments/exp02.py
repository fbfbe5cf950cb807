"""Recursion: L cycles inside an H cycle, and H cycles inside a supervision step."""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    axis = r.setting_axis(study.varied[0])
    return [r.accuracy(study, axis, optimum=True), gap(study, axis), equal_depth(study), r.costs(study, axis)]


def gap(study, axis):
    """How much better training puzzles are solved than held-out ones."""
    note = (
        "Training accuracy is that of the last fifth of the run: augmented training puzzles, live weights, each "
        "sequence when it halted. Held-out accuracy is with EMA weights after all supervision steps. So the gap "
        "compares arms with one another; it is not zero for a model that generalises perfectly."
    )
    of = study.scores
    return r.figures(study, "Train-test gap", "gap", of.gap, axis=axis, beside=(of.train, of.final), notes=(note,))


def equal_depth(study):
    """The arms of exp02a and exp02b with the same H * L, side by side."""
    title = "H cycles against L cycles at equal depth"
    if study.companion is None:
        return r.unanswered(title, study.companion_problem)
    by_L, by_H = sorted((study, study.companion), key=lambda group: group.varied, reverse=True)
    depth = r.over_measure(study, r.GUIDE_DEPTH)
    pairs = [(h, one) for one in by_L.ran for h in by_H.ran if depth.of(h) == depth.of(one)]
    pairs = [(h, one) for h, one in pairs if h.settings != one.settings]  # both groups share an arm
    if not pairs:
        return r.unanswered(title, f"no two runs of {by_L.name} and {by_H.name} have the same H*L")
    heads = ("by H cycles", "by L cycles")
    table, tests = r.pair_table(pairs, heads, study.score, r.GUIDE_DEPTH, r.DEPTH, r.STEP_FLOPS)
    lines = [
        r.Line(group.ran, study.score, f"more {group.varied[0][6]} cycles ({group.name})") for group in (by_L, by_H)
    ]
    panel = r.panel("Accuracy at equal H*L", depth._replace(named=False), *lines)
    sentence = (
        f"The arm of {by_H.name} has the higher mean in {sum(test.difference > 0 for test in tests)} of {len(pairs)} "
        f"pairs with the same H*L; {r.shown_words(pairs, tests, study.score)}."
    )
    note = (
        "Equal H*L is the guide's notion. By the paper's, H*(L+1)*layers, these pairs are not equally deep, and "
        "the gradient passes through the last of the H cycles only, so more L cycles are more backward work."
    )
    return r.Section(title, sentence, table, "equal_depth", (panel,), (note,))


QUESTION = (
    "How many {} cycles are best, how far apart are training and held-out accuracy, and which of L and H cycles serve "
    "better at equal depth?"
)
GROUPS = [
    Group.over(
        "exp02a",
        QUESTION.format("L"),
        "exp02a_01 exp02a_02 exp02a_03 exp02a_04 exp02a_05 exp02a_06",
        {"model.L_cycles": (2, 4, 6, 8, 10, 12)},
        expects={"exact_accuracy": (0.82, 0.85, 0.87, 0.87, 0.86, 0.85)},
        report=report,
        companion="exp02b",
    ),
    Group.over(
        "exp02b",
        QUESTION.format("H"),
        "exp02b_01 exp02b_02 exp02b_03 exp02b_04 exp02b_05",
        {"model.H_cycles": (1, 2, 3, 4, 5)},
        expects={"exact_accuracy": (0.83, 0.86, 0.87, 0.87, 0.87)},
        report=report,
        companion="exp02a",
    ),
]
