"""Halting: how much inference an accuracy costs, when the model would stop, how that is distributed."""

from __future__ import annotations

import math

from trm_jax.reports.analyses.parts import (
    BY_NAME,
    SPREADS,
    Axis,
    arm_panel,
    arm_table,
    common_scale,
    expected,
    headed,
    measured,
    plotted,
    setting_axis,
    setting_columns,
    short_names,
    tested,
    titled,
)
from trm_jax.reports.comparing import best_sentence, contrasts, range_sentence, verdict
from trm_jax.reports.content import Panel, Plot, Section, Series, Table
from trm_jax.reports.measures import (
    EARLY_EXACT,
    EARLY_STEPS,
    EXACT,
    HALT_EARLY,
    HALT_VARIANCE,
    PUZZLE_FLOPS,
    TRAIN_STEPS,
    TRAIN_VARIANCE,
)
from trm_jax.reports.runs import Run, added, eval_halting
from trm_jax.reports.statistics import spread
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import HALT_STEPS, digits, listed, p_text

OVER_STEPS = setting_axis("model.halt_max_steps", "supervision steps")
EVAL_NOTE = (
    "In evaluation every puzzle thinks for all its steps; a row's halt step is the first at which its q_halt is "
    "positive. Rows that never halt count at the last step."
)


def inference_cost(study: Study) -> Section:
    """Accuracy against the compute of answering one puzzle, with all steps and when stopped early."""
    columns = [
        *setting_columns(study),
        *(measured(study.ran, measure) for measure in (PUZZLE_FLOPS, EXACT, EARLY_STEPS, EARLY_EXACT)),
        tested(study),
        *expected(study, "exact_accuracy", "steps"),
    ]
    known = [arm for arm in study.ran if arm.values(PUZZLE_FLOPS)]
    stopped = [arm for arm in known if arm.values(EARLY_EXACT)]
    scale = common_scale(known, PUZZLE_FLOPS)
    series = (_cost_series(known, scale.factor, early=False), _cost_series(stopped, scale.factor, early=True))
    panel = Panel(
        titled(known, "accuracy against inference"),
        headed(PUZZLE_FLOPS.name, scale),
        "exact accuracy",
        tuple(line for line in series if line.x),
    )
    plots = plotted("inference", f"Accuracy against inference compute of {study.name}", panel)
    sentence = f"{best_sentence(study.ran, EXACT)} {range_sentence(study.ran, PUZZLE_FLOPS)} {_early_words(study)}"
    return Section("Accuracy against inference cost", sentence, (arm_table(study.arms, columns),), plots, (EVAL_NOTE,))


def _cost_series(arms: list[Arm], factor: float, *, early: bool) -> Series:
    measure = EARLY_EXACT if early else EXACT
    x = []
    for arm in arms:
        share = arm.spread(EARLY_STEPS).mean / arm.settings["model.halt_max_steps"] if early else 1.0
        x.append(share * arm.spread(PUZZLE_FLOPS).mean / factor)
    spreads = [arm.spread(measure) for arm in arms]
    return Series(
        "stopped at the first q_halt > 0" if early else "all supervision steps",
        x,
        [found.mean for found in spreads],
        [found.deviation for found in spreads],
        names=[] if early else list(short_names(arms).values()),
        style="joined",
        color=int(early),
    )


def halting(axis: Axis = BY_NAME):
    """Mean, variance and distribution of the halt step after training, and late in it."""

    def analyse(study: Study) -> Section:
        measures = (EARLY_STEPS, HALT_VARIANCE, HALT_EARLY, TRAIN_STEPS, TRAIN_VARIANCE)
        columns = [*setting_columns(study), *(measured(study.ran, measure) for measure in measures)]
        columns += [tested(study, EARLY_STEPS), *expected(study, "steps")]
        plots = plotted(
            "halting",
            f"Halt steps of {study.name}",
            arm_panel(study.ran, EARLY_STEPS, axis),
            _distribution("Where held-out puzzles would halt", study.ran, _eval_counts),
            _distribution("Where training sequences halted", study.ran, lambda run: run.train_halt_counts),
        )
        return Section(
            "When it halts",
            f"{_early_words(study)} {range_sentence(_that_can_halt(study.ran) or study.ran, EARLY_STEPS)}",
            (arm_table(study.arms, columns),),
            plots,
            (EVAL_NOTE, "In training exploration makes some sequences go on after they would have halted."),
        )

    return analyse


def _eval_counts(run: Run) -> list[float]:
    return run.final.get("halt_steps", [])


def _distribution(title: str, arms: list[Arm], counts_of) -> Panel:
    series = []
    for number, arm in enumerate(arms):
        counts = added([counts_of(run) for run in arm.runs])
        total = sum(counts)
        if total:
            steps = range(1, len(counts) + 1)
            series.append(Series(arm.name, steps, [c / total for c in counts], style="joined", color=number))
    return Panel(title, "supervision step", "share", tuple(series))


