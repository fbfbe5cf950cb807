"""Batch size, with both learning rates growing by its square root.

The budget counts epochs, so larger batches take fewer steps and exp06_f ends inside the warm-up; `alternatives.py` has
rows whose warm-up is a share of the run. Batches above 12,288 are computed in parts of that size: the same update.
"""

import math
from itertools import takewhile

import numpy as np

import trm_jax.reports as r
from trm_jax.configs.registry import Group

# In the linear regime twice the batch takes half the updates; evaluations are coarse, so a quarter more is allowed.
LINEAR = 0.8


def report(study):
    axis = r.setting_axis("train.batch_size", "batch size", "log2")
    return [critical_batch(study, axis), r.accuracy(study, axis), r.costs(study, axis)]


def critical_batch(study, axis):
    """Updates to a level over the batch: linear regime and fitted critical batch."""
    level = study.levels[0]
    updates = r.until("updates", level)
    through = r.placed([arm for arm in study.ran if len(arm.values(updates)) == len(arm.runs)], axis)
    examples = [arm.mean(updates) * axis.of(arm) for arm in through]
    efficiency = {arm.name: examples[0] / count for arm, count in zip(through, examples, strict=True)}
    told = "examples, smallest batch's over this one's", {name: f"{part:.2f}" for name, part in efficiency.items()}
    points = [(axis.of(arm), value) for arm in through for value in arm.values(updates)]
    fit = r.fit_batch([batch for batch, _ in points], [value for _, value in points])
    panel = r.panel(f"Updates to {level:g}", axis, r.Line(through or study.ran, updates))._replace(y_scale="log")
    if len(through) > 1:
        grid = np.geomspace(axis.of(through[0]), axis.of(through[-1]), 200)
        curves = [r.Series("half as many for twice the batch", grid, examples[0] / grid, style="dashed", color=2)]
        if not isinstance(fit, str):
            label = "fit" if fit.determined else "fit, not determined"
            curves.append(r.Series(label, grid, fit(grid), style="line", color=1))
        panel = panel._replace(series=(*panel.series, *curves))
    linear = [axis.of(arm) for arm in takewhile(lambda arm: efficiency[arm.name] >= LINEAR, through)]
    regime = (
        f"The linear regime goes up to batch {r.digits(max(linear))}, of those that reach {level:g}." if linear else ""
    )
    sentence = f"{regime or f'Not answered: no batch size reaches {level:g} with every seed.'} {_fit_words(fit)}"
    note = (
        f"Linear regime: batches that need at most {1 / LINEAR:g} times the examples of the smallest. Critical batch: "
        "the B of updates = S (1 + B / batch), fitted to all runs of arms that reach the level with every seed "
        "(McCandlish et al., 2018), least squares of the logarithms; its interval is Wald's with Student's t. The "
        "learning rate grows with the root of the batch here, and evaluations are coarse, so both are estimates."
    )
    table = r.arm_table(study, [r.reached(study.ran, updates), told])
    return r.Section(f"Critical batch: updates to {level:g}", sentence, table, "critical", (panel,), (note,))


def _fit_words(fit) -> str:
    if isinstance(fit, str):
        return f"No critical batch was fitted: {fit}."
    critical, low, high = map(r.digits, map(round, (fit.critical, *fit.interval)))
    basis = f"{r.CONFIDENCE:.0%} confidence, n = {fit.points} runs"
    if not fit.determined:
        return f"These runs do not determine the critical batch ({basis}); the fit's is {critical}."
    return f"The fitted critical batch is {critical}, between {low} and {high} ({basis})."


BATCHES = (1536, 3072, 6144, 12288, 24576, 49152)
RATES = [1e-4 * math.sqrt(batch / 6144) for batch in BATCHES]
GROUPS = [
    Group.over(
        "exp06",
        "How do accuracy and throughput change with the batch, what is the critical batch, and up to where is the gain "
        "linear?",
        "exp06_a exp06_b exp06_c exp06_d exp06_e exp06_f",
        {
            "train.batch_size": BATCHES,
            "optim.lr": RATES,
            "optim.table_lr": RATES,
            "train.accumulation": (1, 1, 1, 1, 2, 4),
        },
        expects={"exact_accuracy": (0.87, 0.87, 0.87, 0.87, 0.87, 0.86)},
        report=report,
        levels=(0.85,),
    )
]
