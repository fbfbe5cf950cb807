"""Training itself: stability, averaging of weights, the optimiser's beta2, the schedule."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from trm_jax.reports.analyses.parts import (
    BY_NAME,
    SPREADS,
    Axis,
    Column,
    arm_panel,
    arm_series,
    arm_table,
    axis_label,
    measured,
    plotted,
    setting_axis,
    setting_columns,
    tested,
    ticks,
)
from trm_jax.reports.comparing import best_sentence, contrasts, range_sentence, verdict
from trm_jax.reports.content import Panel, Plot, Section, Series, Table
from trm_jax.reports.measures import EXACT, GRAD_NORM, LIVE, LOSS_VARIANCE, MAX_GRAD_NORM, SKIPPED, Measure
from trm_jax.reports.statistics import spread
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import FRACTION, digits, listed, p_text

LATE_NOTE = (
    "Late: the last fifth of a run's updates. Loss variance is that of its log lines around their straight line; a log "
    "line is a mean over the updates since the one before, so it compares runs with the same batch and log interval."
)


def stability(study: Study) -> Section:
    """Variance of the loss, gradient norms, skipped updates."""
    measures = [LOSS_VARIANCE, GRAD_NORM, MAX_GRAD_NORM]
    if any(arm.values(SKIPPED) for arm in study.ran):
        measures.append(SKIPPED)
    columns = setting_columns(study)
    for measure in measures:
        columns.append(measured(study.ran, measure))
        if measure in (LOSS_VARIANCE, GRAD_NORM):
            columns.append(tested(study, measure))
    plots = plotted(
        "stability",
        f"Loss and gradient norms of {study.name}",
        _line_panel(study.ran, "loss", "Training loss"),
        _line_panel(study.ran, "grad_norm", "Gradient norm"),
        arm_panel(study.ran, LOSS_VARIANCE, BY_NAME),
    )
    sentence = " ".join(range_sentence(study.ran, measure) for measure in (LOSS_VARIANCE, GRAD_NORM))
    return Section("Loss variance and gradient norms", sentence, (arm_table(study.arms, columns),), plots, (LATE_NOTE,))


def _line_panel(arms: list[Arm], key: str, title: str) -> Panel:
    """A key of the first seed's training records over the steps."""
    series = []
    for number, arm in enumerate(arms):
        found = [(r["step"], r[key]) for r in arm.runs[0].training if r.get(key, 0) > 0]
        if found:
            x, y = zip(*found, strict=True)
            series.append(Series(arm.name, x, y, style="line", color=number))
    return Panel(f"{title}, first seed", "update", title.lower(), tuple(series), y_scale="log")


def averaging(study: Study) -> Section:
    """The weights' average against the weights themselves, of the same runs; and other averages tracked in them."""
    rows, pairs, both = [], [], []
    for arm in study.ran:
        for average in _averages(arm):
            if arm.complete(average) and arm.complete(LIVE):
                pairs.append((arm.values(average), arm.values(LIVE)))
                both.append((arm, average.name))
    found = contrasts(pairs)
    count = sum(contrast.p is not None for contrast in found)
    for (arm, name), (values, live), contrast in zip(both, pairs, found, strict=True):
        rows.append((arm.label, name, FRACTION[0].text(spread(values)), FRACTION[0].text(spread(live)),
                     verdict(contrast, FRACTION[0])))  # fmt: skip
    untracked = [arm.name for arm in study.ran if arm.settings["optim.ema_decay"] and not arm.values(LIVE)]
    title = "With and without EMA, of the same run"
    missing = f" Not tracked in {listed(untracked)} (optim.ema_also=0 records the live weights)." if untracked else ""
    if not rows:
        return Section(title, f"Not answered: no run was scored with its average and with its live weights.{missing}")
    shown = [
        f"{arm.name} {'gains' if c.difference > 0 else 'loses'} {abs(c.difference):.4f} by averaging with {name} "
        f"({p_text(c.p)})"
        for (arm, name), c in zip(both, found, strict=True)
        if c.shown
    ]
    gains = [contrast.difference for contrast in found]
    said = (
        "no difference is claimed, since a test needs two seeds" if not count
        else f"Welch's test shows that {listed(shown)}" if shown else "Welch's test shows no difference"
    )  # fmt: skip
    columns = ("experiment", "average", "exact accuracy, averaged", "exact accuracy, live weights",
               f"averaged less live (Welch, Holm over {count})")  # fmt: skip
    arms = [arm for arm in study.ran if arm.values(LIVE)]
    series = [
        *arm_series(arms, EXACT, BY_NAME, FRACTION[0], label="accuracy of record", color=0),
        *arm_series(arms, LIVE, BY_NAME, FRACTION[0], label="live weights of the same runs", color=1),
    ]
    panels = (
        Panel(
            "Averaged and live weights",
            axis_label(arms, BY_NAME),
            "exact accuracy",
            tuple(series),
            ticks=ticks(arms, BY_NAME),
        ),  # fmt: skip
        _live_curves(arms),
    )
    return Section(
        title,
        f"Averaging changes the mean accuracy by {min(gains):+.4f} to {max(gains):+.4f} against the live weights of "
        f"the same runs; {said}.{missing}",
        (Table(columns, tuple(rows), SPREADS),),
        plotted("averaging", f"Averaged and live weights of {study.name}", *panels),
        ("Both figures are of the same runs and move together; Welch's test does not use that, so it is careful.",),
    )


