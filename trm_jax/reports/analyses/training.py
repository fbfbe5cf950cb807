"""Training itself: stability, averaging of weights, the optimiser's beta2, the schedule."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from typing import NamedTuple

from trm_jax.reports.analyses.parts import (
    BY_NAME,
    SPREADS,
    Axis,
    Column,
    arm_panel,
    arm_series,
    arm_table,
    axis_label,
    interval_head,
    measured,
    paired_name,
    plotted,
    setting_axis,
    setting_columns,
    tested,
    ticks,
)
from trm_jax.reports.comparable import deciding
from trm_jax.reports.comparing import (
    best_sentence,
    contrasts,
    paired_contrasts,
    paired_verdict,
    range_sentence,
    verdict,
)
from trm_jax.reports.content import Panel, Plot, Section, Series, Table
from trm_jax.reports.measures import EXACT, GRAD_NORM, LIVE, LOSS_VARIANCE, MAX_GRAD_NORM, SKIPPED, Measure
from trm_jax.reports.runs import Run
from trm_jax.reports.statistics import ALPHA, spread
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


class Gain(NamedTuple):
    """What one average gives in an arm: accuracies by seed, averaged and live; `borrowed`: whose live weights."""

    arm: Arm
    average: str
    averaged: dict[int, float]
    live: dict[int, float]
    borrowed: tuple[str, ...]


def averaging(study: Study) -> Section:
    """The weights' average against the weights themselves, of the same runs; and other averages tracked in them."""
    gains, lacking = [], []
    weights = {arm.name: _live_weights(arm, study) for arm in study.ran}
    for arm in study.ran:
        averages = _averages(arm)
        live, borrowed = weights[arm.name]
        if averages and not live:
            lacking.append(arm.name)
        gains += [
            Gain(arm, average.name, arm.by_seed(average), live, borrowed)
            for average in averages
            if arm.by_seed(average).keys() & live.keys()
        ]
    found = paired_contrasts([(gain.averaged, gain.live) for gain in gains])
    number = sum(test.p is not None for test in found)
    title = "With and without EMA, of the same run"
    missing = (
        f" Not answered for {listed(lacking)}: these runs did not evaluate their live weights (optim.ema_also=0 does) "
        "and no run here trained the same weights."
        if lacking
        else ""
    )
    if not gains:
        return Section(title, f"Not answered: no run was scored with its average and with its live weights.{missing}")
    differences = [FRACTION[0].signed(test.difference) for test in sorted(found, key=lambda test: test.difference)]
    shown = [
        f"{gain.arm.name} {'gains' if test.difference > 0 else 'loses'} {abs(test.difference):.4f} by averaging with "
        f"{gain.average} ({p_text(test.p)})"
        for gain, test in zip(gains, found, strict=True)
        if test.p is not None and test.p < ALPHA
    ]
    verdict_words = f"that {listed(shown)}" if shown else "no difference"
    said = (
        f"a test by pairs of one seed ({paired_name(number)}) shows {verdict_words}"
        if number
        else "no difference is claimed, since a test needs two seeds"
    )
    marked = {gain.borrowed for gain in gains if gain.borrowed}
    rows = tuple(
        (
            gain.arm.label,
            gain.average,
            FRACTION[0].text(spread(list(gain.averaged.values()))),
            FRACTION[0].text(spread(list(gain.live.values()))) + " *" * bool(gain.borrowed),
            paired_verdict(test, FRACTION[0]),
        )
        for gain, test in zip(gains, found, strict=True)
    )
    columns = ("experiment", "average", "exact accuracy, averaged", "exact accuracy, live weights",
               f"averaged less live, by pairs of one seed{interval_head(number)}")  # fmt: skip
    caption = f"{SPREADS}; intervals are of one difference each, p values are adjusted"
    for names in marked:
        caption += (
            f"; * as scored by {listed(names)}: with the same seed these runs logged the very losses and gradients of "
            "the arm's own, so they trained the same weights"
        )
    panels = (
        _both_panel(study, {name: live for name, (live, _) in weights.items() if live}),
        _live_curves([arm for arm in study.ran if arm.values(LIVE)]),
    )
    span = " to ".join(dict.fromkeys((differences[0], differences[-1])))
    return Section(
        title,
        f"Averaging changes the mean accuracy by {span} against the live weights; {said}.{missing}",
        (Table(columns, rows, caption),),
        plotted("averaging", f"Averaged and live weights of {study.name}", *panels),
    )


def _live_weights(arm: Arm, study: Study) -> tuple[dict[int, float], tuple[str, ...]]:
    """The accuracy of the live weights by seed, and whose runs told it where not all of the arm's own did.

    What a run averages changes nothing that it trains. So a run of the same seed that differs in nothing else has the
    same live weights, if the losses and gradients that both logged are equal to the last bit.
    """
    found, borrowed = {}, []
    for run in arm.runs:
        value = LIVE.of(run)
        if value is None:
            twins = [other for other in study.arms for twin in other.runs if _same_weights(run, twin)]
            if twins:
                value = twins[0].by_seed(LIVE)[run.folder.seed]
                borrowed.append(twins[0].name)
        if value is not None:
            found[run.folder.seed] = value
    return found, tuple(dict.fromkeys(borrowed))


def _same_weights(run: Run, twin: Run) -> bool:
    def settings(one: Run) -> dict:
        return deciding(one.folder) | {"optim.ema_decay": None, "seed": one.folder.seed}

    def logged(one: Run) -> list[tuple]:
        return [(record["step"], record["loss"], record.get("grad_norm")) for record in one.training]

    known = LIVE.of(twin) is not None and run.final["step"] == twin.final["step"]
    return known and settings(run) == settings(twin) and bool(logged(run)) and logged(run) == logged(twin)


def _both_panel(study: Study, weights: dict[str, dict[int, float]]) -> Panel:
    """Accuracies of record beside those of the live weights; weights: the latter by arm and seed."""
    arms = [arm for arm in study.ran if arm.name in weights]
    live = [spread(list(weights[arm.name].values())) for arm in arms]
    series = [
        *arm_series(arms, EXACT, BY_NAME, FRACTION[0], label="accuracy of record", color=0),
        Series("live weights", range(len(arms)), [found.mean for found in live],
               [found.deviation for found in live], color=1),
    ]  # fmt: skip
    return Panel("Averaged and live weights", axis_label(arms, BY_NAME), "exact accuracy", tuple(series),
                 ticks=ticks(arms, BY_NAME))  # fmt: skip


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
        " ".join(f"With {name}, {_uncapital(range_sentence(arms, EXACT))}" for name, arms in known.items()),
        (Table(("experiment", "optimiser", "beta2", "exact accuracy"), rows, SPREADS),),
        (Plot("beta2", f"Accuracy over beta2 of {study.name}",
              (Panel("Accuracy over beta2", axis.label, "exact accuracy", tuple(series), "log"),)),),
    )  # fmt: skip


def _uncapital(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]


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
    optimum = f"Of the constant rates, {best_sentence(constant, EXACT)}" if constant else "No constant rate was run."
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
    change = f"{FRACTION[0].signed(contrast.difference)} against {constant.name} ({said})"
    return f"Decaying to {ratio:g} of the rate changes the mean by {change}."
