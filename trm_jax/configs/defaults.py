"""Every setting of a run, with its default: the users' `baseline`. Units stand in the names.

Sections `data` and `model` are those of the chosen task and family (`SudokuConfig`, `TRMConfig`).

Experiments are small differences from this page (`trm show NAME --diff baseline`).
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from ml_collections import ConfigDict

from trm_jax import tasks
from trm_jax.models import family as families

SHAPE = ("vocab_size", "seq_len", "num_puzzle_ids")  # of a model: what its task tells it


def _section(name: str, chosen: str, config: type) -> dict[str, Any]:
    """The settings of a task or a family with their defaults, which stand (and are explained) in its Config."""
    settings = {f.name: f.default for f in fields(config) if f.default is not MISSING and f.name not in SHAPE}
    return {name: chosen, **settings}


def defaults(task: str = "sudoku", family: str = "trm") -> ConfigDict:
    """The locked page. For Sudoku and TRM it is the baseline: Sudoku-Extreme, 1,000 puzzles with 1,000 augmentations, a
    model of 5,028,866 parameters."""
    config = ConfigDict(
        {
            "name": "baseline",
            "seed": 0,
            "data": _section("task", task, tasks.get(task).Config),
            "model": _section("family", family, families.get(family).Config),
            "optim": {
                "name": "adam_atan2",  # adam_atan2 | adamw | lion
                "lr": 1e-4,
                "warmup_steps": 2000,
                "warmup_share": 0.0,  # of all steps; wins over warmup_steps unless 0
                "min_lr_ratio": 1.0,  # 1 = constant after the warm-up; less = cosine down to this share
                "beta1": 0.9,
                "beta2": 0.95,
                "weight_decay": 1.0,
                "table_lr": 1e-4,  # puzzle table: sparse sign-SGD
                "table_weight_decay": 1.0,
                "ema_decay": 0.999,  # 0 = no averaging
                "ema_also": "",  # decays averaged and evaluated besides, as "0.99,0.995"; 0 = the live weights
                "loss_scaling": "auto",  # none | dynamic | auto (dynamic with float16)
            },
            "train": {
                "batch_size": 6144,  # global
                "epochs": 50000,  # one epoch draws one variant of every puzzle
                "steps": 0,  # a budget in steps; wins over examples, which wins over epochs
                "examples": 0,  # a budget in examples
                "accumulation": 1,  # parts of a batch that are computed one after the other to save memory
                "halt_exploration_end": -1.0,  # exploration goes there from the model's, linearly; -1 = it stays
                "curriculum_epochs": 0,  # L_cycles and H_cycles grow to the model's over these, linearly; 0 = off
                "curriculum_L_start": 2,
                "curriculum_H_start": 1,
                "loss": "stablemax",  # stablemax | softmax
                "deterministic": True,  # on a GPU: operations that give the same bits every time, which may cost speed
            },
            "eval": {
                "every_epochs": 5000,
                "every_steps": 0,  # wins over every_epochs; both 0 = at the end only
                "batch_size": 6144,
                "max_examples": 0,  # 0 = all
            },
            "checkpoint": {
                "every_steps": 500,
                "every_minutes": 10.0,  # and whenever so long has passed since the last one; 0 = never for that reason
                "keep_last": 2,
                "keep_best": 1,  # by the task's headline score
                "keep_every_steps": 0,  # 0 = none besides those
            },
            "log": {
                "every_steps": 20,
                "tensorboard": True,
                "wandb_project": "",  # empty = no Weights & Biases
            },
            "mesh": {"data": -1, "fsdp": 1, "tensor": 1},  # -1 = all devices that are left
        }
    )
    return config.lock()
