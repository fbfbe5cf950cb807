"""Pairs of ARC grids as sequences: write the output behind the input. Importing this is cheap.

Every pair of every task trains, but the test pairs of the tested set, packed into rows of fixed length. A puzzle id is
a task's number. By task (data.rows_of), a step is an epoch of the demonstrations of the tested tasks alone, of
each in rows of its own, for models that know one task each. Tokens: `trm_jax.tasks.pairs.tokens`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trm_jax.data.dataset import DatasetInfo, EvalSource, TrainSource
from trm_jax.errors import InputError
from trm_jax.settings import check, check_seed, number, option
from trm_jax.tasks import Progress
from trm_jax.tasks.arc import seen
from trm_jax.tasks.tokens import finish_means, score_tokens


@dataclass(frozen=True)
class PairsConfig:
    """Where the tasks come from, how they are augmented, and how they are packed."""

    path: str = ""  # the folder in which the sets lie, as for data.task=arc
    train_sets: str = "training,evaluation,concept,training2,evaluation2"  # of tasks in several, the first counts
    test_set: str = "evaluation"  # its demonstrations train, its test pairs do not
    exclude: str = "db695cfb"  # tasks left out: this one holds the demonstrations of 55783887 of the test set
    augmentations: int = number(80, low=1)  # of a pair, itself among them, at most
    most_tokens: int = number(0)  # only tasks none of whose pairs is longer, lying or standing; 0 = all
    rows_of: str = option("all", "all", "task")  # task: a step is an epoch of the tested tasks, each in rows of its own
    first_task: int = number(0)  # rows_of=task: only the tested tasks from this one on, in order of their tokens
    most_tasks: int = number(0)  # and so many of them; 0 = all
    row_tokens: int = number(2048, low=8)  # of a row
    epoch: str = option("one", "one", "all")  # how many of its augmentations an epoch shows of each pair
    epoch_steps: int = number(169, low=1)  # of about 32 pairs; what is left of an epoch is dropped
    pairs_per_step: int = number(32, low=1)
    rows_per_step: int = number(6, low=1)  # train.batch_size is the same
    loss_on: str = option("output", "output", "all")  # tokens that are trained
    seed: int = 42

    def __post_init__(self) -> None:
        check_seed("data.seed", self.seed)
        check(self, "data.")
        by_task = self.rows_of == "task"
        if by_task and (self.epoch_steps > 1 or self.epoch != "one"):
            raise InputError("data.rows_of=task makes a step of each epoch; set data.epoch_steps=1 and data.epoch=one")
        if not by_task and (self.first_task or self.most_tasks):
            raise InputError("data.first_task and data.most_tasks are for data.rows_of=task; leave them at 0")


# By train_sets, test_set, exclude, most_tokens, first_task, most_tasks: tasks and test pairs of the public sets.
KNOWN = {
    ("training,evaluation,concept,training2,evaluation2", "evaluation", "db695cfb", 0, 0, 0): (1306, 419),
    ("training,evaluation,concept", "evaluation", "db695cfb", 0, 0, 0): (960, 419),
    ("training", "training", "", 80, 0, 0): (62, 72),
    ("training", "training", "", 80, 0, 8): (8, 9),
    ("evaluation", "evaluation", "", 0, 0, 50): (50, 55),
    ("evaluation", "evaluation", "", 0, 50, 50): (50, 56),
    ("evaluation", "evaluation", "", 0, 100, 50): (50, 53),
    ("evaluation", "evaluation", "", 0, 150, 50): (50, 51),
    ("evaluation", "evaluation", "", 0, 200, 50): (50, 51),
    ("evaluation", "evaluation", "", 0, 250, 50): (50, 53),
    ("evaluation", "evaluation", "", 0, 300, 50): (50, 50),
    ("evaluation", "evaluation", "", 0, 350, 50): (50, 50),
}


def known(cfg: PairsConfig) -> tuple[int, int] | None:
    """(tasks, test pairs) of a public set, by its settings."""
    window = cfg.first_task, cfg.most_tasks
    return KNOWN.get((cfg.train_sets, cfg.test_set, cfg.exclude, cfg.most_tokens, *window))


class PairsTask:
    """Pairs as a `Task`; trm_jax.tasks says what each method gives."""

    Config = PairsConfig
    headline = "exact_accuracy"

    def info(self, cfg: PairsConfig) -> DatasetInfo:
        tasks = known(cfg)
        count = tasks[0] if tasks else self.load(cfg)[0].info.num_puzzle_ids
        # An epoch has so many rows; each is an example.
        return DatasetInfo(14, cfg.row_tokens, count, cfg.epoch_steps * cfg.rows_per_step)

    def eval_size(self, cfg: PairsConfig) -> int:
        tasks = known(cfg)
        return tasks[1] if tasks else len(self.load(cfg)[1])

    def load(self, cfg: PairsConfig, *, progress: Progress | None = None) -> tuple[TrainSource, EvalSource]:
        from trm_jax.tasks.pairs.source import load

        return load(cfg)

    def load_eval(self, cfg: PairsConfig, *, progress: Progress | None = None) -> EvalSource:
        return self.load(cfg)[1]

    def made_up(self, cfg: PairsConfig) -> tuple[TrainSource, EvalSource]:
        from trm_jax.tasks.pairs.made_up import made_up

        return made_up(cfg, self.info(cfg).num_puzzle_ids)

    def batch_spec(self, cfg: PairsConfig) -> dict[str, tuple[tuple[int, ...], type]]:
        row = (cfg.row_tokens,)
        names = ("inputs", "labels", "segments", "puzzle_ids", "dihedrals")
        return {
            **{name: (row, np.int32) for name in names},
            "weights": (row, np.float32),
            "places": ((*row, 4), np.int32),
        }

    def score(self, cfg: PairsConfig, answers, batch, counted) -> dict:
        return score_tokens(answers, batch["labels"], counted)

    def finish(self, sums) -> dict[str, float]:
        return finish_means(sums)

    def local(self, cfg: PairsConfig) -> dict[str, int | str]:
        small = {"train_sets": "training", "test_set": "training", "exclude": "", "most_tokens": 80, "row_tokens": 256}
        few = {"first_task": 0, "most_tasks": 8} if cfg.rows_of == "task" else {}
        return {**small, **few, "epoch_steps": 1, "pairs_per_step": 160, "rows_per_step": 32, "augmentations": 8}

    def seen(self, trained: PairsConfig, asked: PairsConfig) -> str:
        return seen(trained, asked)

    def kept_ids(self, cfg: PairsConfig, other: PairsConfig) -> int:
        """How many task ids mean the same: all, where sets were only appended; else none."""
        names = ["exclude", "most_tokens", "rows_of", "first_task", "most_tasks"]
        names += ["test_set"] * (cfg.rows_of == "task")  # whose tasks alone have ids then
        same = all(getattr(cfg, name) == getattr(other, name) for name in names)
        appended = f"{cfg.train_sets},".startswith(f"{other.train_sets},")
        return self.info(other).num_puzzle_ids if same and appended else 0

    def read(self, cfg: PairsConfig, written: str) -> np.ndarray:
        raise InputError("a task of ARC is a JSON file, and this model knows only the tasks that it was trained on")

    def check(self, cfg: PairsConfig, inputs: np.ndarray, answer: np.ndarray) -> tuple[str, ...] | None:
        return None

    def show(self, cfg: PairsConfig, inputs: np.ndarray, answer: np.ndarray, *, color: bool = False) -> str:
        return self.line(cfg, answer)

    def line(self, cfg: PairsConfig, tokens: np.ndarray) -> str:
        return " ".join(map(str, tokens.tolist()))


TASK = PairsTask()
