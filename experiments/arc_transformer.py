"""The ARC transformer: presets of its author, without the task that leaks, and what becomes of it without its parts."""

from trm_jax.configs.registry import Experiment, Group

_PRESET = {
    "data.task": "pairs",
    "model.family": "arc_transformer",
    "optim.name": "normuon",
    "optim.lr": 1.66e-3,
    "optim.other_lr": 3e-4,
    "optim.schedule": "wsd",
    "optim.warmup_share": 0.02,
    "optim.weight_decay": 0.1,
    "optim.clip": 1.0,
    "optim.ema_decay": 0.0,
    "train.loss": "softmax",
    "train.batch_size": 6,
    "train.epochs": 650,
    "eval.batch_size": 16,
    "eval.every_epochs": 50,
    "seed": 42,
}
_HIGH = "arc_transformer_high"


def _without(name: str, summary: str, changes: dict) -> Experiment:
    return Experiment(f"arc_transformer_{name}", f"arc_transformer_high {summary}", changes, base=_HIGH)


_MEMBERS = (
    Experiment(
        _HIGH,
        "a transformer of 77M parameters writes ARC-AGI-1's outputs: 650 epochs, 109,850 steps",
        {**_PRESET, "data.augmentations": 300},
    ),
    Experiment(
        "arc_transformer_medium",
        "the same in 240 epochs, 40,560 steps",
        {"train.epochs": 240, "data.augmentations": 80},
        base=_HIGH,
    ),
    Experiment(
        "arc_transformer_low",
        "the same in 90 epochs, 15,210 steps",
        {"train.epochs": 90, "data.augmentations": 80},
        base=_HIGH,
    ),
    _without("no_augmentation", "without augmentations", {"data.augmentations": 1}),
    _without("fewer_augmentations", "with 20 augmentations of a pair at most", {"data.augmentations": 20}),
    Experiment(
        "arc_transformer_dense_epochs",
        "arc_transformer_low in epochs that show every pair under all its augmentations: 1.2 of them",
        # In the mean of all augmentations a pair is longer, so that 31 of them fill a step.
        {
            "data.epoch": "all",
            "data.epoch_steps": 13_015,
            "data.pairs_per_step": 31,
            "train.epochs": 0,
            "train.steps": 15_210,
            "eval.every_epochs": 0,
        },
        base="arc_transformer_low",
    ),
    _without(
        "no_arc2",
        "without ARC-2's tasks",
        {"data.train_sets": "training,evaluation,concept", "data.epoch_steps": 124},
    ),
    _without("all_tokens", "with a loss on all tokens", {"data.loss_on": "all"}),
    _without("rope1d", "with positions in one dimension", {"model.positions": "rope1d"}),
    _without("pope", "with polar positions in three dimensions", {"model.positions": "pope3d"}),
    _without("no_positions", "without positions", {"model.positions": "none"}),
    _without("no_task_row", "without the embedding of the task", {"model.task_row": False}),
    _without("no_dihedral_row", "without the embedding of the orientation", {"model.dihedral_row": False}),
)

GROUPS = [
    Group(
        "arc_transformer",
        "What does the ARC transformer reach for how much, and which of its parts carry it?",
        (
            "train.epochs",
            "train.steps",
            "eval.every_epochs",
            "data.augmentations",
            "data.train_sets",
            "data.epoch",
            "data.epoch_steps",
            "data.pairs_per_step",
            "data.loss_on",
            "model.positions",
            "model.task_row",
            "model.dihedral_row",
        ),
        _MEMBERS,
    )
]

_MORE = 169 / 32  # pairs a step, times the author's

# One part of the tasks, which an H200 holds. The other parts begin at 50, 100, ..., 350; the tasks of the last two take
# more rows: at 300 a step has 100 of them, at 350 200.
_PER_TASK = {
    "model.family": "arc_transformer_each",
    "data.train_sets": "evaluation",
    "data.exclude": "",
    "data.augmentations": 1000,
    "data.rows_of": "task",
    "data.most_tasks": 50,
    "data.rows_per_step": 50,
    "data.epoch_steps": 1,
    "train.batch_size": 50,
    "train.epochs": 2000,
    "optim.warmup_share": 0.0,
    "optim.warmup_steps": 0,
    "eval.every_epochs": 500,
    "checkpoint.every_steps": 1000,  # of 30 GB each
    "checkpoint.keep_last": 1,
    "checkpoint.keep_best": 0,
}

EXPERIMENTS = [
    Experiment(
        "arc_transformer_high_pod",
        "high with 32 rows a step, one a chip of a v4-64; rates by the root of the batch, and nobody has trained it",
        {
            # As many pairs an epoch as 169 steps of 32.
            "data.epoch_steps": 32,
            "data.pairs_per_step": 169,
            "data.rows_per_step": 32,
            "train.batch_size": 32,
            "eval.batch_size": 32,
            "optim.lr": 1.66e-3 * _MORE**0.5,
            "optim.other_lr": 3e-4 * _MORE**0.5,
        },
        base=_HIGH,
    ),
    Experiment(
        "arc_transformer_per_task",
        "a model from scratch for each task, side by side: one part of the tasks, 50 of 400; loss on all tokens",
        {**_PER_TASK, "data.loss_on": "all"},
        base=_HIGH,
    ),
    Experiment(
        "arc_transformer_per_task_outputs", "arc_transformer_per_task with a loss on outputs", _PER_TASK, base=_HIGH
    ),
    Experiment(
        "arc_transformer_small",
        "a twin for a laptop on 62 short tasks (data.path=ARC-AGI-1/data)",
        {
            "data.train_sets": "training",
            "data.test_set": "training",
            "data.exclude": "",
            "data.most_tokens": 80,
            "data.row_tokens": 256,
            "data.epoch_steps": 7,
            "data.rows_per_step": 6,
            "data.augmentations": 80,
            "model.hidden_size": 128,
            "model.num_heads": 4,
            "model.layers": 4,
            "model.ff_size": 256,
            "model.dropout": 0.0,
            "model.attention_dropout": 0.0,
            "model.dtype": "float32",
            "optim.lr": 1e-2,
            "optim.other_lr": 3e-3,
            "train.epochs": 0,
            "train.steps": 8000,
            "eval.batch_size": 36,
            "eval.every_epochs": 0,
            "eval.every_steps": 2000,
            "checkpoint.every_steps": 2000,
            "log.every_steps": 100,
        },
        base=_HIGH,
    ),
]
