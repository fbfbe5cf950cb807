"""Training adapters of a frozen decoder, one for each task, several tasks side by side in one program.

A lesson is a text as ids and which of them are learned. N = tasks side by side, R = lessons of an update, T = tokens of
the longest of them, rounded up to one of few sizes, so that tasks share what is compiled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from trm_jax import compiler, optim
from trm_jax.losses import IGNORE, token_cross_entropy
from trm_jax.models import decoder, lora
from trm_jax.models import params as P
from trm_jax.models.layers import round_up
from trm_jax.optim.clip import clip, norms
from trm_jax.optim.schedules import warmup_cosine
from trm_jax.settings import check, number, positive

Lesson = tuple[np.ndarray, np.ndarray]  # ids [T] int32, learned [T] bool
HEAD_TOKENS = 1024  # whose logits are there at a time: those of a whole batch may take more memory than the model
WHOLE = ("embed", "head")


@dataclass(frozen=True)
class Recipe:
    """How an adapter is trained."""

    lora: lora.Lora | None  # None: all weights are trained
    lr: float = positive(5e-5)
    epochs: int = number(2, low=1)
    batch: int = number(2, low=1)  # lessons of an update
    warmup: int | None = None  # updates; None: a tenth of all, rounded down
    b2: float = number(0.999, below=1)
    weight_decay: float = number(0.01)
    clip: float = number(0.0)  # the largest norm of a gradient; 0: any
    whole: bool = False  # embedding and head are trained too, as copies apart from each other
    dtype: str | None = None  # of the adapter and the optimiser's state; None: the model's

    def __post_init__(self):
        check(self, "recipe: ")

    def model(self, cfg: decoder.Config) -> decoder.Config:
        """The decoder that the trained weights belong to."""
        return dataclasses.replace(cfg, tied=False) if self.whole else cfg

    def specs(self, cfg: decoder.Config) -> dict:
        """The declaration of what is trained for a task."""
        base = decoder.specs(self.model(cfg))
        if self.lora is None:
            return base
        found = {"lora": lora.specs(base, self.lora, jnp.dtype(self.dtype or cfg.dtype))}
        return found | ({name: base[name] for name in WHOLE} if self.whole else {})

    def rates(self, updates: int) -> np.ndarray:
        """The learning rate of each update [updates] float32: the first of a warm-up has none."""
        warmup = updates // 10 if self.warmup is None else self.warmup
        return np.asarray(warmup_cosine(np.arange(updates), self.lr, warmup, updates, 0.0))


def begin(recipe: Recipe, cfg: decoder.Config, params: dict, seed: int = 0) -> dict:
    """What is trained, at its start, which is the same for every task: an adapter that changes nothing yet, and copies
    of embedding and head where the recipe wants them; or all there is."""
    made = dict(params) if recipe.lora is None else {}
    if recipe.whole:
        head = params["embed"].T if cfg.tied else params["head"]
        made |= {"embed": jnp.copy(params["embed"]), "head": jnp.copy(head)}
    return made if recipe.lora is None else {**made, "lora": P.init(recipe.specs(cfg)["lora"], jax.random.key(seed))}


def adapted(params: dict, trained: dict, recipe: Recipe) -> dict:
    """A decoder's parameters with what was trained in them or beside them; its config is `recipe.model(cfg)`."""
    return {**params, **trained, **({"lora": (trained["lora"], recipe.lora.scale)} if recipe.lora else {})}


@dataclass(frozen=True, eq=False)
class Course:
    """What a task's adapter is trained on, update by update."""

    lessons: Sequence[Lesson]
    order: np.ndarray  # [updates, R] numbers of lessons


def course(lessons: Sequence[Lesson], recipe: Recipe, rng: np.random.Generator) -> Course:
    """Every epoch in an order of its own; lessons that fill no whole update at the end are left out."""
    epochs = [rng.permutation(len(lessons)) for _ in range(recipe.epochs)]
    updates = len(lessons) * recipe.epochs // recipe.batch
    return Course(lessons, np.concatenate(epochs)[: updates * recipe.batch].reshape(updates, recipe.batch))


def bucket(length: int) -> int:
    """The size that texts of a length are padded to: powers of two from 128, and halfway between them."""
    power = max(128, 1 << (length - 1).bit_length())
    between = power * 3 // 4
    return between if power > 128 and length <= between else power


def batch_of(updates: Sequence[Sequence[Lesson]], rows: int) -> dict[str, np.ndarray]:
    """An update of several tasks, {"inputs", "labels", "segments"} [N, R, T] int32; no lessons: nothing to learn."""
    size = bucket(max((len(ids) for lessons in updates for ids, _ in lessons), default=1))
    inputs = np.zeros((len(updates), rows, size), np.int32)
    labels, segments = np.full_like(inputs, IGNORE), np.full_like(inputs, -1)
    for task, lessons in enumerate(updates):
        for row, (ids, learned) in enumerate(lessons):
            inputs[task, row, : len(ids)] = ids
            labels[task, row, : len(ids) - 1] = np.where(learned, ids, IGNORE)[1:]  # a token foretells the next
            segments[task, row, : len(ids)] = 0
    return {"inputs": inputs, "labels": labels, "segments": segments}


def loss(params: dict, cfg: decoder.Config, batch: dict) -> jax.Array:
    """The mean cross-entropy over all learned tokens of a batch [R, T], []; 0 where there is none."""
    x = decoder.features(params, cfg, batch["inputs"], batch["segments"])
    count = batch["labels"].size
    part = min(HEAD_TOKENS, count)
    padding = round_up(count, part) - count
    x = jnp.pad(x.reshape(count, -1), ((0, padding), (0, 0))).reshape(-1, 1, part, x.shape[-1])
    labels = jnp.pad(batch["labels"].reshape(-1), (0, padding), constant_values=IGNORE).reshape(-1, 1, part)

    @jax.checkpoint
    def add(total, of):
        x, labels = of
        return total + token_cross_entropy(decoder.head(params, cfg, x), labels, "softmax").sum(), None

    total, _ = lax.scan(add, jnp.float32(0), (x, labels))
    return total / jnp.maximum(1, jnp.sum(batch["labels"] != IGNORE))


