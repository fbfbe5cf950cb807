"""Maze-Hard as in the paper. Its small twin for a laptop is in small.py."""

from trm_jax.configs.registry import Experiment

EXPERIMENTS = [
    Experiment(
        "maze_hard",
        "Maze-Hard as in the paper: 30x30, attention, batch 768, 65,104 steps",
        {
            "data.task": "maze",
            "model.mlp_t": False,
            "model.pos_encodings": "rope",
            "model.L_cycles": 4,
            "train.batch_size": 768,
            "eval.batch_size": 768,
        },
    ),
]
