"""Threshold search: every completion of a prompt that is likelier than p, and what given replies cost.

Prefixes of one length exclude each other, so at most ceil(1 / p) - 1 of them are likelier than p. A beam of so many
rows that goes from length to length keeps them all, and finds what a search of the tree in any order finds, with fixed
shapes: one compiled step advances the rows of all prompts, and the rows of a prompt gather their parents' states.

For any family that `trm_jax.evals.decode` writes with. Of its state, the cache behind the prompts and all arrays with
an axis of rows follow their parents; the cache of a prompt is the same in all of its rows.
B = prompts, W = rows of a prompt, A = tokens that may go on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trm_jax import compiler
from trm_jax.errors import InputError
from trm_jax.evals.decode import CHUNK, Prompt, collate
from trm_jax.models.layers import round_up

UNLIMITED = 2**31 - 1


class Completion(NamedTuple):
    """A way to go on behind a prompt, to its end."""

    tokens: tuple[int, ...]  # the end among them
    nll: float  # over the whole vocabulary


@dataclass(frozen=True)
class Found:
    """What a search has found, likeliest first; complete: nothing is missing, for the budget was enough."""

    completions: list[Completion]
    complete: bool


class _Bounds(NamedTuple):
    """Of the search behind one prompt."""

    nll: np.float32  # of a prefix and of a completion, which is below it
    budget: np.int32  # prefixes that are asked what follows
    greedy: np.bool_  # the likeliest token alone may follow a prefix


class _Beam(NamedTuple):
    """The rows of all prompts, each a prefix and the token that is to follow it."""

    nll: jax.Array  # [B, W] float32 of prefix and token; infinite in a row that is free
    parent: jax.Array  # [B, W]: the row that the prefix stands in
    token: jax.Array  # [B, W]
    ends: jax.Array  # [B, W] float32 of the parent rows, if they ended here; infinite where that is too unlikely
    spent: jax.Array  # [B]: prefixes that were asked what follows
    cut: jax.Array  # [B]: whether the budget has ended the search


class Search:
    """Threshold search with models of one shape, compiled once for each size of prompts and width of the beam."""

    def __init__(self, family, cfg, rows: int, end: int, allowed: Sequence[int]):
        """rows: prompts at a time; allowed: tokens of completions, `end` among them."""
        self._family, self._cfg, self._rows, self._end = family, cfg, rows, end
        self._others = np.array([token for token in allowed if token != end], np.int32)
        how = {"compiler_options": compiler.options()}
        self._first = jax.jit(self._begin, static_argnames=("room", "width"), **how)
        self._more = jax.jit(self._chunk, static_argnames="size", donate_argnums=(1, 2), **how)

    def _expand(self, nll, logits, bounds: _Bounds, spent, cut) -> _Beam:
        """What follows rows of nll [B, W] with logits [B * W, V]."""
        width = nll.shape[1]
        alive = jnp.isfinite(nll).sum(-1, dtype=jnp.int32)
        over = (alive > 0) & (alive > bounds.budget - spent)
        nll = jnp.where(over[:, None], jnp.inf, nll)
        log_p = jax.nn.log_softmax(logits, axis=-1).reshape(*nll.shape, -1)
        end, others = log_p[..., self._end], log_p[..., self._others]
        likeliest = end >= others.max(-1)
        ends = jnp.where(bounds.greedy & ~likeliest, jnp.inf, nll - end)
        longer = jnp.where((bounds.greedy & likeliest)[..., None], jnp.inf, nll[..., None] - others)
        longer = longer.reshape(len(nll), -1)
        if longer.shape[1] < width:
            longer = jnp.pad(longer, ((0, 0), (0, width - longer.shape[1])), constant_values=jnp.inf)
        best, place = lax.top_k(-longer, width)
        kept = -best < bounds.nll
        parent, token = jnp.divmod(place, len(self._others))
        return _Beam(
            nll=jnp.where(kept, -best, jnp.inf),
            parent=jnp.where(kept, parent, jnp.arange(width)).astype(jnp.int32),
            token=jnp.where(kept, jnp.take(self._others, token), self._others[0]),
            ends=jnp.where(ends < bounds.nll, ends, jnp.inf),
            spent=spent + jnp.where(over, 0, alive),
            cut=cut | over,
        )

    def _begin(self, params, batch, bounds: _Bounds, room: int, width: int):
        state = self._family.begin(params, self._cfg, batch, room)
        prompts = len(batch["inputs"])
        state = _by_rows(lambda x, axis: jnp.repeat(x, width, axis), state)
        nll = jnp.full((prompts, width), jnp.inf).at[:, 0].set(0.0)
        blank = jnp.zeros(prompts, jnp.int32)
        return state, self._expand(nll, state["logits"], bounds, blank, blank > 0)

    def _chunk(self, params, state, beam: _Beam, bounds: _Bounds, size: int, longest):
        """At most CHUNK and `longest` more tokens: (state, beam, the beams of each [CHUNK, ...], their number).

        size: of the prompts, whose part of the cache stays where it is.
        """
        prompts, width = beam.parent.shape
        stay = jnp.broadcast_to(jnp.arange(width, dtype=jnp.int32), beam.parent.shape)
        said = jax.tree.map(lambda x: jnp.zeros((CHUNK, *x.shape), x.dtype), beam)

        def go_on(carry):
            at, _, beam, _ = carry
            return (at < jnp.minimum(CHUNK, longest)) & jnp.isfinite(beam.nll).any()

        def one(carry):
            at, state, beam, said = carry
            state = self._family.advance(params, self._cfg, state, beam.token.ravel())
            beam = self._expand(beam.nll, state["logits"], bounds, beam.spent, beam.cut)
            return at + 1, state, beam, jax.tree.map(lambda all, x: all.at[at].set(x), said, beam)

        def follow(carry):
            """Rows take their parents' states; then all go on until one has another parent than itself.

            A loop in the loop, and not a condition, which would copy the whole cache.
            """
            at, state, beam, said = carry
            rows = (beam.parent + width * jnp.arange(prompts)[:, None]).ravel()

            def moved(x, axis: int):
                return x[rows] if axis == 0 else x.at[:, :, size:].set(x[:, rows, size:])

            carry = at, _by_rows(moved, state), beam._replace(parent=stay), said
            return lax.while_loop(lambda carry: go_on(carry) & (carry[2].parent == stay).all(), one, carry)

        count, state, beam, said = lax.while_loop(go_on, follow, (jnp.int32(0), state, beam, said))
        return state, beam, said, count

    def __call__(
        self,
        params,
        prompts: Sequence[Prompt],
        probability: float,
        most: int,
        budget: int = UNLIMITED,
        stop: Callable[[], bool] = lambda: False,
    ) -> list[Found]:
        """What each prompt may go on with, in their order; prompts of about one length together.

        probability: of a completion, which is above it. most: tokens of one. budget: prefixes of a prompt that are
        asked what follows, the empty one among them. stop: asked after every CHUNK tokens; True ends the search. What
        budget and stop leave out makes a search incomplete.
        """
        if not 0 < probability < 1:
            raise InputError(f"the least probability is {probability}; give one between 0 and 1")
        bounds = _Bounds(np.float32(-math.log(probability)), np.int32(min(budget, UNLIMITED)), np.False_)
        return self._all(params, prompts, bounds, math.ceil(1 / probability) - 1, most, stop)

    def greedy(
        self, params, prompts: Sequence[Prompt], most: int, stop: Callable[[], bool] = lambda: False
    ) -> list[Found]:
        """The completion that has the likeliest of the allowed tokens at each place, if it ends within `most`."""
        return self._all(params, prompts, _Bounds(np.float32(np.inf), np.int32(UNLIMITED), np.True_), 1, most, stop)

    def _all(
        self, params, prompts: Sequence[Prompt], bounds: _Bounds, width: int, most: int, stop: Callable[[], bool]
    ) -> list[Found]:
        order = np.argsort([len(prompt["inputs"]) for prompt in prompts], kind="stable")
        found: list[Found] = [Found([], False)] * len(prompts)
        for first in range(0, len(order), self._rows):
            if stop():
                break
            numbers = order[first : first + self._rows].tolist()
            batch = [prompts[number] for number in numbers]
            for number, one in zip(numbers, self._batch(params, batch, bounds, width, most, stop), strict=True):
                found[number] = one
        return found

    def _batch(
        self, params, prompts: list[Prompt], bounds: _Bounds, width: int, most: int, stop: Callable[[], bool]
    ) -> Iterator[Found]:
        size = round_up(max(len(prompt["inputs"]) for prompt in prompts), CHUNK)
        filled = prompts + prompts[:1] * (self._rows - len(prompts))
        room = round_up(size + most, CHUNK)
        state, beam = self._first(params, collate(filled, size), bounds, room=room, width=width)
        levels, stopped = [jax.tree.map(lambda x: x[None], jax.device_get(beam))], False
        length = 1
        while length < most and np.isfinite(levels[-1].nll[-1]).any() and not (stopped := stop()):
            state, beam, said, count = self._more(params, state, beam, bounds, size=size, longest=most - length)
            count = int(count)
            levels.append(jax.tree.map(lambda x, count=count: x[:count], jax.device_get(said)))
            length += count
        beams = _Beam(*(np.concatenate(x) for x in zip(*levels, strict=True)))
        for row in range(len(prompts)):
            alive = stopped and bool(np.isfinite(beams.nll[-1, row]).any())
            yield Found(_completions(beams, row, self._end), not (alive or bool(beams.cut[-1, row])))


def _by_rows(change: Callable, state: dict) -> dict:
    """A state with change(array, axis) of each array that has an axis of rows."""

    def changed(axis: int, x):
        return change(x, axis) if x.ndim else x

    return {name: jax.tree.map(partial(changed, 1 if name == "cache" else 0), x) for name, x in state.items()}


def _completions(beams: _Beam, prompt: int, end: int) -> list[Completion]:
    """Those of one prompt, from the beams of every length."""
    found = []
    for length, row in np.argwhere(np.isfinite(beams.ends[:, prompt])).tolist():
        nll, tokens = float(beams.ends[length, prompt, row]), [end]
        for level in range(length - 1, -1, -1):
            tokens.append(int(beams.token[level, prompt, row]))
            row = int(beams.parent[level, prompt, row])
        found.append(Completion(tuple(reversed(tokens)), nll))
    return sorted(found, key=lambda one: (one.nll, one.tokens))


class Scorer:
    """What given replies cost one model, each behind its prompt, read at once."""

    def __init__(self, family, cfg, rows: int):
        """rows: replies at a time."""
        self._rows = rows

        def nll(params, batch, sizes):
            log_p = jax.nn.log_softmax(family.read(params, cfg, batch)[:, :-1], axis=-1)
            tokens = batch["inputs"][:, 1:]
            said = jnp.take_along_axis(log_p, tokens[..., None], -1)[..., 0]
            of_reply = jnp.arange(tokens.shape[1]) >= tokens.shape[1] - sizes[:, None]
            return -jnp.where(of_reply, said, 0.0).sum(-1)

        self._nll = jax.jit(nll, compiler_options=compiler.options())

    def __call__(self, params, prompts: Sequence[Sequence[int]], replies: Sequence[Sequence[int]]) -> np.ndarray:
        """[N] float32: the negative log-likelihood of each reply, over the whole vocabulary."""
        texts = [np.array([*one, *other], np.int32) for one, other in zip(prompts, replies, strict=True)]
        order, found = np.argsort([len(text) for text in texts], kind="stable"), np.zeros(len(texts), np.float32)
        for first in range(0, len(order), self._rows):
            numbers = order[first : first + self._rows]
            filled = [*numbers, *[numbers[0]] * (self._rows - len(numbers))]
            batch = collate([{"inputs": texts[n]} for n in filled], round_up(len(texts[numbers[-1]]), CHUNK))
            sizes = np.array([len(replies[n]) for n in filled], np.int32)
            found[numbers] = np.asarray(self._nll(params, batch, sizes))[: len(numbers)]
        return found
