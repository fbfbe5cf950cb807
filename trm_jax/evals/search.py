"""Search at test time: many rollouts of a puzzle, each to several depths, and every way to select one, in one pass.

Rollouts of a puzzle differ by noise on the latents (PTRM, arXiv 2605.19943), by starts and noise of the family's own
(EqR, arXiv 2605.21488), or by the symmetry through which each sees it. Rollout 0 without noise is plain inference.

R = rollouts, K = depths, J = breadths, B = batch, S = puzzle tokens.
"""

from __future__ import annotations

import dataclasses
import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jax.sharding import NamedSharding, PartitionSpec

from trm_jax import compiler, sharding
from trm_jax.data.dataset import EvalSource
from trm_jax.errors import InputError
from trm_jax.evals.runner import Evaluator
from trm_jax.models.row_keys import draw, fold, keys_of

SELECTIONS = ("q", "vote", "residual", "valid", "any")
TRANSITIONS = 3  # the last ones, over which the residual is a mean


@dataclass(frozen=True)
class Search:
    """What is searched: how deep, how broad, and what makes rollouts differ."""

    depths: tuple[int, ...]  # supervision steps, ascending
    rollouts: int = 1
    noise: float = 0.0  # standard deviation, before every supervision step
    noise_on: str = ""  # z_H, z_L or both; empty: the latent that the heads read
    last_quiet: bool = False  # no noise before the last step of the largest depth
    symmetries: bool = False  # every rollout but the first sees the puzzle in a form of its own
    seed: int = 0  # of noise and forms

    @property
    def breadths(self) -> tuple[int, ...]:
        """1, 2, 4, ... and all rollouts."""
        powers = (2**i for i in range(self.rollouts.bit_length()))
        return (*(breadth for breadth in powers if breadth < self.rollouts), self.rollouts)


@struct.dataclass
class Found:
    """What a rollout says of a batch at each depth."""

    answers: jax.Array  # [..., K, B, S] int32
    q_halt: jax.Array  # [..., K, B]
    residual: jax.Array  # [..., K, B] float32, see `rollout`


def random(family: Any) -> bool:
    """Whether the family's evaluation draws numbers by itself."""
    return getattr(family, "RANDOM", False)


def selections(cfg: Any) -> tuple[str, ...]:
    """Those of `SELECTIONS` that the task of a `RunConfig` can make; the one to take comes from `usual`."""
    return tuple(name for name in SELECTIONS if name != "valid" or hasattr(cfg.task, "valid"))


def usual(cfg: Any) -> str:
    """The published selection of a family: by q, of one that draws numbers by its residual."""
    return "residual" if random(cfg.family) else "q"


def calls(cfg: Any) -> int:
    """Calls of its nets in one supervision step."""
    return sum(frozen + graded for _, frozen, graded in cfg.model.calls)


def noisy(family: Any, noise_on: str) -> tuple[str, ...]:
    """The latents that `Search.noise_on` names, none where the family has no such."""
    latents = tuple(family.LATENTS)
    if noise_on in ("", "both"):
        return latents if noise_on else latents[:1]
    return tuple(name for name in latents if name.startswith(noise_on))


def forms(cfg: Any, search: Search) -> tuple[np.ndarray, np.ndarray] | None:
    """The forms (cells [R, S], tokens [R, V]) in which rollouts see a puzzle; None for all as it is.

    Raises InputError for a search that the run cannot make.
    """
    plain = "give none of --rollouts, --noise and --symmetries, and one number of --steps"
    if not hasattr(cfg.family, "LATENTS"):
        raise InputError(f"this model answers at once, with no latents to search with; {plain}")
    if hasattr(cfg.task, "ballot"):
        said = "this task votes over the forms of a puzzle, and a search needs a score of each answer"
        raise InputError(f"{said}; {plain}")
    if not noisy(cfg.family, search.noise_on):
        there = ", ".join(cfg.family.LATENTS)
        raise InputError(f"--noise-on {search.noise_on}: this model has no such latent, but {there}")
    made = None
    if search.symmetries:
        if not hasattr(cfg.task, "symmetries"):
            raise InputError("--symmetries: this task knows none; leave it out")
        made = cfg.task.symmetries(cfg.data, search.rollouts, search.seed)
    if not search.noise and not random(cfg.family):
        differ = 1 if made is None else len(np.unique(np.concatenate(made, axis=1), axis=0))
        if differ < search.rollouts:
            more = "" if made else ", or --symmetries"
            raise InputError(f"only {differ} of {search.rollouts} rollouts would differ; add --noise 0.3{more}")
    return made


