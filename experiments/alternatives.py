"""Rows of the catalogue whose literal run lies inside the warm-up for about half of its steps or more, given room.

None of them belongs to a group. exp04a: as many examples, steps and evaluations as the baseline, however few the
puzzles. exp06: the warm-up is the share of the run that it is in the baseline, not its number of steps.
"""

from trm_jax.configs.registry import Experiment

EXPERIMENTS = [
    *(
        Experiment(
            f"exp04a_{puzzles}_examples",
            f"{puzzles} training puzzles for as many examples as the baseline sees",
            {"train.examples": 50_000_000, "eval.every_steps": 813},
            base=f"exp04a_{puzzles}",
        )
        for puzzles in (100, 250, 500)
    ),
    *(
        Experiment(
            f"exp06_{letter}_share",
            f"batch {batch:,} with a quarter of the run as warm-up",
            {"optim.warmup_share": 0.25},
            base=f"exp06_{letter}",
        )
        for letter, batch in (("d", 12288), ("e", 24576), ("f", 49152))
    ),
]
