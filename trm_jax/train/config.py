"""A run's settings as frozen dataclasses: what the training code reads, after the edge has checked it.

Their values come from one page, `trm_jax/configs/defaults.py`; nothing here has a default.
"""

from __future__ import annotations

from dataclasses import dataclass

from trm_jax.data.sudoku import SudokuConfig
from trm_jax.errors import InputError
from trm_jax.losses import TOKEN_LOSSES
from trm_jax.models import TRMConfig
from trm_jax.optim import OPTIMIZERS


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
    min_lr_ratio: float
    beta1: float
    beta2: float
    weight_decay: float
    table_lr: float
    table_weight_decay: float
    ema_decay: float

    def __post_init__(self):
        _one_of("optim.name", self.name, OPTIMIZERS)
        for name in ("beta1", "beta2", "ema_decay"):
            _require(0 <= getattr(self, name) < 1, f"optim.{name} is {getattr(self, name)}; it must be in [0, 1)")
        for name in ("lr", "warmup_steps", "weight_decay", "table_lr", "table_weight_decay"):
            _require(getattr(self, name) >= 0, f"optim.{name} is {getattr(self, name)}; it must not be negative")
        _require(0 <= self.min_lr_ratio <= 1, f"optim.min_lr_ratio is {self.min_lr_ratio}; it must be in [0, 1]")


@dataclass(frozen=True)
class TrainConfig:
    batch_size: int
    epochs: int
    steps: int
    loss: str

    def __post_init__(self):
        _one_of("train.loss", self.loss, TOKEN_LOSSES)
        _require(self.batch_size >= 1, f"train.batch_size is {self.batch_size}; it must be at least 1")
        _require(self.epochs >= 0 and self.steps >= 0, "train.epochs and train.steps must not be negative")
        _require(
            self.epochs > 0 or self.steps > 0,
            "train.epochs and train.steps are both 0; set one: --set train.steps=1000",
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
    keep_last: int
    keep_best: int
    keep_every_steps: int

    def __post_init__(self):
        _require(self.every_steps >= 1, f"checkpoint.every_steps is {self.every_steps}; it must be at least 1")
        _require(self.keep_last >= 1, f"checkpoint.keep_last is {self.keep_last}; it must be at least 1")
        for name in ("keep_best", "keep_every_steps"):
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
class RunConfig:
    """Everything that decides what a run computes and what it leaves behind."""

    name: str
    seed: int
    model: TRMConfig
    data: SudokuConfig
    optim: OptimConfig
    train: TrainConfig
    eval: EvalConfig
    checkpoint: CheckpointConfig
    log: LogConfig
    mesh: MeshConfig

    def total_steps(self, groups: int, mean_examples_per_puzzle: float) -> int:
        """Optimiser steps: `train.steps`, or the reference's int(epochs * groups * mean examples / batch)."""
        steps = self.train.steps or int(self.train.epochs * groups * mean_examples_per_puzzle / self.train.batch_size)
        _require(
            steps > 0,
            f"train.epochs {self.train.epochs} of {groups} puzzles hold fewer examples than one batch of "
            f"{self.train.batch_size}; raise train.epochs or set train.steps",
        )
        return steps

    def eval_interval_steps(self, groups: int, mean_examples_per_puzzle: float, total_steps: int) -> int:
        """Steps between evaluations; one at the end when nothing is set."""
        if self.eval.every_steps:
            return self.eval.every_steps
        if self.eval.every_epochs:
            steps = int(self.eval.every_epochs * groups * mean_examples_per_puzzle / self.train.batch_size)
            _require(
                steps > 0,
                f"eval.every_epochs {self.eval.every_epochs} of {groups} puzzles hold fewer examples than one batch of "
                f"{self.train.batch_size}; raise it or set eval.every_steps",
            )
            return steps
        return total_steps
