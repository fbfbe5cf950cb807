"""Model size: the hidden size, and the puzzle embedding as wide."""

import trm_jax.reports as r
from trm_jax.configs.registry import Group


def report(study):
    over = r.OVER_PARAMETERS
    return [
        r.accuracy(study, over, r.PARAMETERS),
        r.power_law(study, over),
        r.figures(study, "Accuracy per parameter and time", "efficiency", study.scores.efficiency, axis=over),
        r.levels_reached(study, r.time_to, over),
        r.figures(study, "Throughput and memory", "costs", r.SPEED, r.MEMORY, axis=over),
        r.curves(study),
    ]


GROUPS = [
    Group.over(
        "exp01",
        "How does accuracy grow with parameters, where does it saturate, and what is the most for the parameters, the "
        "time and the memory?",
        ("model.hidden_size", "model.num_heads", "model.puzzle_emb_ndim"),
        [
            ("exp01a", (256, 4, 256), (0.83,)),
            ("exp01b", (384, 6, 384), (0.85,)),
            ("exp01c", (512, 8, 512), (0.87,)),
            ("exp01d", (768, 8, 768), (0.88,)),
            ("exp01e", (1024, 8, 1024), (0.88,)),
            ("exp01f", (1536, 8, 1536), (0.88,)),
        ],
        report=report,
        levels=(0.80, 0.85, 0.87),
    )
]
