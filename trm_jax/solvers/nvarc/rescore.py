"""Grids from elsewhere, scored by a language model as NVARC scores its own: their costs under views of the task."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from trm_jax.errors import InputError
from trm_jax.language.model import Model
from trm_jax.models import decoder
from trm_jax.solvers import Question
from trm_jax.solvers.nvarc import select, vocabulary
from trm_jax.solvers.nvarc.answer import Answerer, Settings
from trm_jax.solvers.run import Outcome, Watch
from trm_jax.tasks.arc.predictions import Line


class Rescorer:
    """A `run.Solver` whose candidates are those of a pool, with their costs. The model is not trained on a task."""

    def __init__(self, model: Model, rows: int, pool: Mapping[tuple[str, int], Sequence[np.ndarray]]):
        """rows: prompts at a time; pool: grids for (task, test input)."""
        cfg, self._params = vocabulary.cut(model.cfg, model.params, model.words)
        self._settings, self._pool = (
            dataclasses.replace(Settings(), limit=min(Settings.limit, cfg.context or 10**9)),
            pool,
        )
        self._answer = Answerer(decoder, cfg, rows)

    def __call__(self, group: Sequence[Question], wanted: set[str], watch: Watch) -> Iterator[Outcome]:
        for task in group:
            if task.id not in wanted:
                continue
            began, lines, reasons = watch.spent(), [], []
            for test in range(len(task.inputs)):
                watch.over()
                watch.tell(f"{task.id}: test {test}")
                asked = [select.Candidate(grid, ()) for grid in self._pool.get((task.id, test), ())]
                try:
                    scored = self._answer.scored(self._params, task, test, self._settings, asked)
                except InputError as error:
                    reasons.append(f"test {test} is not asked: {error}")
                else:
                    lines += [Line(task.id, test, one.grid, view_nll=one.view_nll) for one in scored]
            status = "partial" if reasons else "ok"
            seconds = watch.spent() - began
            yield Outcome(task.id, status, "; ".join(reasons) or None, lines, seconds, {"grids": len(lines)})