@struct.dataclass
class _State:
    """A rollout on its way."""

    carry: Any
    logits: jax.Array  # [B, S, V] float32, of the last step
    moves: jax.Array  # [TRANSITIONS, B] float32
    found: Found  # [K, B, ...], of the depths that were reached


def _begin(cfg: Any, search: Search, rows: int) -> _State:
    per_row = jnp.zeros((len(search.depths), rows), jnp.float32)
    found = Found(jnp.zeros((*per_row.shape, cfg.model.seq_len), jnp.int32), per_row, per_row)
    logits = jnp.zeros((rows, cfg.model.seq_len, cfg.model.vocab_size))
    return _State(cfg.family.initial_carry(cfg.model, rows), logits, jnp.zeros((TRANSITIONS, rows)), found)


def _think(params: dict, cfg: Any, search: Search, batch: Mapping, number: Any, form: Any, state: _State, steps: tuple):
    """The state after the supervision steps from steps[0] to before steps[1]; the other arguments: as of `rollout`."""
    deepest, depths = search.depths[-1], jnp.array(search.depths)
    model = dataclasses.replace(cfg.model, halt_max_steps=deepest)  # no row ends before
    keys = fold(keys_of(search.seed, batch["inputs"]), number)
    own = {"rollout": number} if random(cfg.family) else {}
    if form:
        cells, tokens = map(jnp.asarray, form)
        batch = {**batch, "inputs": tokens[batch["inputs"][:, cells]].astype(batch["inputs"].dtype)}

    def disturb(carry, t):
        quiet = search.last_quiet & (t == deepest - 1)
        of_step = fold(keys, t)
        latents = {name: getattr(carry, name) for name in noisy(cfg.family, search.noise_on)}
        for place, (name, z) in enumerate(latents.items()):
            drawn = draw(lambda key, shape=z.shape[1:]: jax.random.normal(key, shape), fold(of_step, place))
            latents[name] = z + jnp.where(quiet, 0, search.noise * drawn).astype(z.dtype)
        return carry.replace(**latents)

    def step(t, state):
        noise = {"disturb": lambda carry: disturb(carry, t)} if search.noise else {}
        carry, out = cfg.family.step(params, model, state.carry, batch, **noise, **own)
        logits = out.logits.astype(jnp.float32)
        moved = jnp.linalg.norm(logits - state.logits, axis=-1).mean(-1)
        moves = jnp.where(t > 0, jnp.concatenate([state.moves[1:], moved[None]]), state.moves)
        residual = moves.sum(0) / jnp.clip(t, 1, TRANSITIONS)
        says = Found(jnp.argmax(out.logits, -1).astype(jnp.int32), out.q_halt, residual)
        # Where the next depth asked for is kept: its own step is the last that writes there.
        place = (depths < t + 1).sum()
        kept = jax.tree.map(lambda all, one: lax.dynamic_update_index_in_dim(all, one, place, 0), state.found, says)
        return _State(carry, logits, moves, kept)

    return lax.fori_loop(*steps, step, state)


def _turned_back(found: Found, form: tuple | None) -> Found:
    """Answers as to the puzzle itself of those to its form."""
    if not form:
        return found
    cells, tokens = map(jnp.asarray, form)
    return found.replace(answers=jnp.argsort(tokens)[found.answers[..., jnp.argsort(cells)]].astype(jnp.int32))


