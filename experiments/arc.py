"""ARC-AGI-1 and -2 as in the paper, and the variants of TRM on them. The small twin for a laptop is in small.py."""

from trm_jax.configs.registry import Experiment, Group

_ATTENTION = {"model.mlp_t": False, "model.pos_encodings": "rope", "model.L_cycles": 4}
_ARC1 = {
    "data.task": "arc",
    **_ATTENTION,
    "train.batch_size": 768,
    "train.epochs": 100_000,
    "optim.weight_decay": 0.1,
    "optim.table_lr": 1e-2,
    "optim.table_weight_decay": 0.1,
    "eval.batch_size": 768,
    "eval.every_epochs": 10_000,
}
_URM = {"model.family": "urm", "train.epochs": 200_000, "eval.every_epochs": 20_000}

GROUPS = [
    Group(
        "arc",
        "What do TRM, its ablations and its successors reach on ARC-AGI-1 and -2?",
        ("model.family",),
        (
            Experiment("arc1", "ARC-AGI-1 as in the paper: 960 tasks in 1,000 augmentations, 518,226 steps", _ARC1),
            Experiment(
                "arc2",
                "ARC-AGI-2 as in the paper: 1,280 tasks in 1,000 augmentations, 722,100 steps",
                {**_ARC1, "data.train_sets": "training2,evaluation2,concept", "data.test_set": "evaluation2"},
            ),
            Experiment("arc1_L6", "arc1 with six L cycles, which a rerun found better", {"model.L_cycles": 6}, "arc1"),
            Experiment("arc1_singlez", "arc1 with one latent", {"model.family": "singlez", **_ATTENTION}, "arc1"),
            Experiment("arc1_hier6", "arc1 with six latents", {"model.family": "hier6", **_ATTENTION}, "arc1"),
            Experiment("arc1_transformer", "the plain transformer on arc1", {"model.family": "transformer"}, "arc1"),
            Experiment("arc1_hrm", "HRM on arc1", {"model.family": "hrm", "optim.ema_decay": 0.0}, "arc1"),
            Experiment("arc1_urm", "URM on arc1, twice the epochs", _URM, "arc1"),
            Experiment(
                "arc2_urm", "URM on arc2 with its Muon, twice the epochs", {**_URM, "optim.name": "urm_muon"}, "arc2"
            ),
        ),
    )
]
