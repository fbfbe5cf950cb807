"""TRM, its ablations and its rivals at equal compute: two layers of width 64 in every net, and steps for one budget.

All train on the same 200 puzzles with 1.64 TFLOP. Nets with attention learn at 1e-3, the others at 3e-3, as in the
small presets of the families.
"""

from trm_jax.configs.registry import Experiment, Group

_EVALUATIONS = 8  # at the same shares of every training
_ATTENTION = {"model.mlp_t": False, "model.pos_encodings": "rope", "optim.lr": 1e-3}

# Name -> its steps, the small preset that it is like, what is changed of that.
_ARMS = {
    "trm": (480, "sudoku4", {}),
    "trm_attention": (696, "sudoku4", _ATTENTION),
    "singlez": (480, "sudoku_singlez_small", {}),
    "hier6": (480, "sudoku_hier6_small", {}),
    "hrm": (960, "sudoku_hrm_small", {"model.H_layers": 1, "model.L_layers": 1}),
    "transformer": (3704, "sudoku_transformer_small", {"model.L_layers": 2}),
    "urm": (928, "sudoku_urm_small", {}),
    "eqr": (512, "sudoku_eqr_small", {}),
}


def _rival(name: str, steps: int, like: str, own: dict) -> Experiment:
    same = {
        "data.extra_clues": 2,  # 808 classes of such puzzles exist
        "data.train_puzzles": 200,
        "data.test_puzzles": 400,
        "optim.warmup_share": 0.1,
        "train.batch_size": 32,
        "train.steps": steps,
        "eval.every_steps": steps // _EVALUATIONS,
        "checkpoint.every_steps": steps // _EVALUATIONS,
    }
    return Experiment(f"rivals_{name}", f"{name} with {steps:,} steps", same | own, like)


GROUPS = [
    Group(
        "rivals",
        "Which of the families learns most from equal training compute?",
        ("model.family",),
        tuple(_rival(name, *arm) for name, arm in _ARMS.items()),
    )
]
