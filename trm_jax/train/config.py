"""A run's settings as frozen dataclasses: what the training code reads, after the edge has checked it.

Their values come from one page, `trm_jax/configs/defaults.py`.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any

from trm_jax.data.seeds import check_seed
from trm_jax.errors import InputError
from trm_jax.losses import TOKEN_LOSSES
from trm_jax.models.family import Family
from trm_jax.optim import OPTIMIZERS
from trm_jax.tasks import Task

LOSS_SCALINGS = ("auto", "none", "dynamic")
MAX_STEPS = 10**9  # a thousand a second would take eleven days
LONG_WARMUP = 0.45  # share of the steps from which on a person is told: about half


def _require(ok: bool, message: str) -> None:
    if not ok:
        raise InputError(message)


def _one_of(name: str, value: str, options: tuple[str, ...]) -> None:
    _require(value in options, f"{name} is {value!r}; choose one of {', '.join(options)}")


@dataclass(frozen=True)
class OptimConfig:
    name: str
    lr: float
    warmup_steps: int
    warmup_share: float
    min_lr_ratio: float
    beta1: float
    beta2: float
    weight_decay: float
    table_lr: float
    table_weight_decay: float
    ema_decay: float
    ema_also: str
    loss_scaling: str

    def __post_init__(self):
        _one_of("optim.name", self.name, OPTIMIZERS)
        _one_of("optim.loss_scaling", self.loss_scaling, LOSS_SCALINGS)
        for name in ("beta1", "beta2", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, f"optim.{name} is {getattr(self, name)}; it must be in [0, 1)")
        for name in ("lr", "warmup_steps", "weight_decay", "table_lr", "table_weight_decay"):
            _require(getattr(self, name) >= 0, f"optim.{name} is {getattr(self, name)}; it must not be negative")
        for name in ("min_lr_ratio", "warmup_share"):
            _require(0 <= getattr(self, name) <= 1, f"optim.{name} is {getattr(self, name)}; it must be in [0, 1]")
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
    batch_size: int
    epochs: int
    steps: int
    examples: int
    accumulation: int
    halt_exploration_end: float
    curriculum_epochs: int
    curriculum_L_start: int
    curriculum_H_start: int
    loss: str
    deterministic: bool

    def __post_init__(self):
        _one_of("train.loss", self.loss, TOKEN_LOSSES)
        for name in ("batch_size", "accumulation", "curriculum_L_start", "curriculum_H_start"):
            _require(getattr(self, name) >= 1, f"train.{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("epochs", "steps", "examples", "curriculum_epochs"):
            _require(getattr(self, name) >= 0, f"train.{name} is {getattr(self, name)}; it must not be negative")
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
    every_epochs: int
    every_steps: int
    batch_size: int
    max_examples: int

    def __post_init__(self):
        _require(self.batch_size >= 1, f"eval.batch_size is {self.batch_size}; it must be at least 1")
        for name in ("every_epochs", "every_steps", "max_examples"):
            _require(getattr(self, name) >= 0, f"eval.{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True)
class CheckpointConfig:
    every_steps: int
    every_minutes: float
    keep_last: int
    keep_best: int
    keep_every_steps: int

    def __post_init__(self):
        _require(self.every_steps >= 1, f"checkpoint.every_steps is {self.every_steps}; it must be at least 1")
        _require(self.keep_last >= 1, f"checkpoint.keep_last is {self.keep_last}; it must be at least 1")
        for name in ("every_minutes", "keep_best", "keep_every_steps"):
            _require(getattr(self, name) >= 0, f"checkpoint.{name} is {getattr(self, name)}; it must not be negative")


@dataclass(frozen=True)
class LogConfig:
    every_steps: int
    tensorboard: bool
    wandb_project: str

    def __post_init__(self):
        _require(self.every_steps >= 1, f"log.every_steps is {self.every_steps}; it must be at least 1")


@dataclass(frozen=True)
class MeshConfig:
    data: int
    fsdp: int
    tensor: int


@dataclass(frozen=True)
class EvaluationSteps(Collection):
    """Steps in ascending order: those of a range, which may be too many to be listed, and the last one behind it."""

    before: range
    last: int

    def __contains__(self, step: object) -> bool:
        return step in self.before or step == self.last

    def __iter__(self) -> Iterator[int]:
        yield from self.before
        yield self.last

    def __len__(self) -> int:
        return len(self.before) + 1


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
    page: dict = field(default_factory=dict, compare=False)  # the settings that this was made from, as a nested dict

    def __post_init__(self):
        check_seed("seed", self.seed)
        if self.train.halt_exploration_end != -1 and not hasattr(self.model, "halt_exploration_prob"):
            raise InputError("train.halt_exploration_end is set, but this model does not explore; leave it at -1")
        for name, start in self.curriculum_start.items():
            end = getattr(self.model, name, None)
            _require(end is not None, "train.curriculum_epochs is set, but this model has no cycles; leave it at 0")
            _require(
                start <= end,
                f"train.curriculum_{name[0]}_start {start} is more than model.{name} {end}, where it ends",
            )

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

    def mostly_warmup(self, total_steps: int) -> bool:
        """Whether about half of the steps, or more, lie inside the warm-up."""
        return self.optim.warmup(total_steps) >= LONG_WARMUP * total_steps

    def warnings(self, total_steps: int) -> list[str]:
        """What a person should know before the run starts: lines without a full stop."""
        warmup = self.optim.warmup(total_steps)
        if not self.mostly_warmup(total_steps):
            return []
        where = "all" if warmup >= total_steps else f"{warmup / total_steps:.0%}"
        return [
            f"{where} of the {total_steps:,} steps lie inside the warm-up of {warmup:,}; optim.warmup_share=0.25 would "
            "make it a quarter of them, and train.examples sets a budget that does not depend on the puzzles"
        ]

    def eval_interval_steps(self, groups: int, mean_examples_per_puzzle: float, total_steps: int) -> int:
        """Steps between evaluations; one at the end when nothing is set."""
        if self.eval.every_steps:
            return self.eval.every_steps
        if self.eval.every_epochs:
            steps = self._steps_of(self.eval.every_epochs, groups, mean_examples_per_puzzle)
            _require(
                steps > 0,
                f"eval.every_epochs {self.eval.every_epochs} of {groups} puzzles hold fewer examples than one batch of "
                f"{self.train.batch_size}; raise it or set eval.every_steps",
            )
            return steps
        return total_steps

    def evaluation_steps(self, groups: int, mean_examples_per_puzzle: float, total_steps: int) -> EvaluationSteps:
        """The steps after which the run is evaluated: the end of each interval, and the last step.

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
        return EvaluationSteps(range(every, min(count * every + 1, total_steps), every), total_steps)

    def _steps_of(self, epochs: int, groups: int, mean_examples_per_puzzle: float) -> int:
        return int(epochs * groups * mean_examples_per_puzzle / self.train.batch_size)