class Trainer:
    """The updates of one recipe for one decoder."""

    def __init__(self, recipe: Recipe, cfg: decoder.Config):
        self.recipe, self.cfg = recipe, recipe.model(cfg)
        self._specs = recipe.specs(cfg)
        how = {"compiler_options": compiler.options()}
        self._update = jax.jit(jax.vmap(self._one, in_axes=(None, 0, 0, 0)), donate_argnums=1, **how)
        self._begin = jax.jit(self._first, static_argnames="tasks", **how)

    def _optimiser(self, rate) -> optax.GradientTransformation:
        how = self.recipe
        return optim.build("adamw", self._specs, rate, b1=0.9, b2=how.b2, weight_decay=how.weight_decay)

    def _first(self, start: dict, tasks: int) -> dict:
        one = {"trained": start, "optimiser": self._optimiser(0.0).init(start), "finite": jnp.array(True)}
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (tasks, *x.shape)), one)

    def _one(self, params: dict, state: dict, batch: dict, rate: jax.Array) -> tuple[dict, jax.Array]:
        """An update of one task."""

        cfg = dataclasses.replace(self.cfg, remat=True)  # texts are long, and attention's scores grow with their square

        def of(trained):
            return loss(adapted(params, trained, self.recipe), cfg, batch)

        value, grads = jax.value_and_grad(of)(state["trained"])
        norm = norms(grads)
        updates, optimiser = self._optimiser(rate).update(
            clip(grads, norm, self.recipe.clip), state["optimiser"], state["trained"]
        )
        new = {"trained": optax.apply_updates(state["trained"], updates), "optimiser": optimiser}
        learns = jnp.any(batch["labels"] != IGNORE)
        finite = state["finite"] & (~learns | (jnp.isfinite(value) & jnp.isfinite(norm)))
        kept = {name: state[name] for name in new}
        kept = jax.tree.map(lambda new, old: jnp.where(finite & learns, new, old), new, kept)
        return {**kept, "finite": finite}, jnp.where(finite | ~learns, value, jnp.nan)

    def start(self, start: dict, tasks: int) -> dict:
        """The state {"trained", "optimiser", "finite"} of tasks side by side [N, ...] before their first update."""
        return self._begin(start, tasks=tasks)

    def update(self, params: dict, state: dict, batch: dict, rates: np.ndarray) -> tuple[dict, jax.Array]:
        """(state after an update, losses before it [N]); batch: of `batch_of`; rates [N]: learning rates.

        A task that has nothing to learn stays as it is; one whose loss or gradient is not finite does so from then on,
        and its losses are NaN.
        `state` must not be used again.
        """
        return self._update(params, state, batch, rates)


@dataclass
class Trained:
    """What became of a task's training."""

    weights: dict  # as `begin` has them
    losses: list[float] = field(default_factory=list)  # before each update that was made
    updates: int = 0  # that were to be made
    finite: bool = True  # else the weights are those before the update that gave no number

    def told(self) -> dict[str, str | float]:
        """For a task's record."""
        known = [round(loss, 4) for loss in self.losses if np.isfinite(loss)]
        ends = {"first loss": known[0], "last loss": known[-1]} if known else {}
        return {"updates": f"{len(self.losses)}/{self.updates}", **ends}

    def fault(self) -> str | None:
        """What ended the training of a task that is to be given up."""
        if self.finite:
            return None
        return f"loss or gradient of update {int(np.argmin(np.isfinite(self.losses)))} was no number"


def train(
    trainer: Trainer,
    params: dict,
    start: dict,
    courses: Sequence[Course],
    go_on: Callable[[int, list[float]], bool] = lambda made, losses: True,
    tasks: int = 0,
) -> list[Trained]:
    """Train an adapter for each course, side by side.

    tasks: how many the program is compiled for, where there may be fewer courses. go_on(updates made, losses of the
    last one) is called while the next one is computed; False ends the training.
    """
    recipe, real = trainer.recipe, len(courses)
    courses = [*courses, *[Course([], np.zeros((0, recipe.batch), int))] * (tasks - real)]
    state = trainer.start(start, len(courses))
    rates = [recipe.rates(len(one.order)) for one in courses]
    found: list[Any] = []
    for at in range(max((len(one.order) for one in courses), default=0)):
        lessons = [[one.lessons[place] for place in one.order[at]] if at < len(one.order) else [] for one in courses]
        rate = np.array([some[at] if at < len(some) else 0 for some in rates], np.float32)
        state, losses = trainer.update(params, state, batch_of(lessons, recipe.batch), rate)
        found.append(losses)
        if at:
            before = np.asarray(found[-2])
            learning = [task for task, one in enumerate(courses) if at < len(one.order)]
            if not np.isfinite(before[learning]).any() or not go_on(at, before.tolist()):
                break
    finite, losses = np.asarray(state["finite"]), np.array(jax.device_get(found)).reshape(len(found), len(courses))
    result = []
    for task, one in enumerate(courses[:real]):
        made = losses[: len(one.order), task].tolist()
        result.append(Trained(_slice(state["trained"], task), made, len(one.order), bool(finite[task])))
    return result


def _slice(tree: dict, task: int) -> dict:
    return jax.tree.map(lambda x: x[task], tree)
