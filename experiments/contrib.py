"""Contributions: a curriculum over recursion, and exploration of halting that fades."""

import math

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def curriculum(study):
    return [
        r.levels_reached(study, r.epochs_to),
        r.accuracy(study, r.BY_NAME, r.TRAIN_FLOPS),
        r.levels_reached(study, r.time_to),
        r.stability(study),
        r.curves(study),
    ]


def adaptive(study):
    return [at_equal_accuracy(study), r.when_it_halts(study), r.accuracy(study), r.curves(study)]


def at_equal_accuracy(study):
    """When each run would halt at its first evaluation that reaches what all of them reach."""
    title, key = "Halting at equal accuracy", study.score.key
    if len(study.ran) < 2:
        return r.Section(title, "Not answered: it takes two arms that were run.")
    level = min(max(record[key] for record in run.evaluations) for run in study.runs)
    there = {run.place: r.first_at(run, level) for run in study.runs}
    if not all("halt_steps" in record for record in there.values()):
        return r.Section(title, "Not answered: some runs recorded no halt steps.")

    def measure(what: str, unit, of, higher: bool = True):
        return r.Measure(what, f"{what} there", unit, lambda run: of(there[run.place]), higher)

    halt = measure("halt step", r.HALT_STEPS, lambda record: r.eval_halting(record).mean, False)
    others = (
        measure("update", r.PLAIN, lambda record: record["step"]),
        measure(study.score.name, r.FRACTION, lambda record: record[key]),
        measure("variance of the halt step", r.PLAIN, lambda record: r.eval_halting(record).variance),
        measure("share halting early", r.FRACTION, lambda record: r.eval_halting(record).early),
    )
    counts = {arm.name: [there[run.place]["halt_steps"] for run in arm.runs] for arm in study.ran}
    return r.Section(
        title,
        f"At the first evaluation with at least {math.floor(level * 1e4) / 1e4:.4f}, which every run reaches, "
        + r.best_sentence(study.ran, halt),
        r.arm_table(study, [*r.measured(study, halt, *others), r.tested(study, halt)]),
        "equal_accuracy",
        (r.distribution(f"Halt steps at {study.score.name} {level:.3f}", counts),),
        (r.EVAL_NOTE,),
    )


GROUPS = [
    Group.over(
        "contrib01",
        "Does a recursion whose L and H cycles grow in the first epochs reach 85% and 87% in fewer of them, and with a "
        "loss that varies less?",
        ("train.curriculum_epochs",),
        [
            ("contrib01_baseline", (0,), (0.87, 50_000)),
            ("contrib01_curriculum", (10_000,), (0.87, 35_000)),
        ],
        expects=("exact_accuracy", "epochs"),
        report=curriculum,
        levels=(0.85, 0.87),
    ),
    Group.over(
        "contrib02",
        "Does exploration that fades make the model halt earlier at equal accuracy: mean, variance and distribution of "
        "the halting step?",
        ("model.halt_exploration_prob", "train.halt_exploration_end"),
        [
            ("contrib02_baseline", (0.1, -1.0), (9.5,)),
            ("contrib02_adaptive", (0.3, 0.05), (7.2,)),
        ],
        expects=("steps",),
        report=adaptive,
    ),
]
