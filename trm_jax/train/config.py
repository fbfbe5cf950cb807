"""A run's settings as frozen dataclasses, with their defaults and bounds: what the training code reads.

Sections `data` and `model` of the settings page are those of the task and the family; the others stand here.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import jax

from trm_jax.errors import InputError
from trm_jax.losses import TOKEN_LOSSES
from trm_jax.models.family import Family
from trm_jax.models.params import is_spec
from trm_jax.optim import OPTIMIZERS
from trm_jax.settings import check, check_seed, number, option
from trm_jax.tasks import Task

MAX_STEPS = 10**9  # a thousand a second would take eleven days


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise InputError(message)


@dataclass(frozen=True)
class OptimConfig:
    name: str = option("adam_atan2", *OPTIMIZERS)
    lr: float = number(1e-4)
    other_lr: float = number(1e-4)  # of the parameters that normuon leaves to AdamW
    schedule: str = option("cosine", "cosine", "wsd")  # wsd: warm-up and decay by shares of the run, flat between
    warmup_steps: int = number(2000)
    warmup_share: float = number(0.0, high=1)  # of all steps; wins over warmup_steps unless 0
    decay_share: float = number(0.2, high=1)  # wsd: of all steps
    clip: float = number(0.0)  # largest norm of the gradient; 0 = none
    min_lr_ratio: float = number(1.0, high=1)  # 1 = constant after the warm-up; less = cosine down to this share
    beta1: float = number(0.9, below=1)
    beta2: float = number(0.95, below=1)
    weight_decay: float = number(1.0)
    table_lr: float = number(1e-4)  # puzzle table: sparse sign-SGD
    table_weight_decay: float = number(1.0)
    ema_decay: float = number(0.999, below=1)  # 0 = no averaging
    ema_also: str = ""  # decays averaged and evaluated besides, as "0.99,0.995"; 0 = the live weights
    loss_scaling: str = option("auto", "auto", "none", "dynamic")  # auto: dynamic with float16

    def __post_init__(self):
        check(self, "optim.")
        for decay in self.other_decays:
            _require(0 <= decay < 1, f"optim.ema_also holds {decay}; every decay must be in [0, 1)")

    @property
    def other_decays(self) -> tuple[float, ...]:
        """The decays of `ema_also` besides `ema_decay`, ascending; 0 stands for the live weights."""
        try:
            decays = {float(text) for text in self.ema_also.split(",") if text.strip()}
        except ValueError:
            raise InputError(f"optim.ema_also is {self.ema_also!r}; write decays, for example 0,0.99,0.995") from None
        return tuple(sorted(decays - {self.ema_decay}))

    def warmup(self, total_steps: int) -> int:
        """Steps of the warm-up."""
        return round(self.warmup_share * total_steps) if self.warmup_share else self.warmup_steps


@dataclass(frozen=True)
class TrainConfig:
    batch_size: int = number(6144, low=1)  # global
    epochs: int = number(50000)  # one epoch draws one variant of every puzzle
    steps: int = number(0)  # a budget in steps; wins over examples, which wins over epochs
    examples: int = number(0)  # a budget in examples
    accumulation: int = number(1, low=1)  # parts of a batch that are computed one after the other to save memory
    halt_exploration_end: float = -1.0  # exploration goes there from the model's, linearly; -1 = it stays
    curriculum_epochs: int = number(0)  # L_cycles and H_cycles grow to the model's over these, linearly; 0 = off
    curriculum_L_start: int = number(2, low=1)
    curriculum_H_start: int = number(1, low=1)
    loss: str = option("stablemax", *TOKEN_LOSSES)
    parameters: str = option("all", "all", "tables")  # which are trained; tables: only the embeddings of puzzles
    start_from: str = ""  # a run whose averaged weights and embeddings this one begins with
    start_at: str = "latest"  # its checkpoint: latest, best or a step
    deterministic: bool = True  # on a GPU: operations that give the same bits every time, which may cost speed

    def __post_init__(self):
        check(self, "train.")
        _require(
            self.epochs > 0 or self.steps > 0 or self.examples > 0,
            "train.epochs, train.steps and train.examples are all 0; set one: --set train.steps=1000",
        )
        _require(
            self.batch_size % self.accumulation == 0,
            f"train.batch_size {self.batch_size} does not divide into train.accumulation={self.accumulation} equal "
            "parts; choose a divisor",
        )
        _require(
            self.halt_exploration_end == -1 or 0 <= self.halt_exploration_end <= 1,
            f"train.halt_exploration_end is {self.halt_exploration_end}; it must be in [0, 1], or -1 for no change",
        )


@dataclass(frozen=True)
class EvalConfig:
    every_epochs: int = number(5000)
    every_steps: int = number(0)  # wins over every_epochs; both 0 = at the end only
    batch_size: int = number(6144, low=1)
    max_examples: int = number(0)  # 0 = all
    max_examples_before_end: int = number(0)  # of the evaluations before the last one; 0 = as many as of that


@dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int = number(500, low=1)
    every_minutes: float = number(10.0)  # and when so long has passed since the last one; 0 = not for that reason
    keep_last: int = number(2, low=1)
    keep_best: int = number(1)  # by the task's headline score
    keep_every_steps: int = number(0)  # 0 = none besides those


@dataclass(frozen=True)
class LogConfig:
    every_steps: int = number(20, low=1)
    tensorboard: bool = True
    profile_steps: int = number(0)  # steps whose profile is kept, after those that compile; 0 = none
    wandb_project: str = ""  # empty = no Weights & Biases


@dataclass(frozen=True)
class MeshConfig:
    data: int = -1  # -1 = all devices that are left
    fsdp: int = 1
    tensor: int = 1


SECTIONS = {
    "optim": OptimConfig,
    "train": TrainConfig,
    "eval": EvalConfig,
    "checkpoint": CheckpointConfig,
    "log": LogConfig,
    "mesh": MeshConfig,
}


@dataclass(frozen=True)
class RunConfig:
    """Everything that decides what a run computes and what it leaves behind."""

    name: str
    seed: int
    task: Task
    data: Any  # the task's config
    family: Family
    model: Any  # the family's config
    optim: OptimConfig
    train: TrainConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    mesh: MeshConfig
    start: Callable[[], RunConfig] | None = field(default=None, compare=False)  # gives that of train.start_from
    page: dict = field(default_factory=dict, compare=False)  # the settings that this was made from, as a nested dict

    def __post_init__(self):
        check_seed("seed", self.seed)
        for name in ("eval", "checkpoint", "log"):
            check(getattr(self, name), f"{name}.")
        if self.train.parameters == "tables" and not (self.tables or self.embeds_ids):
            raise InputError("train.parameters=tables, but this model has no table of embeddings; leave it at all")
        if self.train.halt_exploration_end != -1 and not hasattr(self.model, "halt_exploration_prob"):
            raise InputError("train.halt_exploration_end is set, but this model does not explore; leave it at -1")
        _require(
            bool(self.models) == (getattr(self.data, "rows_of", "all") == "task"),
            "a model for each task (model.family=arc_transformer_each) and rows by task (data.rows_of=task) need each "
            "other; set both or neither",
        )
        _require(
            hasattr(self.family, "OWN") == hasattr(self.task, "reader"),
            "what a language model has read (data.task=hybrid) and a model that takes it (model.family=hybrid) need "
            "each other; set both",
        )
        for name, start in self.curriculum_start.items():
            end = getattr(self.model, name, None)
            _require(end is not None, "train.curriculum_epochs is set, but this model has no cycles; leave it at 0")
            _require(
                start <= end, f"train.curriculum_{name[0]}_start {start} is more than model.{name} {end}, where it ends"
            )

    def lineage(self, task: Any) -> Iterator[RunConfig]:
        """Of this run, the one that it begins with, the one that that began with, and so on, those of `task`."""
        if self.task is task:
            yield self
        if self.train.start_from:
            yield from self.start().lineage(task)

    def seen(self, asked: RunConfig) -> Iterator[tuple[RunConfig, str]]:
        """(run, how) for those of them that were trained on answers which `asked` asks."""
        for one in self.lineage(asked.task) if hasattr(asked.task, "seen") else ():
            if said := asked.task.seen(one.data, asked.data):
                yield one, said

    @property
    def scored(self) -> str:
        """What an evaluation is of: "held-out" puzzles, or "fitted" ones, whose answers train too (data.fit)."""
        return "fitted" if getattr(self.data, "fit", False) else "held-out"

    @property
    def models(self) -> int:
        """How many models are trained side by side, one for each puzzle id; 0 for a family that trains a single one."""
        return self.model.num_puzzle_ids if hasattr(self.family, "of_task") else 0

    @property
    def tables(self) -> list[str]:
        """The parameters that are tables of rows."""
        return [n for n, s in self.family.specs(self.model).items() if is_spec(s) and s.kind == "rows"]

    @property
    def embeds_ids(self) -> bool:
        """Whether embeddings of puzzles are among the weights."""
        weights = jax.tree.leaves(self.family.specs(self.model)["weights"], is_leaf=is_spec)
        return any(spec.kind == "id_embedding" for spec in weights)

    @property
    def curriculum_start(self) -> dict[str, int]:
        """The settings of the model that a curriculum raises, and where they begin; empty without one."""
        train = self.train
        starts = {"L_cycles": train.curriculum_L_start, "H_cycles": train.curriculum_H_start}
        return starts if train.curriculum_epochs else {}

    @property
    def scales_loss(self) -> bool:
        """Whether the loss is scaled: small gradients would vanish in float16."""
        chosen = self.optim.loss_scaling
        return chosen == "dynamic" or chosen == "auto" and getattr(self.model, "dtype", "") == "float16"

    @property
    def exploration(self) -> tuple[float, float]:
        """The exploration probability at the first step and at the end of the run."""
        start, end = getattr(self.model, "halt_exploration_prob", 0.0), self.train.halt_exploration_end
        return start, start if end == -1 else end

    def total_steps(self, groups: int, mean_examples_per_puzzle: float) -> int:
        """Optimiser steps: `train.steps`, `train.examples` / batch, or int(epochs * groups * mean examples / batch)."""
        examples = self.train.examples or self.train.epochs * groups * mean_examples_per_puzzle
        steps = self.train.steps or int(examples / self.train.batch_size)
        _require(
            steps > 0,
            f"the budget of {examples:,.0f} examples is less than one batch of {self.train.batch_size}; raise "
            "train.epochs or train.examples, or set train.steps",
        )
        _require(
            steps <= MAX_STEPS,
            f"the budget of {steps:,} steps is more than {MAX_STEPS:,}; lower train.steps, epochs or examples",
        )
        return steps

    def warms_up_long(self, total_steps: int) -> bool:
        """Whether about half of the steps or more lie inside the warm-up."""
        return self.optim.warmup(total_steps) >= 0.45 * total_steps

    def warnings(self, total_steps: int) -> list[str]:
        """What a person should know before the run starts: lines without a full stop."""
        told = [*getattr(self.task, "warnings", lambda cfg: ())(self.data)]
        told += getattr(self.family, "warnings", lambda cfg: ())(self)
        if not self.warms_up_long(total_steps):
            return told
        warmup = self.optim.warmup(total_steps)
        where = "all" if warmup >= total_steps else f"{warmup / total_steps:.0%}"
        return [
            *told,
            f"{where} of the {total_steps:,} steps lie inside the warm-up of {warmup:,}; optim.warmup_share=0.25 would "
            "make it a quarter of them, and train.examples sets a budget that does not depend on the puzzles",
        ]

    def eval_interval_steps(self, groups: int, mean_examples_per_puzzle: float, total_steps: int) -> int:
        """Steps between evaluations; one at the end when nothing is set."""
        if self.eval.every_steps or not self.eval.every_epochs:
            return self.eval.every_steps or total_steps
        steps = self._steps_of(self.eval.every_epochs, groups, mean_examples_per_puzzle)
        _require(
            steps > 0,
            f"eval.every_epochs {self.eval.every_epochs} of {groups} puzzles hold fewer examples than one batch of "
            f"{self.train.batch_size}; raise it or set eval.every_steps",
        )
        return steps

    def evaluation_steps(self, groups: int, mean_examples_per_puzzle: float, total_steps: int) -> range:
        """The steps after which the run is evaluated, besides the last one: the ends of the intervals.

        An interval of epochs drops what is less than a batch, as in the official code, so the intervals fall behind
        the epochs: 10 of the baseline's end at step 8,130 of 8,138. The one whose epochs are those of the run ends
        with it.
        """
        every = self.eval_interval_steps(groups, mean_examples_per_puzzle, total_steps)
        count = total_steps // every
        if self.eval.every_epochs and not self.eval.every_steps:
            epochs = self.eval.every_epochs
            numbers = range(1, count + 1)
            count = bisect_left(
                numbers, total_steps, key=lambda n: self._steps_of(n * epochs, groups, mean_examples_per_puzzle)
            )
        return range(every, min(count * every + 1, total_steps), every)

    def _steps_of(self, epochs: int, groups: int, mean_examples_per_puzzle: float) -> int:
        return int(epochs * groups * mean_examples_per_puzzle / self.train.batch_size)
