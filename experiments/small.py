"""Small runs for a laptop: the demo, one per smaller board, and one per other task. Puzzles but ARC's are generated."""

from trm_jax.configs.registry import Experiment, Group

_SMALL = {
    "data.source": "generated",
    "data.test_puzzles": 1000,
    "model.dtype": "float32",
    "model.hidden_size": 64,
    "model.num_heads": 2,
    "model.puzzle_emb_ndim": 64,
    "model.puzzle_emb_len": 1,
    "model.H_cycles": 2,
    "model.L_cycles": 3,
    "model.halt_max_steps": 8,
    "optim.lr": 3e-3,
    "optim.table_lr": 3e-3,
    "optim.min_lr_ratio": 0.1,
    "optim.warmup_steps": 50,
    "optim.weight_decay": 0.1,
    "optim.ema_decay": 0.99,
    "train.epochs": 0,
    "eval.every_epochs": 0,
    "eval.every_steps": 500,
    "eval.batch_size": 200,
    "checkpoint.every_steps": 50,
    "log.every_steps": 20,
}

EXPERIMENTS = [
    Experiment(
        "demo",
        "learn 9x9 Sudoku with about 40 clues on a laptop in five minutes",
        {**_SMALL, "data.extra_clues": 16, "train.batch_size": 32, "train.steps": 700, "eval.every_steps": 350},
    ),
    Experiment(
        "arc_small",
        "learn the 62 ARC-1 training tasks of at most 80 tokens a pair (data.path=ARC-AGI-1/data)",
        {
            **{name: value for name, value in _SMALL.items() if not name.startswith("data.")},
            "data.task": "arc",
            "data.train_sets": "training",
            "data.test_set": "training",
            "data.most_tokens": 80,
            "data.side": 15,
            "data.augmentations": 3,
            "model.mlp_t": False,
            "model.pos_encodings": "rope",
            # Little thinking about an example, and so many visits of it.
            "model.H_cycles": 1,
            "model.L_cycles": 2,
            "model.halt_max_steps": 2,
            "optim.lr": 2e-3,
            "optim.table_lr": 1e-2,
            "optim.table_weight_decay": 0.1,
            "train.loss": "softmax",
            "train.batch_size": 32,
            "train.steps": 6000,
            "eval.every_steps": 2000,
        },
    ),
    Experiment(
        "maze_small",
        "find the way through 9x9 perfect mazes on a laptop",
        {
            **_SMALL,
            "data.task": "maze",
            "data.source": "perfect",
            "data.height": 9,
            "data.width": 9,
            "data.min_moves": 6,
            "data.max_moves": 24,
            "data.train_puzzles": 20_000,
            "train.batch_size": 32,
            "train.steps": 3000,
            "eval.every_steps": 250,
        },
    ),
]

GROUPS = [
    Group(
        "boards",
        "Do small models learn smaller boards?",
        ("data.size", "data.extra_clues", "data.train_puzzles", "train.steps", "eval.every_steps"),
        (
            Experiment(
                "sudoku6",
                "learn 6x6 Sudoku without a superfluous clue",
                {**_SMALL, "data.size": 6, "train.batch_size": 64, "train.steps": 1500},
            ),
            Experiment(
                "sudoku4",
                "learn 4x4 Sudoku in a minute",
                {
                    **_SMALL,
                    "data.size": 4,
                    "data.extra_clues": 4,  # there are only 36 classes of minimal 4x4 puzzles
                    "data.train_puzzles": 500,
                    "train.batch_size": 64,
                    "train.steps": 300,
                    "eval.every_steps": 150,
                },
            ),
        ),
    ),
]
