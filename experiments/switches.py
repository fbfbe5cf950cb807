"""Switches of TRM's training that others reported to help, one at a time, on Sudoku-Extreme and on small boards."""

from trm_jax.configs.registry import Experiment, Group

_STARTS = {"model.family": "eqr", "model.damping": 1.0, "model.noise_scale": 0.0}


def _switches(sizes: dict, most_steps: int) -> dict:
    """Name -> (what it is, its changes); sizes: of the model, which another family would set back to its defaults."""
    starts = {**sizes, **_STARTS}
    return {
        "random_start": ("latents that begin at random", starts),
        "path_noise": ("latents that begin at random, and noise in every call", {**starts, "model.noise_scale": 0.01}),
    }


_BASELINE = {"model.puzzle_emb_ndim": 512, "model.puzzle_emb_len": 16}


def groups_like(groups: dict[str, Group]) -> list[Group]:
    """The group of the switches; sudoku6 and demo share the sizes of their models."""
    sudoku6, _ = groups["boards"].experiments
    small = {key: value for key, value in sudoku6.changes.items() if key.startswith("model.")}
    members = [
        *(Experiment(f"sudoku_{n}", *one, "baseline") for n, one in _switches(_BASELINE, 16).items()),
        *(Experiment(f"sudoku6_{n}", *one, "sudoku6") for n, one in _switches(small, 8).items()),
        Experiment("demo_random_start", *_switches(small, 8)["random_start"], "demo"),
    ]
    question = "Which switches of training help TRM, on Sudoku-Extreme and on smaller boards?"
    return [Group("switches", question, ("model.family",), tuple(members))]
