"""Training adapters of a frozen decoder, one for each task, several tasks side by side in one program.

A lesson is a text as ids and which of them are learned. N = tasks side by side, R = lessons of an update, T = tokens of
the longest of them, rounded up to one of few sizes, so that tasks share what is compiled. Of several devices each
trains tasks of its own and answers them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import einops
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from trm_jax import compiler, optim, sharding
from trm_jax.losses import IGNORE, token_cross_entropy
from trm_jax.models import decoder, lora, target
from trm_jax.models import params as P
from trm_jax.models.layers import round_up
from trm_jax.optim.clip import clip, norms
from trm_jax.optim.schedules import warmup_cosine
from trm_jax.settings import check, number, positive

T = TypeVar("T")
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


def loss(params: dict, cfg: decoder.Config, batch: dict, count: jax.Array | None = None) -> jax.Array:
    """The cross-entropy of all learned tokens of a batch [R, T] by `count`, else their mean; 0 where there is none."""
    x, labels = decoder.features(params, cfg, batch["inputs"], batch["segments"]), batch["labels"]
    rows, length = labels.shape
    part = min(length, max(1, HEAD_TOKENS // rows))
    padding = (0, 0), (0, round_up(length, part) - length)
    # Parts of every row, since devices may share the rows.
    x = einops.rearrange(jnp.pad(x, (*padding, (0, 0))), "r (n t) d -> n r t d", t=part)
    of_part = einops.rearrange(jnp.pad(labels, padding, constant_values=IGNORE), "r (n t) -> n r t", t=part)

    @jax.checkpoint
    def add(total, of):
        x, labels = of
        return total + token_cross_entropy(decoder.head(params, cfg, x), labels, "softmax").sum(), None

    total, _ = lax.scan(add, jnp.float32(0), (x, of_part))
    return total / (learned(labels) if count is None else count)


def learned(labels: jax.Array) -> jax.Array:
    """How many tokens are learned, at least 1."""
    return jnp.maximum(1, jnp.sum(labels != IGNORE))


class Trainer:
    """The updates of one recipe for one decoder, on the devices of a mesh.

    They share the tasks along `data`, or the lessons of an update along `data` and `fsdp`; what is trained is cut as
    `sharding.Rules` has it, and so should the base be. Every process has a mesh of its own.
    """

    def __init__(
        self, recipe: Recipe, cfg: decoder.Config, mesh: Mesh | None = None, shared: str = "tasks", parts: int = 1
    ):
        """mesh: of the first device by default; shared: by its devices, "tasks" or "lessons"; parts: lessons of an
        update are learned a part at a time, in the memory of one."""
        self.recipe, self.cfg, self._parts = recipe, recipe.model(cfg), parts
        self.mesh = sharding.make_mesh(devices=jax.devices()[:1]) if mesh is None else mesh
        self.groups = sharding.groups(self.mesh)
        self._specs = recipe.specs(cfg)
        rules = sharding.Rules(batch=None) if shared == "tasks" else sharding.Rules()
        tasks = "data" if shared == "tasks" else None

        def there(place: NamedSharding) -> NamedSharding:
            return NamedSharding(self.mesh, PartitionSpec(tasks, *place.spec))

        lies, whole = sharding.shardings(self.mesh, rules, self._specs), sharding.replicated(self.mesh)
        state = jax.eval_shape(self._optimiser(0.0).init, P.abstract(self._specs))
        beside = sharding.beside(self.mesh, self._specs, lies, state)
        self.lies = jax.tree.map(there, {"trained": lies, "optimiser": beside, "finite": whole})
        self.task_lies = there(whole)
        self.batch_lies = NamedSharding(self.mesh, PartitionSpec(tasks, rules.batch))
        how = {"compiler_options": compiler.options()}
        update = jax.vmap(self._one, in_axes=(None, 0, 0, 0), spmd_axis_name=tasks)
        update = sharding.traced_on(self.mesh, rules)(update)
        self.program = jax.jit(update, donate_argnums=1, out_shardings=(self.lies, self.task_lies), **how)
        self._begin = jax.jit(self._first, static_argnames="tasks", out_shardings=self.lies, **how)

    def _optimiser(self, rate) -> optax.GradientTransformation:
        how = self.recipe
        return optim.build("adamw", self._specs, rate, b1=0.9, b2=how.b2, weight_decay=how.weight_decay)

    def _first(self, start: dict, tasks: int) -> dict:
        one = {"trained": start, "optimiser": self._optimiser(0.0).init(start), "finite": jnp.array(True)}
        return jax.tree.map(lambda x: jnp.broadcast_to(x, (tasks, *x.shape)), one)

    def _gradients(self, params: dict, trained: dict, batch: dict) -> tuple[jax.Array, dict]:
        """(the loss of an update of one task, its gradients)."""
        cfg = dataclasses.replace(self.cfg, remat=True)  # texts are long, and attention's scores grow with their square

        def of(whole, batch):
            params, trained, count = whole
            return jax.value_and_grad(lambda x: loss(adapted(params, x, self.recipe), cfg, batch, count))(trained)

        def by_parts(whole, batch):
            """Neighbouring lessons go to different parts, so that every device has some of each."""
            pieces = jax.tree.map(lambda x: x.reshape(-1, self._parts, x.shape[1]).swapaxes(0, 1), batch)
            zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), whole[1])
            add = partial(jax.tree.map, jnp.add)
            total, _ = lax.scan(lambda total, piece: (add(total, of(whole, piece)), None), (0.0, zeros), pieces)
            return total[0], jax.tree.map(lambda x, like: x.astype(like.dtype), total[1], whole[1])

        compute = of if self._parts == 1 else by_parts
        whole = params, trained, learned(batch["labels"])
        if self.mesh.shape["fsdp"] > 1:  # its devices do not have all of the weights
            return compute(whole, batch)
        return target.summed_over_devices(lambda *given: (compute(*given), ()), whole, batch)[0]

    def _one(self, params: dict, state: dict, batch: dict, rate: jax.Array) -> tuple[dict, jax.Array]:
        """An update of one task."""
        value, grads = self._gradients(params, state["trained"], batch)
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

    def abstract(self, tasks: int) -> dict:
        """The same as abstract arrays that know where they lie."""
        state = jax.eval_shape(partial(self._first, tasks=tasks), P.abstract(self._specs))
        return jax.tree.map(lambda x, lie: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=lie), state, self.lies)

    def update(self, params: dict, state: dict, batch: dict, rates: np.ndarray) -> tuple[dict, jax.Array]:
        """(state after an update, losses before it [N]); batch: of `batch_of`; rates [N]: learning rates.

        A task that has nothing to learn stays as it is; one whose loss or gradient is not finite does so from then on,
        and its losses are NaN.
        `state` must not be used again.
        """
        batch, rates = jax.device_put((batch, rates), (self.batch_lies, self.task_lies))
        state, losses = self.program(params, state, batch, rates)
        if not sharding.may_queue(self.mesh):
            jax.block_until_ready(losses)
        return state, losses


@dataclass
class Trained:
    """What became of a task's training."""

    state: dict  # of all tasks side by side, as `begin` has one [N, ...]
    task: int  # among them
    trainer: Trainer
    losses: list[float] = field(default_factory=list)  # before each update that was made
    updates: int = 0  # that were to be made
    finite: bool = True  # else the weights are those before the update that gave no number

    @property
    def each(self) -> int:
        """Tasks of a group."""
        return len(jax.tree.leaves(self.state)[0]) // len(self.trainer.groups)

    @property
    def group(self) -> int:
        """Of `Trainer.groups`, the one that has its weights."""
        return self.task // self.each

    @property
    def weights(self) -> dict:
        """As `begin` has them, on the devices of its group."""
        mesh, groups = self.trainer.mesh, self.trainer.groups
        there = sharding.of_group(self.state, mesh, groups[self.group])
        return jax.tree.map(lambda x: x[self.task % self.each], there)

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

    tasks: how many the program is compiled for at least, where there may be fewer courses. go_on(updates made, losses
    of the last one) is called while the next one is computed; False ends the training.
    """
    recipe, real = trainer.recipe, len(courses)
    tasks = round_up(max(real, tasks), len(trainer.groups))
    courses = [*courses, *[Course([], np.zeros((0, recipe.batch), int))] * (tasks - real)]
    state = trainer.start(start, tasks)
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
            if not np.isfinite(before[learning]).any() or not go_on(at, before[:real].tolist()):
                break
    finite, losses = np.asarray(state["finite"]), np.array(jax.device_get(found)).reshape(len(found), tasks)
    result = []
    for task, one in enumerate(courses[:real]):
        made = losses[: len(one.order), task].tolist()
        result.append(Trained(state["trained"], task, trainer, made, len(one.order), bool(finite[task])))
    return result


def answers(trained: Sequence[Trained], wanted: Iterable[int], answer: Callable[[int], T]) -> Iterator[T]:
    """answer(number of a task) for those wanted, as they come. Each group of devices answers the tasks that it trained,
    one after another, beside the others. Where one fails, those that are at work are waited for, and come first."""
    wanted = [(number, trained[number].group) for number in wanted]
    trainer = trained[0].trainer

    def of(number: int, group: int) -> T:
        with sharding.traced_on(trainer.groups[group], sharding.Rules()):
            return answer(number)

    used = sorted({group for _, group in wanted})
    if len(used) < 2 or not (trainer.mesh.shape["tensor"] == 1 or sharding.may_queue(trainer.mesh)):
        for one in wanted:
            yield of(*one)
        return
    with ExitStack() as open:
        workers = {group: open.enter_context(ThreadPoolExecutor(1)) for group in used}
        futures, failed = [workers[group].submit(of, number, group) for number, group in wanted], None
        try:
            for future in as_completed(futures):
                if future.cancelled():
                    continue
                if error := future.exception():
                    failed = failed or error
                    for other in futures:
                        other.cancel()
                else:
                    yield future.result()
            if failed:
                raise failed
        finally:
            for future in futures:
                future.cancel()