def _that_can_halt(arms: list[Arm]) -> list[Arm]:
    """Those with more than one step: before an only step nothing halts."""
    return [arm for arm in arms if arm.settings["model.halt_max_steps"] > 1]


def _early_words(study: Study) -> str:
    """Whether puzzles would halt before the last step, of arms that have more than one."""
    recorded = [arm for arm in study.ran if arm.values(HALT_EARLY)]
    known = _that_can_halt(recorded)
    if not recorded:
        return "The runs recorded no halt steps."
    one_step = [arm.name for arm in recorded if arm not in known]
    left = f" Left out here, since nothing can halt before its only step: {listed(one_step)}." if one_step else ""
    if not known:
        return left.strip()
    shares = {arm.name: arm.spread(HALT_EARLY).mean for arm in known}
    least, most = min(shares, key=shares.get), max(shares, key=shares.get)
    answer = "It halts early" if shares[least] > 0.5 else "It mostly does not halt early" if shares[most] < 0.5 else (
        "Whether it halts early depends on the arm"
    )  # fmt: skip
    end = "of held-out puzzles would halt before the last step"
    if shares[least] == shares[most]:
        return f"{answer}: {shares[most]:.1%} {end} in {'every arm' if len(known) > 1 else most}.{left}"
    return f"{answer}: from {shares[least]:.1%} ({least}) to {shares[most]:.1%} ({most}) {end}.{left}"


def halting_at_equal_accuracy(study: Study) -> Section:
    """Each run at its first evaluation that reaches what all of them reach."""
    title = "Halting at equal accuracy"
    if len(study.ran) < 2:
        return Section(title, "Not answered: it takes two arms that were run.")
    level = min(max(record["exact_accuracy"] for record in run.evaluations) for run in study.runs)
    there = {arm.name: [run.first_at(level) for run in arm.runs] for arm in study.ran}
    found = {name: [h for h in map(eval_halting, records) if h is not None] for name, records in there.items()}
    if not all(found.values()):
        return Section(title, "Not answered: some runs recorded no halt steps.")
    reference = study.reference
    others = [arm for arm in study.ran if arm is not reference]
    means = {name: [h.mean for h in halts] for name, halts in found.items()}
    tests = contrasts([(means[arm.name], means[reference.name]) for arm in others])
    verdicts = dict(zip((arm.name for arm in others), tests, strict=True))
    rows = []
    for arm in study.ran:
        halts, records = found[arm.name], there[arm.name]
        rows.append((
            arm.label,
            digits(spread([record["step"] for record in records]).mean),
            f"{spread([record['exact_accuracy'] for record in records]).mean:.4f}",
            HALT_STEPS[0].text(spread(means[arm.name])),
            "reference" if arm is reference else verdict(verdicts[arm.name], HALT_STEPS[0]),
            digits(spread([h.variance for h in halts]).mean),
            f"{spread([h.early for h in halts]).mean:.4f}",
        ))  # fmt: skip
    against = f"against {reference.name} (Welch{f', Holm over {len(tests)}' if len(tests) > 1 else ''})"
    columns = (
        "experiment", "mean update", "mean exact accuracy there", "mean halt step", against, "variance", "share early",
    )  # fmt: skip
    panel = _distribution_of(there, study.ran, level)
    return Section(
        title,
        f"At the first evaluation with at least {math.floor(level * 1e4) / 1e4:.4f}, which every run reaches, "
        + "; ".join(_contrast_words(arm, reference, means, verdicts[arm.name]) for arm in others)
        + ".",
        (Table(columns, tuple(rows), SPREADS),),
        (Plot("equal_accuracy", f"Halt steps of {study.name} at equal accuracy", (panel,)),),
        (EVAL_NOTE,),
    )


def _distribution_of(there: dict[str, list[dict]], arms: list[Arm], level: float) -> Panel:
    series = []
    for number, arm in enumerate(arms):
        counts = added([record["halt_steps"] for record in there[arm.name]])
        shares = [count / sum(counts) for count in counts]
        series.append(Series(arm.name, range(1, len(counts) + 1), shares, style="joined", color=number))
    return Panel(f"Halt steps at exact accuracy {level:.3f}", "supervision step", "share", tuple(series))


def _contrast_words(arm: Arm, reference: Arm, means: dict, contrast) -> str:
    values = [HALT_STEPS[0].with_unit(spread(means[a.name])) for a in (arm, reference)]
    if contrast.p is None:
        said = contrast.why
    else:
        said = f"{'a difference' if contrast.shown else 'no difference shown'}, Welch's t-test, {p_text(contrast.p)}"
    return f"{arm.name} would halt after {values[0]} and {reference.name} after {values[1]} ({said})"
