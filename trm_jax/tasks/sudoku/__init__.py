from __future__ import annotations

import numpy as np

from trm_jax.data.dataset import DatasetInfo
from trm_jax.tasks import tokens


class Sudoku:
    headline = "exact_accuracy"

    @property
    def Config(self):
        from trm_jax.tasks.sudoku.source import SudokuConfig

        return SudokuConfig

    def info(self, cfg):
        from trm_jax.tasks.sudoku.boards import check_size

        check_size(cfg.size)
        return DatasetInfo(cfg.size + 2, cfg.size**2, 1, cfg.train_puzzles)

    def eval_size(self, cfg):
        return cfg.test_puzzles or 422786

    def load(self, cfg, *, progress=None):
        from trm_jax.tasks.sudoku import source

        return source.load(cfg, progress=progress)

    def load_eval(self, cfg, *, progress=None):
        from trm_jax.tasks.sudoku import source

        return source.load_eval(cfg, progress=progress)

    def batch_spec(self, cfg):
        s = (cfg.size**2,)
        return {"inputs": (s, np.int32), "labels": (s, np.int32), "puzzle_ids": ((), np.int32)}

    def score(self, cfg, answers, batch, counted):
        return tokens.score_tokens(answers, batch["labels"], counted)

    def finish(self, sums):
        return tokens.finish_means(sums)

    def local(self, cfg):
        return {"train_puzzles": 64, "test_puzzles": 64, **({"source": "generated"} if cfg.source == "hub" else {})}


TASK = Sudoku()