def rollout(params: dict, cfg: Any, search: Search, batch: Mapping, number: Any, form: tuple | None = None) -> Found:
    """Rollout `number` of a batch: [K, B, ...]. form: (cells [S], tokens [V]), see `trm_jax.tasks.Task`.

    The noise of a row is a function of the seed, its puzzle, the rollout, the step and the latent. The residual of a
    row at a depth is the mean over its last three transitions and all tokens of |logits_t - logits_{t-1}| over the
    vocabulary, in float32; after one step there is none, and it is 0.
    """
    state = _begin(cfg, search, batch["inputs"].shape[0])
    state = _think(params, cfg, search, batch, number, form, state, (0, search.depths[-1]))
    return _turned_back(state.found, form)


def select(numbers: jax.Array, found: Found, valid: jax.Array | None, breadths: Sequence[int]) -> dict[str, jax.Array]:
    """Which of given rollouts each rule selects among those whose number is below each of the breadths: their places.

    numbers [R] int32, in any order, with 0 among them; found and valid [R, ...], of each; returns rule -> [J, ...]
    int32. q: the largest q_halt. vote: the most frequent whole answer. residual: the smallest. valid: a valid answer,
    what q selects where there is none. Of those that tie, the lowest number.
    """
    alike = lax.map(lambda answer: (found.answers == answer).all(-1), found.answers)
    number = numbers.reshape(-1, *(1,) * (found.q_halt.ndim - 1))

    def best(score, among):
        score = jnp.where(among, score, -jnp.inf)
        return jnp.argmin(jnp.where(among & (score == score.max(0)), number, jnp.iinfo(jnp.int32).max), axis=0)

    chosen = []
    for breadth in breadths:
        among = number < breadth
        rules = {
            "q": best(found.q_halt, among),
            "vote": best((alike & among[None]).sum(1, dtype=jnp.float32), among),
            "residual": best(-found.residual, among),
        }
        if valid is not None:
            rules["valid"] = jnp.where((valid & among).any(0), best(0.0, among & valid), rules["q"])
        chosen.append(rules)
    return {rule: jnp.stack([rules[rule] for rules in chosen]) for rule in chosen[0]}


def pass_at(breadths: Sequence[int], rollouts: int) -> np.ndarray:
    """[J, rollouts + 1]: the chance that one of `breadth` is right of so many, drawn from all, of which c are right."""
    return np.array(
        [[1 - math.comb(rollouts - c, k) / math.comb(rollouts, k) for c in range(rollouts + 1)] for k in breadths],
        np.float32,
    )


def _judge(cfg: Any, search: Search, batch: Mapping, counted: jax.Array, each: Sequence[Found], shown: tuple | None):
    """The sums of `Searcher` from the rollouts of a batch."""
    found = jax.tree.map(lambda *of: jnp.stack(of), *each)
    if shown:
        found = lax.map(lambda one: _turned_back(*one), (found, shown))
    checks, breadths = hasattr(cfg.task, "valid"), search.breadths

    def score(answer, row, counts):
        one = jax.tree.map(lambda x: x[None], (answer, row, counts))
        sums = cfg.task.score(cfg.data, *one)
        return sums[cfg.task.headline], sums["count"]

    def of_rollout(answers):
        right, counts = jax.vmap(jax.vmap(score), (0, None, None))(answers, batch, counted)
        return right, counts[0], jax.vmap(lambda a: cfg.task.valid(cfg.data, a, batch))(answers) if checks else None

    right, counts, valid = lax.map(of_rollout, found.answers)
    chosen = select(np.arange(search.rollouts, dtype=np.int32), found, valid, breadths)
    rights = {rule: jnp.take_along_axis(right, places, axis=0) for rule, places in chosen.items()}
    rights["any"] = jnp.array(pass_at(breadths, search.rollouts))[:, right.sum(0).round().astype(jnp.int32)]
    if checks:
        some = jnp.stack([valid[:breadth].any(0) for breadth in breadths])
        rights |= {"found": some * counts[0], "found_right": rights["valid"] * some}
    return {**{name: x.sum(-1, dtype=jnp.float32) for name, x in rights.items()}, "count": counts[0].sum()}


