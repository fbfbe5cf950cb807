"""The catalogue for a laptop: every group of the full one, member by member, on generated 4x4 boards.

Each scaled setting follows the full catalogue by one rule, so the mini members vary what their models vary, around
`mini_baseline` instead of `baseline`. They answer a group's question for 4x4 boards, not for the full runs.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from trm_jax.configs.defaults import defaults
from trm_jax.configs.registry import Experiment, Group
from trm_jax.configs.resolve import flatten


def _times(factor: float) -> Callable:
    return lambda value: type(value)(round(value * factor, 9))


_SCALED = {
    "model.hidden_size": _times(1 / 16),
    "model.puzzle_emb_ndim": _times(1 / 16),
    "model.L_cycles": _times(1 / 2),
    "model.halt_max_steps": _times(1 / 4),
    "data.train_puzzles": _times(1 / 50),
    "data.augmentations": _times(1 / 100),
    "optim.lr": _times(20),
    "optim.table_lr": _times(20),
    "optim.ema_decay": lambda decay: decay and round(1 - 13 * (1 - decay), 6),  # the run has a 13th of the steps
    "train.batch_size": _times(1 / 768),
    "train.epochs": _times(0.005),
    "train.curriculum_epochs": _times(0.005),
    "eval.every_epochs": _times(0.005),
}
# Two cycles of four layers or one of six come no closer to six layer applications than one of five.
_OTHERWISE = {"exp03d": {"model.L_layers": 5, "model.L_cycles": 1}}

_FULL = flatten(defaults())
MINI_BASELINE = Experiment(
    "mini_baseline",
    "the baseline scaled down to 4x4 boards and seconds: hidden size 32, batch 8, 625 steps",
    {
        **{key: scaled(_FULL[key]) for key, scaled in _SCALED.items()},
        "model.puzzle_emb_len": 1,
        "model.dtype": "float32",
        "data.source": "generated",
        "data.size": 4,
        "data.extra_clues": 2,  # 808 classes of such puzzles exist
        "data.test_puzzles": 250,
        "optim.warmup_share": 0.25,
        "optim.weight_decay": 0.1,
        "train.curriculum_L_start": 1,
        "eval.batch_size": 250,
        "checkpoint.every_steps": 100,
        "log.every_steps": 20,
    },
)
EXPERIMENTS = [MINI_BASELINE]


def _mini(experiment: Experiment, key: str) -> Any:
    """The value of a setting for the small twin of a full experiment."""
    full = experiment.changes.get(key, _FULL[key])
    return _OTHERWISE.get(experiment.name, {}).get(key) or _SCALED.get(key, lambda value: value)(full)


def _twin(group: Group) -> Group:
    """Runs of its own that average their weights evaluate the live ones besides."""
    names = " ".join(f"mini_{member.name}" for member in group.experiments)
    varied = {key: [_mini(member, key) for member in group.experiments] for key in group.varied}
    twin = Group.over(f"mini_{group.name}", group.question, names, varied, base=MINI_BASELINE)
    members = (
        replace(one, changes={**one.changes, "optim.ema_also": "0"}) if one.changes.get("optim.ema_decay") else one
        for one in twin.experiments
    )
    companion = group.companion and f"mini_{group.companion}"
    return replace(group, name=twin.name, experiments=tuple(members), companion=companion)


def groups_like(groups: dict[str, Group]) -> list[Group]:
    """The small twins of the catalogue's groups."""
    return [_twin(group) for group in groups.values()]
