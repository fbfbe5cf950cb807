"""Rows of the catalogue whose literal run lies inside the warm-up for about half of its steps or more, given room.

None of them belongs to a group. exp04a: as many examples, steps and evaluations as the baseline, however few the
puzzles. exp06: the warm-up is the share of the run that it is in the baseline, not its number of steps.
"""

from trm_jax.configs.registry import Experiment

EXAMPLES = {"train.examples": 50_000_000, "eval.every_steps": 813}
FEW = "{} training puzzles for as many examples as the baseline sees"
SHARE = "batch {:,} with a quarter of the run as warm-up"
LARGE = {"exp06_d": 12288, "exp06_e": 24576, "exp06_f": 49152}

EXPERIMENTS = [
    *(Experiment(f"exp04a_{n}_examples", FEW.format(n), EXAMPLES, f"exp04a_{n}") for n in (100, 250, 500)),
    *(Experiment(f"{name}_share", SHARE.format(n), {"optim.warmup_share": 0.25}, name) for name, n in LARGE.items()),
]
