"""Model size: the hidden size, and the puzzle embedding as wide."""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    over = r.OVER_PARAMETERS
    return [
        r.accuracy(study, over, r.PARAMETERS),
        r.power_law(study, over),
        r.figures(study, "Accuracy per parameter and time", "efficiency", study.scores.efficiency, axis=over),
        r.levels_reached(study, "time", over),
        r.costs(study, over),
    ]


GROUPS = [
    Group.over(
        "exp01",
        "How does accuracy grow with parameters, where does it saturate, and what is the most for the parameters, the "
        "time and the memory?",
        "exp01a exp01b exp01c exp01d exp01e exp01f",
        {
            "model.hidden_size": (256, 384, 512, 768, 1024, 1536),
            "model.num_heads": (4, 6, 8, 8, 8, 8),
            "model.puzzle_emb_ndim": (256, 384, 512, 768, 1024, 1536),
        },
        expects={"exact_accuracy": (0.83, 0.85, 0.87, 0.88, 0.88, 0.88)},
        report=report,
        levels=(0.80, 0.85, 0.87),
    )
]
