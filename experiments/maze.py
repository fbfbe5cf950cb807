"""Maze-Hard as in the paper, and the variants of TRM on it. The small twin for a laptop is in small.py."""

from trm_jax.configs.registry import Experiment, Group

_ATTENTION = {"model.mlp_t": False, "model.pos_encodings": "rope", "model.L_cycles": 4}
_HARD = {"data.task": "maze", **_ATTENTION, "train.batch_size": 768, "eval.batch_size": 768}
# Name of the family -> what it is, its settings besides those of maze_hard.
_FAMILIES = {
    "singlez": ("TRM with one latent", _ATTENTION),
    "hier6": ("TRM with six latents besides the answer", _ATTENTION),
    "transformer": ("the plain recurrent transformer of 8 layers, 27.1M parameters", {}),
    "hrm": (
        "HRM, 27.3M parameters, 26,041 steps without averaged weights",
        {"train.epochs": 20_000, "eval.every_epochs": 2000, "optim.ema_decay": 0.0},
    ),
    "urm": ("URM of 4 layers, 13.7M parameters", {}),
    "eqr": (
        "EqR of hidden size 128, 264 thousand parameters, 100,000 steps",
        {
            **_ATTENTION,
            "model.hidden_size": 128,
            "model.L_layers": 1,
            "train.steps": 100_000,
            "eval.every_epochs": 0,
            "eval.every_steps": 10_000,
        },
    ),
}

GROUPS = [
    Group(
        "mazes",
        "What do TRM, its ablations and its successors reach on Maze-Hard?",
        ("model.family",),
        (
            Experiment("maze_hard", "Maze-Hard as in the paper: 30x30, attention, batch 768, 65,104 steps", _HARD),
            *(
                Experiment(f"maze_{family}", f"Maze-Hard: {about}", {"model.family": family, **changes}, "maze_hard")
                for family, (about, changes) in _FAMILIES.items()
            ),
        ),
    )
]
