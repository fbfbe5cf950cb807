"""Ablations and successors of TRM on Sudoku-Extreme as they were published, and each small enough for a laptop."""

from trm_jax.configs.registry import Experiment, Group

_OF_768 = {"train.batch_size": 768, "eval.batch_size": 768}

# Name of the family -> what it is, its settings besides those of the baseline, its small form's.
_FAMILIES = {
    "singlez": ("TRM with one latent", _OF_768, {}),
    "hier6": ("TRM with six latents besides the answer", _OF_768, {}),
    "transformer": (
        "the plain recurrent transformer of 8 layers, 27.1M parameters",
        _OF_768,
        {"model.L_layers": 4, "optim.lr": 1e-3, "train.steps": 1500, "eval.every_steps": 500},
    ),
    "hrm": (
        "HRM, 27.3M parameters, 26,041 steps without averaged weights",
        {**_OF_768, "train.epochs": 20_000, "eval.every_epochs": 2000, "optim.ema_decay": 0.0},
        {"model.mlp_t": True, "model.H_layers": 2, "model.L_layers": 2, "model.L_cycles": 2},
    ),
    "urm": (
        "URM of 4 layers, 13.7M parameters, 390,625 steps of 128",
        {"train.batch_size": 128, "eval.batch_size": 768},
        {"model.L_layers": 2, "optim.lr": 1e-3, "train.steps": 1500, "eval.every_steps": 500},
    ),
    "eqr": (
        "EqR, 4.9M parameters, 50,000 steps",
        {**_OF_768, "train.steps": 50_000, "eval.every_epochs": 0, "eval.every_steps": 5000},
        {},
    ),
}
_SIZES = {"hidden_size": 64, "num_heads": 2, "halt_max_steps": 8, "H_cycles": 2, "L_cycles": 3}
_ABSENT = {"transformer": ("H_cycles", "L_cycles")}


def _small(family: str, changes: dict) -> dict:
    table = {} if family in ("eqr", "symbols") else {"puzzle_emb_ndim": 64, "puzzle_emb_len": 1}
    sizes = _SIZES | table | {"dtype": "float32"}
    kept = {f"model.{name}": value for name, value in sizes.items() if name not in _ABSENT.get(family, ())}
    return {"model.family": family, **kept, "train.batch_size": 32, **changes}


_FULL = [
    Experiment(f"sudoku_{family}", about, {"model.family": family, **changes}, "baseline")
    for family, (about, changes, _) in _FAMILIES.items()
]
_SMALL = [
    Experiment(f"sudoku_{family}_small", f"{about.split(',')[0]}: small", _small(family, changes), "sudoku4")
    for family, (about, _, changes) in _FAMILIES.items()
]
_OURS = Experiment(
    "sudoku_symbols_small",
    "TRM that cannot tell digits apart, after SE-RRM: small",
    _small("symbols", {"model.hidden_size": 32}),
    "sudoku4",
)
GROUPS = [
    Group(
        "variants",
        "What do TRM's ablations and successors reach, on Sudoku-Extreme and, small, on 4x4 boards?",
        ("model.family",),
        (*_FULL, *_SMALL, _OURS),
    )
]
