"""Mazes: find a shortest path from S to G. Importing this is cheap: what compiles or draws is imported when needed.

Tokens: PAD 0, wall 1, free 2, start 3, goal 4, path 5; every cell is supervised; the puzzle id is always 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trm_jax.data.dataset import DatasetInfo, EvalSource, TrainSource
from trm_jax.errors import InputError
from trm_jax.settings import check, check_seed, number, option
from trm_jax.tasks import Progress
from trm_jax.tasks.maze import grids
from trm_jax.tasks.tokens import finish_means, score_tokens

HUB_REPO, HUB_TEST_MAZES = "sapientinc/maze-30x30-hard-1k", 1000  # Maze-Hard and the rows of its test file
VERDICTS = ("valid_optimal", "simple")


@dataclass(frozen=True)
class MazeConfig:
    """Where the mazes come from and how many there are."""

    source: str = option("hub", "generated", "perfect", "csv", "hub", "arrays")
    path: str = ""  # csv: folder with train_file and test_file; arrays: folder in the official format
    train_file: str = "train.csv"
    test_file: str = "test.csv"
    hub_repo: str = HUB_REPO
    height: int = number(30, low=1)
    width: int = number(30, low=1)
    train_puzzles: int = number(1000)  # drawn without replacement by `seed`; 0 = all
    test_puzzles: int = number(1000)  # drawn alike for every seed, so that results compare; 0 = all
    augment: str = option("none", "none", "dihedral", "relabel")  # the eight symmetries; relabel: and a new label
    min_moves: int = number(109, low=1)  # generated, perfect: least length of a shortest path
    max_moves: int = number(140, low=1)  # perfect: greatest
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed("data.seed", self.seed)
        check(self, "data.")
        if self.source == "perfect" and self.max_moves < self.min_moves:
            raise InputError(f"no path has data.min_moves={self.min_moves} to data.max_moves={self.max_moves} moves")
        if self.source == "perfect" and min(self.height, self.width) < 3:
            raise InputError(f"{self.height}x{self.width} has no room inside walls; a perfect maze needs 3x3 or more")
        if self.augment == "relabel" and self.source == "arrays":
            raise InputError("data.augment=relabel derives labels, and arrays hold theirs; set none or dihedral")
        if self.augment != "none" and self.height != self.width:
            raise InputError(f"data.augment={self.augment} turns mazes, and {self.height}x{self.width} is not square")


class MazeTask:
    """Mazes as a `Task`; trm_jax.tasks says what each method gives."""

    Config = MazeConfig
    headline = "valid_optimal"

    def info(self, cfg: MazeConfig) -> DatasetInfo:
        return DatasetInfo(grids.VOCAB_SIZE, cfg.height * cfg.width, num_puzzle_ids=1, groups=cfg.train_puzzles)

    def eval_size(self, cfg: MazeConfig) -> int:
        whole = HUB_TEST_MAZES if (cfg.source, cfg.hub_repo, cfg.test_file) == ("hub", HUB_REPO, "test.csv") else 0
        return cfg.test_puzzles or whole

    def load(self, cfg: MazeConfig, *, progress: Progress | None = None) -> tuple[TrainSource, EvalSource]:
        from trm_jax.tasks.maze.source import load

        return load(cfg, progress=progress)

    def load_eval(self, cfg: MazeConfig, *, progress: Progress | None = None) -> EvalSource:
        from trm_jax.tasks.maze.source import load_eval

        return load_eval(cfg, progress=progress)

    def batch_spec(self, cfg: MazeConfig) -> dict[str, tuple[tuple[int, ...], type]]:
        cells = (cfg.height * cfg.width,)
        return {"inputs": (cells, np.int32), "labels": (cells, np.int32), "puzzle_ids": ((), np.int32)}

    def score(self, cfg: MazeConfig, answers, batch, counted) -> dict:
        import jax.numpy as jnp

        from trm_jax.tasks.maze.score import verdicts

        shape = (-1, cfg.height, cfg.width)
        found = verdicts(answers.reshape(shape), batch["inputs"].reshape(shape), batch["labels"].reshape(shape))
        sums = {name: jnp.sum(right & counted, dtype=jnp.float32) for name, right in found.items()}
        return {**score_tokens(answers, batch["labels"], counted), **sums}

    def finish(self, sums) -> dict[str, float]:
        found = finish_means(sums)
        return {**{name: float(np.float64(sums[name]) / sums["count"]) for name in VERDICTS}, **found} if found else {}

    def strata(self, cfg: MazeConfig, data) -> dict[str, np.ndarray]:
        return {"moves of a shortest path": (data.labels >= grids.START).sum(1) - 1}

    def local(self, cfg: MazeConfig) -> dict[str, int | str]:
        small = {"train_puzzles": 32, "test_puzzles": 32}
        return small | ({"source": "generated", "height": 8, "width": 8, "min_moves": 8} if cfg.source == "hub" else {})

    def warnings(self, cfg: MazeConfig) -> tuple[str, ...]:
        """Notes on settings that seldom do what is hoped for."""
        if cfg.augment != "dihedral":
            return ()
        return ("data.augment=dihedral keeps labels that the label rule would not give: published, it drops TRM on "
                "Maze-Hard from 85.1 to 10.1 exact; data.augment=relabel derives them anew",)  # fmt: skip

    def read(self, cfg: MazeConfig, written: str) -> np.ndarray:
        """Mazes on one line or over `height` lines as inputs [N, S]."""
        return grids.read_mazes(written, cfg.height, cfg.width).reshape(-1, cfg.height * cfg.width).astype(np.int32)

    def line(self, cfg: MazeConfig, tokens: np.ndarray) -> str:
        return grids.written(tokens)

    def check(self, cfg: MazeConfig, inputs: np.ndarray, answer: np.ndarray) -> tuple[str, ...]:
        from trm_jax.tasks.maze.paths import problems

        return problems(*(x.reshape(cfg.height, cfg.width) for x in (inputs, answer)))

    def valid(self, cfg: MazeConfig, answers, batch):
        """Whether the path is one from start to goal, of any length: the puzzle alone does not tell the shortest."""
        from trm_jax.tasks.maze.score import verdicts

        answers, mazes = (x.reshape(-1, cfg.height, cfg.width) for x in (answers, batch["inputs"]))
        return verdicts(answers, mazes, mazes)["simple"]  # which asks nothing of a label

    def symmetries(self, cfg: MazeConfig, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        from trm_jax.tasks.dihedral import KEEPS_SHAPE, dihedral

        places = np.arange(cfg.height * cfg.width).reshape(cfg.height, cfg.width)
        forms = range(8) if cfg.height == cfg.width else KEEPS_SHAPE
        cells = np.stack([dihedral(places, forms[k % len(forms)]).ravel() for k in range(count)])
        return cells, np.tile(np.arange(grids.VOCAB_SIZE), (count, 1))

    def show(self, cfg: MazeConfig, inputs: np.ndarray, answer: np.ndarray, *, color: bool = False) -> str:
        return grids.text_of(*(x.reshape(cfg.height, cfg.width) for x in (inputs, answer)), color=color)

    def png(self, cfg: MazeConfig, path, inputs, answer, *, caption: str = "") -> None:
        from trm_jax.tasks.maze.pictures import maze_png

        maze_png(path, *(x.reshape(cfg.height, cfg.width) for x in (inputs, answer)), caption=caption)

    def gif(self, cfg: MazeConfig, path, inputs, frames, q, *, halted_at: int | None = None) -> None:
        from trm_jax.tasks.maze.pictures import maze_gif

        shape = (cfg.height, cfg.width)
        maze_gif(path, inputs.reshape(shape), frames.reshape(-1, *shape), q, halted_at=halted_at)


TASK = MazeTask()
