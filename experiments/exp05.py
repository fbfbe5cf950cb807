"""Supervision steps: how often a model may improve its answer."""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    axis = r.setting_axis("model.halt_max_steps", "supervision steps")
    return [inference_cost(study), r.when_it_halts(study, axis), r.costs(study, axis)]


def inference_cost(study):
    """Accuracy against the compute of answering one puzzle, with all steps and when stopped early."""
    title, score, over = "Accuracy against inference cost", study.score, r.over_measure(study, r.PUZZLE_FLOPS)
    told = r.PUZZLE_FLOPS, r.EARLY_STEPS, study.scores.early
    part = r.figures(study, title, "inference", score, axis=over, beside=told, notes=(r.EVAL_NOTE,))
    cheapest = r.best_sentence(study.ran, r.PUZZLE_FLOPS)
    return part._replace(sentence=f"{part.sentence} {cheapest} {r.early_words(study)}")


GROUPS = [
    Group.over(
        "exp05",
        "What does accuracy cost in supervision steps, when does the model halt on average and how is that spread, and "
        "does it halt early?",
        "exp05_a exp05_b exp05_c exp05_d exp05_e exp05_f",
        {"model.halt_max_steps": (4, 8, 12, 16, 24, 32)},
        expects={
            "exact_accuracy": (0.80, 0.84, 0.86, 0.87, 0.87, 0.87),
            "steps": (3.5, 6.2, 8.1, 9.5, 9.7, 9.8),
        },
        report=report,
    )
]
