"""ARC-AGI-1 and -2 as in the paper. Their small twin for a laptop is in small.py."""

from trm_jax.configs.registry import Experiment

_ARC1 = {
    "data.task": "arc",
    "model.mlp_t": False,
    "model.pos_encodings": "rope",
    "model.L_cycles": 4,
    "train.batch_size": 768,
    "train.epochs": 100_000,
    "optim.weight_decay": 0.1,
    "optim.table_lr": 1e-2,
    "optim.table_weight_decay": 0.1,
    "eval.batch_size": 768,
    "eval.every_epochs": 10_000,
}

EXPERIMENTS = [
    Experiment("arc1", "ARC-AGI-1 as in the paper: 960 tasks in 1,000 augmentations, 518,226 steps", _ARC1),
    Experiment(
        "arc2",
        "ARC-AGI-2 as in the paper: 1,280 tasks in 1,000 augmentations, 722,100 steps",
        {**_ARC1, "data.train_sets": "training2,evaluation2,concept", "data.test_set": "evaluation2"},
    ),
    Experiment("arc1_L6", "arc1 with six L cycles, which a rerun found better", {"model.L_cycles": 6}, base="arc1"),
]
