"""The users' baseline and the official single-GPU run."""

from trm_jax.configs.registry import Experiment

EXPERIMENTS = [
    Experiment("baseline", "Sudoku-Extreme with 1,000 puzzles, mlp_t TRM of 5.0M parameters, batch 6144, 8,138 steps"),
    Experiment(
        "baseline_768",
        "the official single-GPU run: baseline with batch 768, 65,104 steps",
        {"train.batch_size": 768, "eval.batch_size": 768},
        base="baseline",
    ),
]