def _averages(arm: Arm) -> list[Measure]:
    """The accuracy with each average that the arm's runs were scored with, by its decay."""
    decay = arm.settings["optim.ema_decay"]
    found = [replace(EXACT, name=f"{decay:g} (of record)")] if decay else []
    keys = dict.fromkeys(key for run in arm.runs for key in run.final if key.startswith("exact_accuracy_ema_"))
    return found + [
        Measure(key, key.removeprefix("exact_accuracy_ema_"), FRACTION, lambda run, key=key: run.final.get(key))
        for key in keys
    ]


def _live_curves(arms: list[Arm]) -> Panel:
    """Averaged less live accuracy while training, first seed."""
    series = []
    for number, arm in enumerate(arms):
        records = [r for r in arm.runs[0].evaluations if "exact_accuracy_live" in r]
        if records:
            gains = [r["exact_accuracy"] - r["exact_accuracy_live"] for r in records]
            series.append(Series(arm.name, [r["step"] for r in records], gains, style="joined", color=number))
    return Panel("Gain by averaging while training, first seed", "update", "averaged less live", tuple(series),
                 levels=((0.0, ""),))  # fmt: skip


def beta2_sensitivity(study: Study) -> Section:
    """How far accuracy moves with beta2, for each optimiser that ran with several."""
    title = "Sensitivity to beta2"
    families = defaultdict(list)
    for arm in study.ran:
        families[arm.settings["optim.name"]].append(arm)
    known = {name: arms for name, arms in families.items() if len({a.settings["optim.beta2"] for a in arms}) > 1}
    if not known:
        return Section(title, "Not answered: no optimiser was run with two values of beta2.")
    axis = Axis("1 - beta2", lambda arm: 1 - arm.settings["optim.beta2"], "log")
    rows = tuple(
        (arm.label, name, digits(arm.settings["optim.beta2"]), FRACTION[0].text(arm.spread(EXACT)))
        for name, arms in known.items()
        for arm in arms
    )
    series = [
        line
        for number, (name, arms) in enumerate(known.items())
        for line in arm_series(arms, EXACT, axis, FRACTION[0], label=name, color=number)
    ]
    return Section(
        title,
        " ".join(f"With {name}: {range_sentence(arms, EXACT)}" for name, arms in known.items()),
        (Table(("experiment", "optimiser", "beta2", "exact accuracy"), rows, SPREADS),),
        (Plot("beta2", f"Accuracy over beta2 of {study.name}",
              (Panel("Accuracy over beta2", axis.label, "exact accuracy", tuple(series), "log"),)),),
    )  # fmt: skip


def schedules(study: Study) -> Section:
    """The best constant rate, and each decayed schedule against the constant one of the same rate."""
    constant = [arm for arm in study.ran if arm.settings["optim.min_lr_ratio"] == 1]
    decayed = [arm for arm in study.ran if arm.settings["optim.min_lr_ratio"] < 1]
    pairs = [(d, c) for d in decayed for c in constant if d.settings["optim.lr"] == c.settings["optim.lr"]]
    found = contrasts([(d.values(EXACT), c.values(EXACT)) for d, c in pairs])
    count = sum(contrast.p is not None for contrast in found)
    columns = [
        *setting_columns(study),
        measured(study.ran, EXACT),
        Column(
            f"decay less constant (Welch, Holm over {count})",
            lambda arm: "; ".join(
                f"{verdict(contrast, FRACTION[0])} (against {c.name})"
                for (d, c), contrast in zip(pairs, found, strict=True)
                if d is arm
            ),
        ),
    ]
    said = [_decay_words(d, c, contrast) for (d, c), contrast in zip(pairs, found, strict=True)]
    optimum = f"Of the constant rates: {best_sentence(constant, EXACT)}" if constant else "No constant rate was run."
    axis = setting_axis("optim.lr", "learning rate", "log")
    series = [
        *arm_series(constant, EXACT, axis, FRACTION[0], label="constant", color=0),
        *(
            line
            for number, arm in enumerate(decayed, 1)
            for line in arm_series([arm], EXACT, axis, FRACTION[0], color=number,
                                   label=f"decayed to {arm.settings['optim.min_lr_ratio']:g}")
        ),
    ]  # fmt: skip
    panel = Panel("Accuracy over the learning rate", axis.label, "exact accuracy", tuple(series), "log",
                  ticks=ticks(study.ran, axis))  # fmt: skip
    decay = " ".join(said) or "Decay against constant is not answered: no two of them were run with one rate."
    return Section("Optimum, and decay against constant", f"{optimum} {decay}", (arm_table(study.arms, columns),),
                   (Plot("schedule", f"Accuracy over the learning rate of {study.name}", (panel,)),))  # fmt: skip


def _decay_words(decayed: Arm, constant: Arm, contrast) -> str:
    if contrast.p is None:
        said = contrast.why
    else:
        said = f"{'a difference' if contrast.shown else 'no difference shown'}, Welch's t-test, {p_text(contrast.p)}"
    ratio = decayed.settings["optim.min_lr_ratio"]
    change = f"{contrast.difference:+.4f} against {constant.name} ({said})"
    return f"Decaying to {ratio:g} of the rate changes the mean by {change}."
