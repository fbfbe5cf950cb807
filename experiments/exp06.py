"""Batch size, with both learning rates growing by its square root.

The budget counts epochs, so larger batches take fewer steps and exp06_f ends inside the warm-up; `alternatives.py` has
rows whose warm-up is a share of the run. Batches above 12,288 are computed in parts of that size: the same update.
"""

import math
from dataclasses import replace
from itertools import takewhile

import trm_jax.reports as r
from trm_jax.configs.registry import Group

# In the linear regime twice the batch takes half the updates; evaluations are coarse, so a quarter more is allowed.
LINEAR = 0.8
# A batch still does when its mean is within this of the best.
TOLERATED = 0.01


def _row(letter: str, batch: int, accuracy: float):
    lr = 1e-4 * math.sqrt(batch / 6144)
    return f"exp06_{letter}", (batch, lr, lr, max(1, batch // 12288)), (accuracy,)


def report(study):
    axis = r.setting_axis("train.batch_size", "batch size", "log2")
    return [
        critical_batch(study, axis),
        r.accuracy(study, axis),
        r.figures(study, "Throughput", "costs", r.SPEED, r.TIME, r.MEMORY, axis=axis),
        r.curves(study),
    ]


def critical_batch(study, axis):
    """Updates to a level over the batch: linear regime, fitted critical batch, the largest that keeps accuracy."""
    level, score = study.levels[0], study.score
    updates = r.steps_to(level)
    through = r.placed([arm for arm in study.ran if arm.complete(updates)], axis)
    examples = [arm.mean(updates) * axis.of(arm) for arm in through]
    efficiency = {arm.name: examples[0] / count for arm, count in zip(through, examples, strict=True)}
    told = {name: f"{value:.2f}" for name, value in efficiency.items()}
    columns = [
        r.reached(study.ran, updates),
        r.Column("examples, smallest batch's over this one's", lambda arm: told.get(arm.name, "")),
    ]
    points = [(axis.of(arm), value) for arm in through for value in arm.values(updates)]
    fit = r.fit_batch([batch for batch, _ in points], [value for _, value in points])
    panel = replace(r.panel(f"Updates to {level:g}", axis, r.Line(through or study.ran, updates)), y_scale="log")
    if len(through) > 1:
        grid = r.grid(axis.of(through[0]), axis.of(through[-1]))
        curves = [r.Series("half as many for twice the batch", grid, examples[0] / grid, style="dashed", color=2)]
        if not isinstance(fit, str):
            label = "fit" if fit.determined else "fit, not determined"
            curves.append(r.Series(label, grid, fit(grid), style="line", color=1))
        panel = replace(panel, series=(*panel.series, *curves))
    enough = r.best(study.ran, score).mean(score) - TOLERATED
    largest = max((arm for arm in study.ran if arm.mean(score) >= enough), key=axis.of)
    sentence = (
        f"{_regime_words(through, efficiency, axis, level)} {_fit_words(fit)} The largest batch whose mean accuracy is "
        f"within {TOLERATED:g} of the best is {r.digits(axis.of(largest))} ({largest.name})."
    )
    note = (
        f"Linear regime: batches that need at most {1 / LINEAR:g} times the examples of the smallest. Critical batch: "
        "the B of updates = S (1 + B / batch), fitted to all runs of arms that reach the level with every seed "
        "(McCandlish et al., 2018), least squares of relative errors; its interval is Fieller's with Student's t. The "
        "learning rate grows with the root of the batch here, and evaluations are coarse, so both are estimates."
    )
    title = f"Critical batch: updates to {level:g}"
    return r.Section(title, sentence, r.arm_table(study, columns), "critical", (panel,), (note,))


def _regime_words(through, efficiency, axis, level: float) -> str:
    if len(through) < 2:
        return f"Not answered: {len(through)} of the batch sizes reach {level:g} with every seed, and it takes two."
    linear = list(takewhile(lambda arm: efficiency[arm.name] >= LINEAR, through))
    size = r.digits(axis.of(linear[-1]))
    if len(linear) == 1:
        return f"No larger batch than {size} is in the linear regime."
    return f"The linear regime goes up to batch {size}, of those that reach {level:g}."


def _fit_words(fit) -> str:
    if isinstance(fit, str):
        return f"No critical batch was fitted: {fit}."
    critical, low, high = (r.digits(round(x)) if x < math.inf else "any size" for x in (fit.critical, *fit.interval))
    basis = f"{r.CONFIDENCE:.0%} confidence, n = {fit.points} runs, {fit.points - 2} degrees of freedom"
    doubt = "" if fit.determined else ": these runs do not determine it"
    return f"The fitted critical batch is {critical}, between {low} and {high} ({basis}){doubt}."


GROUPS = [
    Group.over(
        "exp06",
        "How do accuracy and throughput change with the batch, what is the critical batch, and up to where is the gain "
        "linear?",
        ("train.batch_size", "optim.lr", "optim.table_lr", "train.accumulation"),
        [
            _row("a", 1536, 0.87),
            _row("b", 3072, 0.87),
            _row("c", 6144, 0.87),
            _row("d", 12288, 0.87),
            _row("e", 24576, 0.87),
            _row("f", 49152, 0.86),
        ],
        report=report,
        levels=(0.85,),
    )
]
