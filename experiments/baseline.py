"""The users' baseline and the official single-GPU run."""

from trm_jax.configs.registry import BASELINE, Experiment

EXPERIMENTS = [
    BASELINE,
    Experiment(
        "baseline_768",
        "the official single-GPU run: baseline with batch 768, 65,104 steps",
        {"train.batch_size": 768, "eval.batch_size": 768},
        base="baseline",
    ),
]
