"""Recursion: L cycles inside an H cycle, and H cycles inside a supervision step."""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def depth(arm) -> int:
    """The guide's "effective depth", H * L."""
    return arm.settings["model.H_cycles"] * arm.settings["model.L_cycles"]


def _cycles(arm) -> list[int]:
    return [arm.settings[key] for key in ("model.H_cycles", "model.L_cycles")]


def report(study):
    key = study.varied[0]
    axis = r.setting_axis(key, key.removeprefix("model.").replace("_", " "))
    return [
        r.accuracy(study, axis, optimum=True),
        gap(study, axis),
        equal_depth(study),
        r.costs(study, axis),
        r.curves(study),
    ]


def gap(study, axis):
    """How much better training puzzles are solved than held-out ones."""
    score, train, gap = study.score, study.scores.train, study.scores.gap
    lines = r.Line(study.ran, train, "training"), r.Line(study.ran, score, "held out")
    return r.Section(
        "Train-test gap",
        r.best_sentence(study.ran, gap),
        r.arm_table(study, [*r.measured(study, train, score, gap), r.tested(study, gap)]),
        "gap",
        (r.panel("Training and held-out accuracy", axis, *lines, y_label=score.name),),
        (
            "Training accuracy is that of the last fifth of the run: augmented training puzzles, live weights, each "
            "sequence when it halted. Held-out accuracy is with EMA weights after all supervision steps. So the gap "
            "compares arms with one another; it is not zero for a model that generalises perfectly.",
        ),
    )


def equal_depth(study):
    """The arms of exp02a and exp02b with the same H * L, side by side."""
    title = "H cycles against L cycles at equal depth"
    other = study.companion
    if other is None:
        return r.Section(title, f"Not answered: {study.companion_problem}.")
    by_L, by_H = (study, other) if study.varied == ("model.L_cycles",) else (other, study)
    pairs = [(by_h, by_l) for by_l in by_L.ran for by_h in by_H.ran if depth(by_h) == depth(by_l)]
    pairs = [(one, other) for one, other in pairs if _cycles(one) != _cycles(other)]  # both groups share an arm
    if not pairs:
        return r.Section(title, f"Not answered: no two runs of {by_L.name} and {by_H.name} have the same H*L.")
    told = {
        "H*L": lambda arm: r.digits(depth(arm)),
        "layer applications": lambda arm: r.digits(r.depth(arm.settings)),
        "compute of an update": lambda arm: r.said(arm, r.STEP_FLOPS) if arm.values(r.STEP_FLOPS) else "not recorded",
    }
    table, tests = r.pair_table(study.score, pairs, ("by H cycles", "by L cycles"), told)
    ahead = sum(test.difference > 0 for test in tests)
    axis = r.Axis("H*L", lambda arm: float(depth(arm)))
    lines = [
        r.Line(group.ran, study.score, f"more {group.varied[0][6]} cycles ({group.name})") for group in (by_L, by_H)
    ]
    return r.Section(
        title,
        f"Of {r.counted(len(pairs), 'pair')} with the same H*L, the arm of {by_H.name} has the higher mean in {ahead}; "
        f"{r.shown_words(pairs, tests)}.",
        table,
        "equal_depth",
        (r.panel("Accuracy at equal H*L", axis, *lines),),
        (
            "Equal H*L is the guide's notion. By the paper's, H*(L+1)*layers, these pairs are not equally deep, and "
            "the gradient passes through the last of the H cycles only, so more L cycles are more backward work.",
        ),
    )


GROUPS = [
    Group.over(
        "exp02a",
        "How many L cycles are best, how far apart are training and held-out accuracy, and which of L and H cycles "
        "serve better at equal depth?",
        ("model.L_cycles",),
        [
            ("exp02a_01", (2,), (0.82,)),
            ("exp02a_02", (4,), (0.85,)),
            ("exp02a_03", (6,), (0.87,)),
            ("exp02a_04", (8,), (0.87,)),
            ("exp02a_05", (10,), (0.86,)),
            ("exp02a_06", (12,), (0.85,)),
        ],
        report=report,
        companion="exp02b",
    ),
    Group.over(
        "exp02b",
        "How many H cycles are best, how far apart are training and held-out accuracy, and which of L and H cycles "
        "serve better at equal depth?",
        ("model.H_cycles",),
        [
            ("exp02b_01", (1,), (0.83,)),
            ("exp02b_02", (2,), (0.86,)),
            ("exp02b_03", (3,), (0.87,)),
            ("exp02b_04", (4,), (0.87,)),
            ("exp02b_05", (5,), (0.87,)),
        ],
        report=report,
        companion="exp02a",
    ),
]
