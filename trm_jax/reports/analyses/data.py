"""Training puzzles and augmentations: how many are enough, and whether one replaces the other."""

from __future__ import annotations

from itertools import product

from trm_jax.reports.analyses.parts import SPREADS, Analysis, Axis, arm_panel, arm_series, placed, with_levels
from trm_jax.reports.comparing import Contrast, contrasts, updates_words, verdict
from trm_jax.reports.content import Panel, Plot, Section, Table
from trm_jax.reports.fits import PowerFit, fit_power
from trm_jax.reports.measures import EXACT, STEPS
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import FRACTION, digits, listed, p_text

# Numbers of boards in this ratio or less count as equal: puzzles and augmentations come in round numbers.
ABOUT = 1.15


def smallest_for(axis: Axis, *guides: float) -> Analysis:
    """The least of what is varied whose mean accuracy reaches a level."""

    def analyse(study: Study) -> Section:
        levels = study.levels or guides
        arms = placed(study.ran, axis)
        fit = fit_power(
            [axis.of(arm) for arm in arms for _ in arm.runs], [value for arm in arms for value in arm.values(EXACT)]
        )
        rows, said = [], []
        for level in levels:
            enough = [arm for arm in arms if arm.spread(EXACT).mean >= level]
            if enough:
                found = FRACTION[0].text(enough[0].spread(EXACT))
                by_mean = f"{enough[0].name} with {found} after {enough[0].spread(STEPS).mean:,.0f} updates"
                size = digits(axis.of(enough[0]))
                throughout = all(arm in enough for arm in arms[arms.index(enough[0]) :])
                where = (
                    f"from {size} {axis.label} on" if throughout else f"at {size} {axis.label}, though not by all above"
                )
                said.append(f"{level:g} is reached {where}, first by {by_mean}")
            else:
                by_mean = "not reached"
                said.append(f"no mean reaches {level:g}")
            rows.append((f"{level:g}", by_mean, _by_fit(fit, level)))
        updates = updates_words(arms)
        mind = f" Updates differ too, {updates}, so {axis.label} alone do not explain it." if updates else ""
        columns = ("exact accuracy", "smallest arm whose mean reaches it", f"{axis.label} by the fit a - b x^-c")
        panel = with_levels(arm_panel(study.ran, EXACT, axis), levels)
        return Section(
            f"The smallest number of {axis.label} for {listed([f'{level:g}' for level in levels])}",
            f"In these runs {listed(said)}.{mind}",
            (Table(columns, tuple(rows)),),
            (Plot("smallest", f"Exact accuracy over {axis.label} with the levels asked for", (panel,)),),
        )

    return analyse


def _by_fit(fit: PowerFit | str, level: float) -> str:
    if isinstance(fit, str):
        return f"no fit: {fit}"
    if not fit.determined:
        return "not determined"
    found = fit.inverse(level)
    return "its limit is below" if found is None else digits(found)


def substitute(study: Study) -> Section:
    """Few puzzles with many augmentations against more puzzles with fewer: about as many distinct boards."""
    title = "Is augmentation a substitute for data?"
    other = study.companion
    if other is None:
        return Section(title, f"Not answered: {study.companion_problem or 'the other group is not in the catalogue'}.")
    by_puzzles, by_variants = (study, other) if study.kind == "exp04a" else (other, study)
    pairs = _equal_boards(by_puzzles.ran, by_variants.ran)
    if not pairs:
        both = f"{by_puzzles.name} and {by_variants.name}"
        return Section(title, f"Not answered: no runs of {both} have about as many boards.")
    found = contrasts([(many.values(EXACT), few.values(EXACT)) for few, many in pairs])
    rows = tuple(
        (f"{digits(boards(few))} and {digits(boards(many))}", *_cells(few), *_cells(many), verdict(c, FRACTION[0]))
        for (few, many), c in zip(pairs, found, strict=True)
    )
    count = sum(contrast.p is not None for contrast in found)
    columns = (
        "distinct boards", "fewer puzzles, more augmentations", "exact accuracy", "updates",
        "more puzzles, fewer augmentations", "exact accuracy", "updates", f"more less fewer (Welch, Holm over {count})",
    )  # fmt: skip
    axis = Axis("distinct boards: puzzles x (augmentations + 1)", lambda arm: float(boards(arm)), "log")
    series = [
        line
        for number, (group, what) in enumerate(((by_puzzles, "puzzles"), (by_variants, "augmentations")))
        for line in arm_series(group.ran, EXACT, axis, FRACTION[0], label=f"{what} varied ({group.name})", color=number)
    ]
    panel = Panel("Accuracy over distinct boards", axis.label, "exact accuracy", tuple(series), "log")
    return Section(
        title,
        _substitute_words(pairs, found),
        (Table(columns, rows, SPREADS),),
        (Plot("substitute", "Accuracy over distinct boards", (panel,)),),
        (
            "A budget in epochs gives fewer updates to fewer puzzles: compare the columns of updates before reading a "
            "difference as one of the data alone.",
        ),
    )


def _equal_boards(one: list[Arm], other: list[Arm]) -> list[tuple[Arm, Arm]]:
    """Pairs (fewer puzzles, more puzzles) across two groups with about as many boards, by their number."""
    pairs = []
    for a, b in product(one, other):
        few, many = sorted((a, b), key=_puzzles)
        if _puzzles(few) < _puzzles(many) and 1 / ABOUT <= boards(few) / boards(many) <= ABOUT:
            pairs.append((few, many))
    return sorted(pairs, key=lambda pair: boards(pair[0]))


def _puzzles(arm: Arm) -> int:
    return arm.settings["data.train_puzzles"]


def boards(arm: Arm) -> int:
    """Training boards: each puzzle and its augmentations."""
    return _puzzles(arm) * (arm.settings["data.augmentations"] + 1)


def _cells(arm: Arm) -> tuple[str, str, str]:
    return arm.name, FRACTION[0].text(arm.spread(EXACT)), digits(arm.runs[0].final["step"])


def _substitute_words(pairs: list[tuple[Arm, Arm]], found: list[Contrast]) -> str:
    if all(contrast.p is None for contrast in found):
        return (
            f"With about equally many boards {len(pairs)} pair{'s' * (len(pairs) > 1)} can be compared and none tested "
            "(that needs two seeds an arm), so no answer is claimed."
        )
    shown = [(pair, contrast) for pair, contrast in zip(pairs, found, strict=True) if contrast.shown]
    if not shown:
        return (
            "With about equally many boards Welch's test shows no difference: nothing here says that augmentations "
            "cannot stand in for puzzles, nor that they can."
        )
    said = [
        f"{many.name} is {abs(c.difference):.4f} {'above' if c.difference > 0 else 'below'} {few.name} ({p_text(c.p)})"
        for (few, many), c in shown
    ]
    signs = {contrast.difference > 0 for _, contrast in shown}
    if len(signs) > 1:
        answer = "whether it is depends on the number"
    elif signs == {True}:
        answer = "augmentation is no full substitute, more puzzles are worth more"
    else:
        answer = "more augmentations of fewer puzzles are worth more"
    return f"With about equally many boards {listed(said)}: {answer}, in these runs and with their numbers of updates."
