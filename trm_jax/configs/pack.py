"""Which runs can train side by side as one program."""

from __future__ import annotations

from pathlib import Path

from ml_collections import ConfigDict

from trm_jax.configs.resolve import flatten

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
    """What runs of one program have in common: all settings but the numbers."""
    settings = {key: value for key, value in flatten(config).items() if key not in NUMBERS}
    return (*sorted(settings.items()), ("averages", config.optim.ema_decay > 0))


def _checkpoint_steps(workdir: Path) -> set[int]:
    folder = workdir / "checkpoints"
    found = {int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()} if folder.is_dir() else set()
    return found or {0}


def groups(runs: list[Run], most: int = 8) -> list[list[Run]]:
    """The runs in packs of at most `most`, in their order: alike in structure, with a checkpoint of one step in common.

    (Runs that have not begun have step 0 in common.)
    """
    packs: list[list[Run]] = []
    common: list[set[int]] = []
    for run in runs:
        config, workdir = run
        steps = _checkpoint_steps(workdir)
        for number, pack in enumerate(packs):
            alike = structure(pack[0][0]) == structure(config)
            if alike and len(pack) < most and common[number] & steps:
                pack.append(run)
                common[number] &= steps
                break
        else:
            packs.append([run])
            common.append(steps)
    return packs
