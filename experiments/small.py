"""Small runs for a laptop: the demo and one per board size."""

from trm_jax.configs.registry import Experiment

_SMALL = {
    "data.source": "generated",
    "data.size": 6,
    "data.test_puzzles": 1000,
    "model.dtype": "float32",
    "model.hidden_size": 128,
    "model.num_heads": 4,
    "model.puzzle_emb_ndim": 128,
    "model.puzzle_emb_len": 1,
    "model.H_cycles": 2,
    "model.L_cycles": 3,
    "model.halt_max_steps": 8,
    "optim.lr": 1e-3,
    "optim.table_lr": 1e-3,
    "optim.warmup_steps": 50,
    "optim.weight_decay": 0.1,
    "optim.ema_decay": 0.99,
    "train.epochs": 0,
    "train.steps": 1500,
    "train.batch_size": 128,
    "eval.every_epochs": 0,
    "eval.every_steps": 500,
    "eval.batch_size": 250,
    "checkpoint.every_steps": 100,
    "log.every_steps": 20,
}

EXPERIMENTS = [
    Experiment("demo", "learn 6x6 Sudoku on a laptop in five minutes", _SMALL),
]