class Searcher:
    """Searches a fixed set of puzzles with a run; compiled once. cfg: a `RunConfig`, whose `eval` says how many.

    The device is given a piece of a rollout at a time, as long as a plain evaluation of its batch, so that a search
    can be stopped between any two. Raises InputError for a search that the run cannot make.
    """

    def __init__(self, cfg: Any, data: EvalSource, mesh, search: Search):
        self._shown, self._search = forms(cfg, search), search
        self._of = Evaluator(cfg, data, mesh)
        self._piece = min(cfg.model.halt_max_steps, search.depths[-1])
        self._ahead = int(sharding.may_queue(mesh))
        self.batches = self._of.num_batches
        self.pieces = search.rollouts * math.ceil(search.depths[-1] / self._piece)  # of a batch
        rows, traced = self._of.rows, sharding.traced_on(mesh, sharding.Rules())
        shared = sharding.batch_sharding(mesh, sharding.Rules())
        second = NamedSharding(mesh, PartitionSpec(None, *shared.spec))  # where the batch is the second axis
        how = {"compiler_options": compiler.options(cfg.train.deterministic)}
        state = {"out_shardings": _State(shared, shared, second, second), **how}
        self._begin = jax.jit(traced(lambda: _begin(cfg, search, rows)), **state)
        self._think = jax.jit(traced(lambda params, *rest: _think(params, cfg, search, *rest)), **state)
        judge = traced(lambda *rest: _judge(cfg, search, *rest, self._shown))
        self._judge = jax.jit(judge, out_shardings=sharding.replicated(mesh), **how)

    def batch(self, params: dict, index: int, on_piece: Callable[[int], Any] | None = None) -> dict[str, np.ndarray]:
        """Sums over the rows of batch `index` that count. on_piece(done) is called before each piece of the batch.

        "count"; a rule of `SELECTIONS` -> [J, K] of the task's headline (any: at least one right, its unbiased
        estimate from all rollouts); with `Task.valid`, "found" [J, K]: rows with a valid answer, and "found_right"
        [J, K]: the headline of the first of them.
        """
        batch, counted = self._of.batch(index, self._of.total)
        deepest, begun, each, waiting, done = self._search.depths[-1], self._begin(), [], deque(), 0
        for number in range(self._search.rollouts):
            state, form = begun, self._shown and tuple(part[number] for part in self._shown)
            for first in range(0, deepest, self._piece):
                if on_piece:
                    on_piece(done)
                steps = np.int32(first), np.int32(min(first + self._piece, deepest))
                state, done = self._think(params, batch, np.int32(number), form, state, steps), done + 1
                waiting.append(state.moves)
                while len(waiting) > self._ahead:  # the host is no further ahead than one piece
                    jax.block_until_ready(waiting.popleft())
            each.append(state.found)
        return jax.device_get(self._judge(batch, counted, each))


def table(cfg: Any, search: Search, sums: Mapping) -> list[dict]:
    """Added sums as rows {"steps", "rollouts", "calls", each selection: its score}, the deepest and broadest last.

    calls: of nets, for a puzzle. With `Task.valid` also "abstained", the share of puzzles without a valid answer, and
    "where_valid", the score of the others (None where there are none).
    """
    rows, count = [], float(sums["count"])
    for k, steps in enumerate(search.depths):
        for j, breadth in enumerate(search.breadths):
            row = {"steps": steps, "rollouts": breadth, "calls": steps * breadth * calls(cfg)}
            row |= {rule: float(sums[rule][j, k] / count) for rule in selections(cfg)}
            if "found" in sums:
                found, right = float(sums["found"][j, k]), float(sums["found_right"][j, k])
                row |= {"abstained": 1 - found / count, "where_valid": right / found if found else None}
            rows.append(row)
    return rows
