"""Sudoku of 4x4, 6x6, 9x9 and 16x16 cells. Importing this is cheap: what compiles or draws is imported when needed.

Tokens: PAD 0, blank 1, digit d is d + 1; vocab size + 2; every cell is supervised; the puzzle id is always 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from trm_jax.data.dataset import DatasetInfo, EvalSource, TrainSource
from trm_jax.errors import InputError
from trm_jax.settings import check, check_seed, number, option
from trm_jax.tasks import Progress
from trm_jax.tasks.sudoku import boards, text
from trm_jax.tasks.tokens import finish_means, score_tokens

HUB_REPO, HUB_TEST_PUZZLES = "sapientinc/sudoku-extreme", 422_786  # Sudoku-Extreme and the rows of its test file

_BLANK = 1  # a digit d is the token d + _BLANK


@dataclass(frozen=True)
class SudokuConfig:
    """Where the puzzles come from and how many there are."""

    source: str = option("hub", "generated", "csv", "hub", "arrays")
    path: str = ""  # csv: folder with train_file and test_file; arrays: folder in the official format
    train_file: str = "train.csv"
    test_file: str = "test.csv"
    hub_repo: str = HUB_REPO
    size: int = option(9, *boards.BOX_HEIGHT)
    train_puzzles: int = number(1000)  # drawn without replacement by `seed`; 0 = all
    test_puzzles: int = number(0)  # drawn alike for every seed, so that results compare; 0 = all
    augmentations: int = number(1000)  # variants of a puzzle besides the original, computed on the fly
    min_rating: int = number(0)  # generator: guesses of our solver
    max_rating: int = number(-1, low=-1)  # generator: -1 = no bound
    extra_clues: int = number(0)  # generator: clues added back to a minimal puzzle (16x16: a nearly minimal one)
    seed: int = 0

    def __post_init__(self) -> None:
        check_seed("data.seed", self.seed)
        check(self, "data.")
        if 0 <= self.max_rating < self.min_rating:
            raise InputError(f"no rating lies in data.min_rating={self.min_rating}..data.max_rating={self.max_rating}")
        if self.extra_clues > self.size**2:
            raise InputError(f"data.extra_clues is {self.extra_clues}; a board has {self.size**2} cells")
        if self.size > 9 and (self.min_rating > 0 or self.max_rating >= 0):
            raise InputError(f"puzzles of {self.size}x{self.size} are not made by rating: leave out the rating bounds")
        if self.extra_clues and (self.min_rating > 0 or self.max_rating >= 0):
            raise InputError(
                "data.extra_clues and a rating bound exclude each other: more clues lower the rating again"
            )


class SudokuTask:
    """Sudoku as a `Task`; trm_jax.tasks says what each method gives."""

    Config = SudokuConfig
    headline = "exact_accuracy"

    def info(self, cfg: SudokuConfig) -> DatasetInfo:
        return DatasetInfo(cfg.size + 2, cfg.size**2, num_puzzle_ids=1, groups=cfg.train_puzzles)

    def eval_size(self, cfg: SudokuConfig) -> int:
        whole = HUB_TEST_PUZZLES if (cfg.source, cfg.hub_repo, cfg.test_file) == ("hub", HUB_REPO, "test.csv") else 0
        return cfg.test_puzzles or whole

    def load(self, cfg: SudokuConfig, *, progress: Progress | None = None) -> tuple[TrainSource, EvalSource]:
        from trm_jax.tasks.sudoku.source import load

        return load(cfg, progress=progress)

    def load_eval(self, cfg: SudokuConfig, *, progress: Progress | None = None) -> EvalSource:
        from trm_jax.tasks.sudoku.source import load_eval

        return load_eval(cfg, progress=progress)

    def batch_spec(self, cfg: SudokuConfig) -> dict[str, tuple[tuple[int, ...], type]]:
        cells = (cfg.size**2,)
        return {"inputs": (cells, np.int32), "labels": (cells, np.int32), "puzzle_ids": ((), np.int32)}

    def score(self, cfg: SudokuConfig, answers, batch, counted) -> dict:
        return score_tokens(answers, batch["labels"], counted)

    def finish(self, sums) -> dict[str, float]:
        return finish_means(sums)

    def strata(self, cfg: SudokuConfig, data) -> dict[str, np.ndarray]:
        return {"rating": data.ratings, "clues": (data.inputs > 1).sum(1)}

    def local(self, cfg: SudokuConfig) -> dict[str, int | str]:
        small = {"train_puzzles": 64, "test_puzzles": 64}
        return small | ({"source": "generated"} if cfg.source == "hub" else {})

    def read(self, cfg: SudokuConfig, written: str) -> np.ndarray:
        """Boards in any usual form (see `text`) as inputs [N, S]."""
        found = text.read_boards(written, cfg.size)
        for line, board in found:
            if len(board) != cfg.size**2:
                size = boards.SIZE_OF[len(board)]
                raise InputError(f"line {line}: a board of {size}x{size}, where {cfg.size}x{cfg.size} is asked for")
        return np.array([board for _, board in found], np.int32).reshape(-1, cfg.size**2) + 1

    def line(self, cfg: SudokuConfig, tokens: np.ndarray) -> str:
        return text.format_line(_digits(tokens))

    def check(self, cfg: SudokuConfig, inputs: np.ndarray, answer: np.ndarray) -> tuple[str, ...]:
        return boards.problems(_digits(inputs), _digits(answer), cfg.size)

    def valid(self, cfg: SudokuConfig, answers, batch):
        import jax.numpy as jnp

        kept = ((batch["inputs"] <= _BLANK) | (answers == batch["inputs"])).all(-1)
        units = jnp.sort(answers[:, boards.cells_of_units(cfg.size)], axis=-1)
        return kept & (units == jnp.arange(1, cfg.size + 1) + _BLANK).all((1, 2))

    def symmetries(self, cfg: SudokuConfig, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
        from trm_jax.tasks.sudoku.symmetry import transformations

        cells, digits = transformations(count, cfg.size, seed)
        return cells, np.pad(digits + _BLANK, ((0, 0), (1, 0)))

    def show(self, cfg: SudokuConfig, inputs: np.ndarray, answer: np.ndarray, *, color: bool = False) -> str:
        return text.board_text(_digits(inputs), _digits(answer), color=color)

    def png(self, cfg: SudokuConfig, path, inputs, answer, *, caption: str = "") -> None:
        from trm_jax.tasks.sudoku.pictures import board_png

        board_png(path, _digits(inputs), _digits(answer), caption=caption)

    def gif(self, cfg: SudokuConfig, path, inputs, frames, q, *, halted_at: int | None = None) -> None:
        from trm_jax.tasks.sudoku.pictures import thinking_gif

        thinking_gif(path, _digits(inputs), _digits(frames), q, halted_at=halted_at)


def _digits(tokens: np.ndarray) -> np.ndarray:
    """Tokens as digits; PAD, which a model may answer, is a blank."""
    return np.maximum(np.asarray(tokens, np.int64) - 1, 0)


TASK = SudokuTask()
