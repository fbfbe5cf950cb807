"""Switches of TRM's training that others reported to help, one at a time, on Sudoku-Extreme and on small boards."""

from trm_jax.configs.registry import Experiment, Group

_STARTS = {"model.family": "eqr", "model.damping": 1.0, "model.noise_scale": 0.0}
_BASELINE = {"model.puzzle_emb_ndim": 512, "model.puzzle_emb_len": 16}
# Name -> what it is, its changes; those that make another family of the model come first.
_OF_EQR = {
    "random_start": ("latents that begin at random", _STARTS),
    "path_noise": ("latents that begin at random, and noise in every call", {**_STARTS, "model.noise_scale": 0.01}),
}
_OF_TRM = {
    "late_start": ("a fifth of the steps after up to 16 without gradient", {"model.late_start_prob": 0.2}),
    "step_weight": ("losses whose weights fall by 0.7 a supervision step", {"model.step_weight": 0.7}),
    "softmax": ("softmax in place of stablemax", {"train.loss": "softmax"}),
    "q_continue": ("halting as in HRM, with a trained q_continue", {"model.q_continue": True}),
}


def groups_like(groups: dict[str, Group]) -> list[Group]:
    """The group of the switches; another family sets a model back to its defaults, so its sizes are said again."""
    sudoku6, _ = groups["boards"].experiments
    small = {key: value for key, value in sudoku6.changes.items() if key.startswith("model.")}

    def members(prefix: str, sizes: dict, base: str, names=(*_OF_EQR, *_OF_TRM)):
        switches = {name: (about, {**sizes, **changes}) for name, (about, changes) in _OF_EQR.items()} | _OF_TRM
        return [Experiment(f"{prefix}_{name}", *switches[name], base) for name in names]

    return [
        Group(
            "switches",
            "Which switches of training help TRM, on Sudoku-Extreme and on smaller boards?",
            ("model.family", "model.halt_max_steps", "model.late_start_prob", "model.step_weight", "train.loss"),
            (
                Experiment("sudoku_no_switch", "what the others are held against", base="baseline"),
                *members("sudoku", _BASELINE, "baseline"),
                Experiment("sudoku_steps32", "32 supervision steps", base="exp05_f"),
                Experiment("sudoku_steps64", "64 supervision steps", {"model.halt_max_steps": 64}, "baseline"),
                Experiment("sudoku6_no_switch", "what the others are held against", base="sudoku6"),
                *members("sudoku6", small, "sudoku6"),
                Experiment("sudoku6_steps16", "16 supervision steps", {"model.halt_max_steps": 16}, "sudoku6"),
                *members("demo", small, "demo", ["random_start"]),
            ),
        )
    ]
