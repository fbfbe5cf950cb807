"""NVARC: train an adapter for each task on its demonstrations in all views, search, and score what is found."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from trm_jax import sharding
from trm_jax.errors import InputError
from trm_jax.language.model import Model
from trm_jax.models import decoder
from trm_jax.models.lora import Lora
from trm_jax.solvers import Question, adapt, generator
from trm_jax.solvers.nvarc import text, vocabulary
from trm_jax.solvers.nvarc.answer import Answer, Answerer, Settings
from trm_jax.solvers.run import Outcome, Watch, by_training
from trm_jax.tasks.arc.predictions import Line

# What no preset says. The published run's embedding and head, listed as targets, were in truth trained whole and apart.
RECIPE = adapt.Recipe(None, epochs=1, batch=1, weight_decay=0.0, clip=1.0, whole=True)


def low_rank(trained: dict, params: dict, kind: Lora) -> tuple[dict, Lora]:
    """What was trained as an adapter alone: whole copies of embedding and head, of 16 tokens, are changes of rank 16.

    trained: of `adapt`; params: the base. Copies need a rank of 16 or more.
    """
    if "embed" not in trained:
        return trained["lora"], kind
    head = params["head"] if "head" in params else params["embed"].T
    size = vocabulary.SIZE
    turn = jnp.pad(jnp.eye(size), ((0, 0), (0, kind.rank - size)))  # [V, r]

    def change(new, old):
        return (new.astype(jnp.float32) - old.astype(jnp.float32)) / kind.scale

    def wide(x):  # [V, D] -> [r, D]
        return jnp.pad(x, ((0, kind.rank - size), (0, 0)))

    adapter = {
        **trained["lora"],
        "embed": {"a": turn, "b": wide(change(trained["embed"], params["embed"]))},
        "head": {"a": wide(change(trained["head"], head).T).T, "b": turn.T},
    }
    return adapter, dataclasses.replace(kind, targets=(*kind.targets, *adapt.WHOLE))


class Nvarc:
    """A `run.Solver`."""

    def __init__(
        self,
        model: Model,
        recipe: adapt.Recipe,
        settings: Settings,
        rows: int,
        others: Mapping[tuple[str, int], Sequence[np.ndarray]],
        tasks: int = 1,
        mesh: Mesh | None = None,
    ):
        """rows: prompts at a time; others: grids from elsewhere for (task, test input), which are scored too; tasks:
        the most of a group; mesh: as of `adapt.Trainer`."""
        cfg, self._params = vocabulary.cut(model.cfg, model.params, model.words)
        limit = min(settings.limit, cfg.context or settings.limit)
        self._recipe, self._settings, self._others = recipe, dataclasses.replace(settings, limit=limit), others
        self._trainer, self._tasks = adapt.Trainer(recipe, cfg, mesh), tasks
        self._start = adapt.begin(recipe, cfg, self._params, settings.seed)
        groups = self._trainer.groups
        self._answer = [Answerer(decoder, recipe.model(cfg), rows) for _ in groups]
        self._bases = [sharding.of_group(self._params, self._trainer.mesh, one) for one in groups]

    def __call__(self, group: Sequence[Question], wanted: set[str], watch: Watch) -> Iterator[Outcome]:
        courses, untrained = [], {}
        for task in group:
            try:
                lessons = self._lessons(task)
            except InputError as error:
                lessons, untrained[task.id] = [], f"answered without training: {error}"
            courses.append(adapt.Course(lessons, np.arange(len(lessons))[:, None]))  # they are in order, one an update

        def outcome(number: int, trained: adapt.Trained, own: Watch) -> Outcome:
            return self._outcome(group[number], trained, untrained.get(group[number].id), own)

        watch.over()
        how = (self._trainer, self._params, self._start, courses, self._tasks)
        yield from by_training(*how, group, wanted, watch, outcome)

    def _lessons(self, task: Question) -> list[adapt.Lesson]:
        how = self._settings
        return text.samples(task.demonstrations, generator(how.seed, task.id, "train"), how.permutations, how.limit)

    def _outcome(self, task: Question, trained: adapt.Trained, untrained: str | None, watch: Watch) -> Outcome:
        numbers = trained.told()
        if fault := trained.fault():
            return Outcome(task.id, "failed", fault, numbers=numbers)
        reasons = [untrained] if untrained else []
        if len(task.demonstrations) == 1:
            reasons.append("zero-shot: a lone demonstration, with none before it")
        if len(trained.losses) < trained.updates:
            reasons.append("the time for training was over")
        base, weights = self._bases[trained.group], trained.weights
        params, lines, answers = adapt.adapted(base, weights, self._recipe), [], []
        for test in range(len(task.inputs)):
            watch.tell(f"{task.id}: test {test}")
            others = self._others.get((task.id, test), ())
            try:
                answers.append(self._answer[trained.group](params, task, test, self._settings, others, watch.over))
            except InputError as error:
                reasons.append(f"test {test} is not asked: {error}")
            else:
                lines += _lines(task.id, test, answers[-1])
                reasons += [] if answers[-1].ranked else [f"no reply to test {test} is a grid"]
        if not all(one.complete for one in answers):
            reasons.append("the budget or the time of a search was over")
        numbers |= {"grids": len(lines), "greedy": f"{sum(one.greedy for one in answers)}/{len(task.inputs)}"}
        status = "skipped" if not answers else "partial" if reasons else "ok"
        adapter = low_rank(weights, base, self._recipe.lora) if trained.losses else None
        return Outcome(task.id, status, "; ".join(reasons) or None, lines, numbers=numbers, adapter=adapter)


def _lines(task: str, test: int, answer: Answer) -> Iterator[Line]:
    """Candidates, best first; their weights are shares by exp(score)."""
    if not answer.ranked:
        return
    scores = [round(score, 9) for score, _ in answer.ranked]  # as `rank` has them
    shares = [math.exp(score - scores[0]) for score in scores]
    for share, (_, one) in zip(shares, answer.ranked, strict=True):
        source = f"{'greedy' if answer.greedy else 'search'} in {len(one.finds)} views" if one.finds else "elsewhere"
        yield Line(task, test, one.grid, share / math.fsum(shares), view_nll=list(one.view_nll), source=source)
