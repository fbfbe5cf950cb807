"""Fine-tuning of a decoder on ARC tasks in NVARC's 16 tokens: an adapter beside frozen weights, or all weights.

A text is a task in a view drawn for it, with all its pairs; what a step learns is a function of (seed, step). The rate
falls along a line. Source: 1ytic/NVARC, whose own permutations of colours merge some of them; these do not.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh

from trm_jax import sharding
from trm_jax.errors import InputError
from trm_jax.models import decoder
from trm_jax.settings import check, number, positive
from trm_jax.solvers import adapt
from trm_jax.solvers.nvarc import text
from trm_jax.tasks.arc.files import Tasks
from trm_jax.tasks.arc.grids import COLORS, ArcTask, Pair
from trm_jax.train.checkpoint import Checkpoints
from trm_jax.train.config import CheckpointConfig
from trm_jax.train.writers import CHECKPOINTS


@dataclass(frozen=True)
class Plan:
    """What is learned, besides the recipe of an update."""

    recipe: adapt.Recipe
    steps: int = number(1000, low=1)
    last_lr: float = positive(1e-7)  # to which the rate falls from the recipe's
    limit: int = number(text.LIMIT, low=2)  # tokens of a text; leading pairs are dropped
    seed: int = 0

    def __post_init__(self):
        check(self, "finetune: ")

    def rate(self, step: int) -> float:
        """The learning rate of update `step`, from 0."""
        return self.recipe.lr + step / max(1, self.steps - 1) * (self.last_lr - self.recipe.lr)


@dataclass(frozen=True)
class Tuned:
    """What came of it, so far."""

    cfg: decoder.Config
    trained: dict  # {"lora": adapter}, or all parameters
    losses: list[float]  # before each step that was made
    finite: bool  # else the last step gave no number and changed nothing


def _known(task: ArcTask) -> list[Pair]:
    """Its pairs, without those that lack an answer."""
    return [pair for pair in task.pairs if pair.output is not None]


def require_short(tasks: Tasks, limit: int) -> None:
    """Raise InputError unless `limit` tokens hold every pair in every view: any may be the last one of a text."""
    for name, task in tasks.items():
        known = _known(task)
        for symmetry in text.SYMMETRIES[::4]:  # as it is and transposed: turns are as long as one of these
            for pair in text.View(symmetry, np.arange(COLORS), np.arange(len(known))).pairs(known):
                try:
                    text.training_text([pair], limit)
                except InputError as error:
                    raise InputError(f"task {name}: {error}; give a higher --limit, or leave the task out") from None


def lessons(tasks: Tasks, plan: Plan, step: int) -> list[adapt.Lesson]:
    """The texts of a step, of tasks drawn alike; pairs without an answer are left out."""
    rng, names, found = np.random.default_rng((plan.seed, step)), sorted(tasks), []
    for _ in range(plan.recipe.batch):
        known = _known(tasks[names[rng.integers(len(names))]])
        view = text.drawn(rng, int(rng.choice(text.SYMMETRIES)), len(known))
        found.append(text.training_text(view.pairs(known), plan.limit))
    return found


def finetune(
    cfg: decoder.Config,
    params: dict,
    tasks: Tasks,
    plan: Plan,
    folder: Path,
    known: Mapping,
    stopping: Callable[[], bool] = lambda: False,
    on_step: Callable[[int, float | None], None] = lambda step, loss: None,
    say: Callable[[str], None] = print,
    mesh: Mesh | None = None,
    parts: int = 1,
) -> Tuned:
    """Train until the plan is done, a loss is not finite, or `stopping()`; the same call goes on from there, exactly.

    cfg, params: of a decoder with 16 tokens. folder: has the checkpoints. known: what must be the same for work to go
    on, besides the plan, as the digests of model and data are. mesh, parts: as of `adapt.Trainer`; on other devices or
    in other parts work goes on to the same numbers but for rounding. Raises InputError where other work lies in
    `folder`, and for a batch that cannot be shared.
    """
    require_short(tasks, plan.limit)
    trainer, batch = adapt.Trainer(plan.recipe, cfg, mesh, "lessons", parts), plan.recipe.batch
    sharding.check_batch(trainer.mesh, sharding.Rules(), batch // parts, "a part of the batch,")
    state = trainer.start(adapt.begin(plan.recipe, cfg, params, plan.seed), 1)
    if plan.recipe.lora is None:
        params = {}  # they are all in the state
    known = json.loads(json.dumps({**known, "plan": dataclasses.asdict(plan)}))
    policy = CheckpointConfig()
    checkpoints = Checkpoints(str(folder.resolve() / CHECKPOINTS), "loss", policy, say)
    losses: list[float] = []
    try:
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
        if (newest := checkpoints.restore_latest(abstract)) is not None:
            _, state, meta = newest
            losses = meta["losses"]
            if other := [name for name in known if known[name] != meta["known"].get(name)]:
                raise InputError(f"{folder} holds work of another {other[0]}; give another --output")
        at = saved = len(losses)
        on_step(at, None)
        saved_at, waiting, finite = time.monotonic(), None, True
        while finite:
            going = at < plan.steps and not stopping()
            if going:
                texts = adapt.batch_of([lessons(tasks, plan, at)], batch)
                state, loss = trainer.update(params, state, texts, np.full(1, plan.rate(at), np.float32))
                at += 1
            if waiting is not None:  # of the step before, while this one is computed
                losses.append(float(waiting[0]))
                finite = math.isfinite(losses[-1])
                on_step(len(losses), losses[-1])
            waiting = loss if going else None
            if not going:
                break
            if time.monotonic() - saved_at > 60 * policy.every_minutes:
                said = [*losses, float(waiting[0])]
                if math.isfinite(said[-1]):
                    saved, saved_at = _save(checkpoints, at, state, known, said), time.monotonic()
        if finite and at > saved:
            _save(checkpoints, at, state, known, losses)
        checkpoints.wait()
    finally:
        checkpoints.close()
    return Tuned(trainer.cfg, jax.tree.map(lambda x: x[0], state["trained"]), losses, finite)


def _save(checkpoints: Checkpoints, step: int, state: dict, known: Mapping, losses: list[float]) -> int:
    checkpoints.save(step, state, {"known": known, "losses": losses})
    return step
