"""Every setting of a run, with its default: the users' `baseline`. Units stand in the names.

Experiments are small differences from this page (`trm show NAME --diff baseline`).
"""

from ml_collections import ConfigDict


def defaults() -> ConfigDict:
    """The locked baseline: Sudoku-Extreme, 1,000 puzzles with 1,000 augmentations, a TRM of 5,028,866 parameters."""
    config = ConfigDict(
        {
            "name": "baseline",
            "seed": 0,
            "model": {
                "hidden_size": 512,
                "num_heads": 8,  # attention only; unused with mlp_t
                "L_layers": 2,
                "H_cycles": 3,
                "L_cycles": 6,
                "expansion": 4.0,
                "mlp_t": True,
                "pos_encodings": "none",  # rope | learned | none
                "rope_theta": 10000.0,
                "rms_eps": 1e-5,
                "puzzle_emb_ndim": 512,
                "puzzle_emb_len": 16,
                "halt_max_steps": 16,
                "halt_exploration_prob": 0.1,
                "dtype": "bfloat16",  # float32 | bfloat16 | float16: of activations; weights are float32
                "attention_impl": "dense",
                "remat": "none",  # none | dots | block: what the backward pass recomputes
            },
            "data": {
                "source": "hub",  # generated | csv | hub | arrays
                "path": "",  # csv and arrays: the folder
                "train_file": "train.csv",
                "test_file": "test.csv",
                "hub_repo": "sapientinc/sudoku-extreme",
                "size": 9,  # 4 | 6 | 9
                "train_puzzles": 1000,  # drawn by the seed; 0 = all
                "test_puzzles": 0,  # 0 = all
                "augmentations": 1000,  # per puzzle, computed on the fly
                "min_rating": 0,  # generator: guesses of the solver
                "max_rating": -1,  # -1 = no bound
                "extra_clues": 0,  # generator: clues put back into a minimal puzzle
                "seed": 0,
            },
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
                "keep_best": 1,  # by exact_accuracy
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
