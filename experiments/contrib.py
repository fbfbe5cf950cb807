"""Contributions: a curriculum over recursion, and exploration of halting that fades."""

import math

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def curriculum(study):
    reached = (r.levels_reached(study, what) for what in ("epochs", "time"))
    return [next(reached), r.accuracy(study, r.BY_NAME, r.TRAIN_FLOPS), *reached, r.stability(study)]


def adaptive(study):
    return [at_equal_accuracy(study), r.when_it_halts(study), r.accuracy(study)]


def at_equal_accuracy(study):
    """When each run would halt at its first evaluation that reaches what all of them reach."""
    title, key = "Halting at equal accuracy", study.score.key
    if len(study.ran) < 2:
        return r.unanswered(title, "it takes two arms that were run")
    level = min(max(record[key] for record in run.evaluations) for run in study.runs)
    there = {str(run.path): r.first_at(run, level) for run in study.runs}

    def measure(what: str, unit, of, higher: bool = True):
        return r.Measure(what, f"{what} there", unit, lambda run: of(there[str(run.path)]), higher)

    halt = measure("halt step", r.HALT_STEPS, lambda record: r.halting(record["halt_steps"]).mean, False)
    others = (
        measure("update", r.PLAIN, lambda record: record["step"]),
        measure(study.score.name, r.FRACTION, lambda record: record[key]),
        measure("variance of the halt step", r.PLAIN, lambda record: r.halting(record["halt_steps"]).variance),
    )
    counts = {arm.name: [there[str(run.path)].get("halt_steps", []) for run in arm.runs] for arm in study.ran}
    part = r.figures(study, title, "equal_accuracy", halt, beside=others, notes=(r.EVAL_NOTE,))
    floor = math.floor(level * 1e4) / 1e4
    sentence = f"At the first evaluation with at least {floor:.4f}, which every run reaches, {part.sentence}"
    panel = r.distribution(f"Halt steps at {study.score.name} {level:.3f}", counts)
    return part._replace(sentence=sentence, panels=(panel,))


GROUPS = [
    Group.over(
        "contrib01",
        "Does a recursion whose L and H cycles grow in the first epochs reach 85% and 87% in fewer of them, and with a "
        "loss that varies less?",
        "contrib01_baseline contrib01_curriculum",
        {"train.curriculum_epochs": (0, 10_000)},
        expects={"exact_accuracy": (0.87, 0.87), "epochs": (50_000, 35_000)},
        report=curriculum,
        levels=(0.85, 0.87),
    ),
    Group.over(
        "contrib02",
        "Does exploration that fades make the model halt earlier at equal accuracy: mean, variance and distribution of "
        "the halting step?",
        "contrib02_baseline contrib02_adaptive",
        {"model.halt_exploration_prob": (0.1, 0.3), "train.halt_exploration_end": (-1.0, 0.05)},
        expects={"steps": (9.5, 7.2)},
        report=adaptive,
    ),
]
