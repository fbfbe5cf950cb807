"""Supervision steps: how often a model may improve its answer."""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    axis = r.setting_axis("model.halt_max_steps", "supervision steps")
    return [inference_cost(study), r.when_it_halts(study, axis), r.costs(study, axis), r.curves(study)]


def inference_cost(study):
    """Accuracy against the compute of answering one puzzle, with all steps and when stopped early."""
    score, early, title = study.score, study.scores.early, "Accuracy against inference cost"
    columns = [*r.measured(study, r.PUZZLE_FLOPS, score, r.EARLY_STEPS, early), r.tested(study, score)]
    columns += r.expected(study, "exact_accuracy", "steps")
    stopped = [arm for arm in study.ran if arm.values(early)]

    def share(arm) -> float:
        return arm.mean(r.EARLY_STEPS) / arm.settings["model.halt_max_steps"] if arm in stopped else 1.0

    panels = [r.panel("With all supervision steps", r.over_measure(study, r.PUZZLE_FLOPS), r.Line(study.ran, score))]
    if stopped:
        axis = r.over_measure(study, r.PUZZLE_FLOPS, share)
        panels.append(r.panel("Stopped at the first q_halt > 0", axis, r.Line(stopped, early)))
    sentences = r.best_sentence(study.ran, score), r.best_sentence(study.ran, r.PUZZLE_FLOPS), r.early_words(study)
    table = r.arm_table(study, columns)
    return r.Section(title, " ".join(sentences), table, "inference", tuple(panels), (r.EVAL_NOTE,))


GROUPS = [
    Group.over(
        "exp05",
        "What does accuracy cost in supervision steps, when does the model halt on average and how is that spread, and "
        "does it halt early?",
        ("model.halt_max_steps",),
        [
            ("exp05_a", (4,), (0.80, 3.5)),
            ("exp05_b", (8,), (0.84, 6.2)),
            ("exp05_c", (12,), (0.86, 8.1)),
            ("exp05_d", (16,), (0.87, 9.5)),
            ("exp05_e", (24,), (0.87, 9.7)),
            ("exp05_f", (32,), (0.87, 9.8)),
        ],
        expects=("exact_accuracy", "steps"),
        report=report,
    )
]
