"""Recursion: the gap between training and held-out accuracy, H against L, layers against cycles."""

from __future__ import annotations

from trm_jax.reports.analyses.parts import (
    SPREADS,
    Analysis,
    Axis,
    Column,
    arm_panel,
    arm_series,
    arm_table,
    measured,
    setting_columns,
    tested,
)
from trm_jax.reports.comparing import contrasts, range_sentence, verdict
from trm_jax.reports.content import Panel, Plot, Section, Table
from trm_jax.reports.measures import EXACT, GAP, STEP_FLOPS, TRAIN_EXACT, TRAIN_FLOPS
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import FRACTION, digits, listed, p_text, scale_for


def guide_depth(arm: Arm) -> int:
    """The guide's "effective depth", H * L."""
    return arm.settings["model.H_cycles"] * arm.settings["model.L_cycles"]


def paper_depth(arm: Arm) -> int:
    """The paper's, H * (L + 1) * layers: also the layer applications of a supervision step."""
    return arm.settings["model.H_cycles"] * (arm.settings["model.L_cycles"] + 1) * arm.settings["model.L_layers"]


DEPTH_COLUMNS = (
    Column("depth H*L (the guide's)", lambda arm: digits(guide_depth(arm)), always=True),
    Column(
        "depth H*(L+1)*layers (the paper's) = layer applications", lambda arm: digits(paper_depth(arm)), always=True
    ),
)


def gap(axis: Axis) -> Analysis:
    """How much better training puzzles are solved than held-out ones."""

    def analyse(study: Study) -> Section:
        measures = (TRAIN_EXACT, EXACT, GAP)
        columns = [*setting_columns(study), *(measured(study.ran, m) for m in measures), tested(study, GAP)]
        series = [
            line
            for number, (measure, label) in enumerate(((TRAIN_EXACT, "training"), (EXACT, "held out")))
            for line in arm_series(study.ran, measure, axis, FRACTION[0], label=label, color=number)
        ]
        panel = Panel("Training and held-out accuracy", axis.label, "exact accuracy", tuple(series), axis.scale)
        return Section(
            "Train-test gap",
            range_sentence(study.ran, GAP),
            (arm_table(study.arms, columns),),
            (Plot("gap", f"Training and held-out accuracy of {study.name}", (panel,)),),
            (
                "Training accuracy is that of the last fifth of the run: augmented training puzzles, live weights, "
                "each sequence when it halted. Held-out accuracy is with EMA weights after all supervision steps. So "
                "the gap compares arms with one another; it is not zero for a model that generalises perfectly.",
            ),
        )

    return analyse


def equal_depth(study: Study) -> Section:
    """The arms of exp02a and exp02b with the same H * L, side by side."""
    title = "H cycles against L cycles at equal depth"
    other = study.companion
    if other is None:
        return Section(title, f"Not answered: {study.companion_problem or 'the other group is not in the catalogue'}.")
    by_L, by_H = (study, other) if study.kind == "exp02a" else (other, study)
    pairs = [
        (more_L, more_H)
        for more_L in by_L.ran
        for more_H in by_H.ran
        if guide_depth(more_L) == guide_depth(more_H) and _cycles(more_L) != _cycles(more_H)
    ]
    if not pairs:
        return Section(title, f"Not answered: no two runs of {by_L.name} and {by_H.name} have the same H*L.")
    found = contrasts([(more_H.values(EXACT), more_L.values(EXACT)) for more_L, more_H in pairs])
    tested_pairs = [c for c in found if c.p is not None]
    scale = scale_for(STEP_FLOPS.unit, [v for pair in pairs for arm in pair for v in arm.values(STEP_FLOPS)])
    rows = []
    for (more_L, more_H), contrast in zip(pairs, found, strict=True):
        cells = []
        for arm in (more_L, more_H):
            flops = arm.spread(STEP_FLOPS)
            cells += [
                f"{arm.name} (H {arm.settings['model.H_cycles']}, L {arm.settings['model.L_cycles']})",
                FRACTION[0].text(arm.spread(EXACT)),
                f"{paper_depth(arm)}, {scale.number(flops.mean) + ' ' + scale.label if flops else 'not recorded'}",
            ]
        rows.append((digits(guide_depth(more_L)), *cells, verdict(contrast, FRACTION[0])))
    columns = (
        "H*L", "by L cycles", "exact accuracy", "layer applications, compute of an update",
        "by H cycles", "exact accuracy", "layer applications, compute of an update",
        f"H less L (Welch, Holm over {len(tested_pairs)})",
    )  # fmt: skip
    shown = [
        f"{more_H.name} {'above' if c.difference > 0 else 'below'} {more_L.name} ({p_text(c.p)})"
        for (more_L, more_H), c in zip(pairs, found, strict=True)
        if c.shown
    ]
    if not tested_pairs:
        said = "no difference is claimed, since a test needs two seeds an arm"
    else:
        said = f"Welch's test shows {listed(shown)}" if shown else "Welch's test shows no difference in any pair"
    ahead = sum(contrast.difference > 0 for contrast in found)
    axis = Axis("H*L", lambda arm: float(guide_depth(arm)))
    panel = Panel(
        "Accuracy at equal H*L", axis.label, "exact accuracy",
        (*arm_series(by_L.ran, EXACT, axis, FRACTION[0], label=f"more L cycles ({by_L.name})", color=0),
         *arm_series(by_H.ran, EXACT, axis, FRACTION[0], label=f"more H cycles ({by_H.name})", color=1)),
    )  # fmt: skip
    return Section(
        title,
        f"Of {len(pairs)} pair{'s' * (len(pairs) > 1)} with the same H*L, the arm of {by_H.name} has the higher mean "
        f"in {ahead}; {said}.",
        (Table(columns, tuple(rows), SPREADS),),
        (Plot("equal_depth", f"Accuracy over H*L by {by_L.name} and {by_H.name}", (panel,)),),
        (
            "Equal H*L is the guide's notion. By the paper's, H*(L+1)*layers, these pairs are not equally deep, and "
            "the gradient passes through the last of the H cycles only, so more L cycles are more backward work.",
        ),
    )


def _cycles(arm: Arm) -> tuple[int, int]:
    return arm.settings["model.H_cycles"], arm.settings["model.L_cycles"]


def recursion_depth(study: Study) -> Section:
    """Depth by both counts, layer applications and compute."""
    compute = (STEP_FLOPS, TRAIN_FLOPS)
    columns = [*setting_columns(study), *DEPTH_COLUMNS, *(measured(study.ran, m) for m in (*compute, EXACT))]
    first, last = study.arms[0], study.arms[-1]
    flops = range_sentence(study.ran, TRAIN_FLOPS)
    by_guide = Axis("depth H*L (the guide's)", lambda arm: float(guide_depth(arm)))
    by_paper = Axis("depth H*(L+1)*layers (the paper's)", lambda arm: float(paper_depth(arm)))
    panels = (
        arm_panel(study.ran, EXACT, by_guide, "By the guide's depth"),
        arm_panel(study.ran, EXACT, by_paper, "By the paper's depth"),
    )
    return Section(
        "Effective depth and compute",
        f"From {first.name} to {last.name} the guide's depth H*L goes from {guide_depth(first)} to {guide_depth(last)} "
        f"while the layer applications of a supervision step go from {paper_depth(first)} to {paper_depth(last)}. "
        f"{flops}",
        (arm_table(study.arms, columns),),
        (Plot("depth", f"Accuracy over both depths of {study.name}", panels),),
    )
