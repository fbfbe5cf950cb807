"""A frozen language model reads ARC tasks, a TRM answers them: docs/hybrid.md."""

from trm_jax.configs.registry import Experiment, Group

_HYBRID = {
    "data.task": "hybrid",
    "model.family": "hybrid",
    "data.side": 7,
    "model.dtype": "float32",
    "model.hidden_size": 64,
    "model.num_heads": 2,
    "model.H_cycles": 1,
    "model.L_cycles": 2,
    "model.halt_max_steps": 2,
    "optim.lr": 4e-3,
    "optim.min_lr_ratio": 0.1,
    "optim.warmup_steps": 20,
    "optim.weight_decay": 0.1,
    "optim.ema_decay": 0.95,
    "train.loss": "softmax",
    "train.batch_size": 24,
    "train.epochs": 0,
    "train.steps": 250,
    "eval.every_epochs": 0,
    "eval.every_steps": 125,
    "eval.batch_size": 64,
    "checkpoint.every_steps": 125,
}
_LLAMA = {
    "data.augmentations": 7,
    "data.llm": "models/Llama-3.1-8B-Instruct",
    "data.features": "features/llama8b",
    "data.side": 30,
    "model.mlp_t": False,
    "model.pos_encodings": "rope",
    "model.halt_max_steps": 16,
    "model.dtype": "bfloat16",
    "model.hidden_size": 512,
    "model.num_heads": 8,
    "model.H_cycles": 3,
    "model.L_cycles": 4,
    "model.text_width": 4096,
    "optim.lr": 1e-4,
    "optim.warmup_steps": 500,
    "optim.ema_decay": 0.999,
    "train.batch_size": 32,
    "train.steps": 10_000,
    "eval.every_steps": 2000,
    "checkpoint.every_steps": 2000,
}
# Attention begins beside a model that has learned: its gate opens slowly, and little else has to move.
_ATTENDS = {"model.text_tokens": 192, "optim.lr": 1e-3, "train.steps": 100, "eval.every_steps": 50}

GROUPS = [
    Group(
        "hybrid",
        "Does attention to a frozen language model's states help a TRM that reads?",
        ("model.text_tokens", "optim.lr", "train.steps", "eval.every_steps"),
        (
            Experiment("hybrid_phase1", "ten small ARC tasks, each by SmolLM2's pooled state, on a laptop", _HYBRID),
            Experiment(
                "hybrid_phase2",
                "phase 1 going on with cross-attention to the text (train.start_from=RUN of hybrid_phase1)",
                _ATTENDS,
                "hybrid_phase1",
            ),
        ),
    ),
    Group(
        "hybrid_llama8b",
        "Do the states of Llama-3.1-8B help, on one GPU, which nobody has tried?",
        ("model.text_tokens", "train.steps"),
        (
            Experiment(
                "hybrid_llama8b_phase1",
                "hybrid_phase1 with Llama-3.1-8B on one GPU; nobody has run it",
                _LLAMA,
                "hybrid_phase1",
            ),
            Experiment(
                "hybrid_llama8b_phase2",
                "its phase 2 (train.start_from=RUN of hybrid_llama8b_phase1); nobody has run it",
                {"model.text_tokens": 2048, "train.steps": 3000},
                "hybrid_llama8b_phase1",
            ),
        ),
    ),
]
