"""Halting: when the model would stop, and how that is distributed."""

from __future__ import annotations

from collections.abc import Iterable

from trm_jax.reports import measures as m
from trm_jax.reports.content import Panel, Section, Series
from trm_jax.reports.parts import BY_NAME, Axis, arm_panel, arm_table, expected, measured, tested
from trm_jax.reports.runs import added, train_halt_counts
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import listed
from trm_jax.reports.words import best_sentence

EVAL_NOTE = (
    "In evaluation every puzzle thinks for all its steps; a row's halt step is the first at which its q_halt is "
    "positive. Rows that never halt count at the last step."
)


def when_it_halts(study: Study, axis: Axis = BY_NAME) -> Section:
    """Mean, variance and distribution of the halt step after training, and late in it."""
    columns = measured(study, m.EARLY_STEPS, m.HALT_VARIANCE, m.HALT_EARLY, m.TRAIN_STEPS, m.TRAIN_VARIANCE)
    columns += [tested(study, m.EARLY_STEPS), *expected(study, "steps")]
    evaluated = {arm.name: [run.final.get("halt_steps", []) for run in arm.runs] for arm in study.ran}
    trained = {arm.name: [train_halt_counts(run) for run in arm.runs] for arm in study.ran}
    panels = (
        arm_panel(study, m.EARLY_STEPS, axis),
        distribution("Where held-out puzzles would halt", evaluated),
        distribution("Where training sequences halted", trained),
    )
    sentence = f"{early_words(study)} {best_sentence(_that_can_halt(study.ran) or study.ran, m.EARLY_STEPS)}"
    note = "In training exploration makes some sequences go on after they would have halted."
    return Section("When it halts", sentence, arm_table(study, columns), "halting", panels, (EVAL_NOTE, note))


def distribution(title: str, counts: dict[str, Iterable[list[float]]]) -> Panel:
    """counts: how many sequences halted at step 1, 2, ... in each run of an arm, by the arm's name."""
    series = []
    for number, (name, rows) in enumerate(counts.items()):
        found = added(list(rows))
        if total := sum(found):
            shares = [count / total for count in found]
            series.append(Series(name, range(1, len(found) + 1), shares, style="joined", color=number))
    return Panel(title, "supervision step", "share", tuple(series))


def _that_can_halt(arms: list[Arm]) -> list[Arm]:
    """Those with more than one step: before an only step nothing halts."""
    return [arm for arm in arms if arm.settings["model.halt_max_steps"] > 1]


def early_words(study: Study) -> str:
    """Whether puzzles would halt before the last step, of arms that have more than one."""
    recorded = [arm for arm in study.ran if arm.values(m.HALT_EARLY)]
    known = _that_can_halt(recorded)
    if not recorded:
        return "The runs recorded no halt steps."
    one_step = [arm.name for arm in recorded if arm not in known]
    left = f" Left out here, since nothing can halt before its only step: {listed(one_step)}." if one_step else ""
    if not known:
        return left.strip()
    shares = [(arm.mean(m.HALT_EARLY), arm.name) for arm in known]
    (least, low), (most, high) = min(shares), max(shares)
    if least > 0.5:
        answer = "It halts early"
    else:
        answer = "It mostly does not halt early" if most < 0.5 else "Whether it halts early depends on the arm"
    return (
        f"{answer}: from {least:.1%} ({low}) to {most:.1%} ({high}) of held-out puzzles would halt before the last "
        f"step.{left}"
    )
