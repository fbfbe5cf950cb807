"""Which runs can train side by side as one program."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from trm_jax.configs.resolve import flatten, freeze
from trm_jax.train.writers import CHECKPOINTS

# Settings that are mere numbers inside the program (`trm_jax.train.step.Numbers`), and those that decide its data's
# order and initial weights. Averaging or not is a matter of structure, its rate is a number.
NUMBERS = {
    "name",
    "seed",
    "model.halt_exploration_prob",
    "train.halt_exploration_end",
    *(
        f"optim.{name}"
        for name in (
            "lr",
            "warmup_steps",
            "warmup_share",
            "min_lr_ratio",
            "beta1",
            "beta2",
            "weight_decay",
            "table_lr",
            "table_weight_decay",
            "ema_decay",
        )
    ),
}

Run = tuple[ConfigDict, Path]


def structure(config: ConfigDict) -> tuple:
    """What runs of one program have in common: all settings but the numbers, and the averages that they keep."""
    settings = {key: value for key, value in flatten(config).items() if key not in NUMBERS}
    optim = freeze(config).optim
    return (*sorted(settings.items()), ("averages", optim.ema_decay > 0, optim.other_decays))


def _checkpoint_steps(workdir: Path) -> set[int]:
    folder = workdir / CHECKPOINTS
    found = {int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()} if folder.is_dir() else set()
    return found or {0}


def groups(runs: list[Run], most: int = 8) -> list[list[Run]]:
    """The runs in packs of at most `most`, in their order: alike in structure and about equally far.

    (A kill may fall between the saves of two runs of a pack; so their newest checkpoints may be one interval apart,
    if they have an older one in common.)
    """
    packs: list[list[Run]] = []
    common: list[set[int]] = []
    for run in runs:
        config, workdir = run
        steps = _checkpoint_steps(workdir)
        for number, pack in enumerate(packs):
            shared = common[number] & steps
            near = shared and max(common[number] | steps) - max(shared) <= config.checkpoint.every_steps
            if near and len(pack) < most and structure(pack[0][0]) == structure(config):
                pack.append(run)
                common[number] = shared
                break
        else:
            packs.append([run])
            common.append(steps)
    return packs
