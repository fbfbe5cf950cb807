"""Writing answers token by token, the likeliest or drawn: batched, with a cache of static size that grows in steps.

A family that can write has three functions: begin(params, cfg, batch, room) -> state, whose "logits" [B, V] are those
of the first token behind the prompts; advance(params, cfg, state, tokens) -> state; and, for drafts, read(params, cfg,
batch) -> logits [B, S, V] of the token that follows each. A state's "cache" is a tree of [L, B, room, ...] and "seen"
is [B, room]. Of a family with a model for each task, params are those of one model (`family.of_task`), and all prompts
are of its task.

A draft is what the answer may be. It is read at once: as far as each of its tokens is the likeliest one it is the
answer, and only what follows is written token by token. So drafts change the time and, but for rounding, not the
answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial, reduce
from operator import or_

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trm_jax import compiler
from trm_jax.models.layers import round_up

Prompt = Mapping[str, np.ndarray]  # name -> [n, ...], "inputs" among them
CHUNK = 64  # tokens by which the cache grows; as many are written between two looks at what has ended


@dataclass(frozen=True)
class Written:
    """The answer to a prompt."""

    prompt: int  # its number
    tokens: np.ndarray  # [n] int32, the end among them
    log_probs: np.ndarray  # [n] float32
    ended: bool  # else it was cut


def collate(prompts: Sequence[Prompt], size: int) -> dict[str, np.ndarray]:
    """Prompts as one batch, padded in front to `size`; "segments" is -1 where there is padding."""
    batch = {name: np.zeros((len(prompts), size, *x.shape[1:]), x.dtype) for name, x in prompts[0].items()} | {
        "segments": np.full((len(prompts), size), -1, np.int32)
    }
    for row, prompt in enumerate(prompts):
        length = len(prompt["inputs"])
        for name, x in prompt.items():
            batch[name][row, size - length :] = x
        batch["segments"][row, size - length :] = 0
    return batch


@dataclass(frozen=True)
class _Begun:
    """A prompt and the part of its answer that is there already, which stands behind it."""

    number: int
    prompt: Prompt
    tokens: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int32))
    log_probs: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    ended: bool = False
    seed: int = 0  # of what is drawn for it

    def written(self) -> Written:
        return Written(self.number, self.tokens, self.log_probs, self.ended)


class Decoder:
    """Decoding with one model, compiled once for each size of the cache. It keeps no parameters."""

    def __init__(
        self, family, cfg, rows: int, end: int | Sequence[int], *, chunk: int = CHUNK, temperature: float = 0.0
    ):
        """rows: prompts at a time; end: the token that ends an answer, or several; chunk: tokens between two looks at
        what has ended; temperature: 0 writes the likeliest token, 1 draws it by its probability."""
        self._cfg, self._family, self._rows = cfg, family, rows
        self._ends = tuple(np.atleast_1d(np.asarray(end, np.int32)).tolist())
        self._size, self._temperature = chunk, temperature
        how = {"compiler_options": compiler.options()}
        self._begin = jax.jit(self._first, static_argnames="room", **how)
        self._write = jax.jit(self._chunk, donate_argnums=1, **how)
        self._grow = jax.jit(self._grown, static_argnames="room", **how)
        self._read = jax.jit(self._likeliest, **how)

    def _likeliest(self, params, batch):
        """(the likeliest token behind each [B, S], its log-probability)."""
        log_p = jax.nn.log_softmax(self._family.read(params, self._cfg, batch), axis=-1)
        return jnp.argmax(log_p, axis=-1).astype(jnp.int32), jnp.max(log_p, axis=-1)

    def _first(self, params, batch, room: int):
        return self._family.begin(params, self._cfg, batch, room)

    def _token(self, logits, log_p, draws, at):
        """The token of each row [B]; draws: (seeds [B], tokens written before this chunk [B]), None for the likeliest.

        A draw depends on the seed and on the number of the token in its answer, not on what is written beside it.
        """
        if draws is None:
            return jnp.argmax(log_p, axis=-1).astype(jnp.int32)
        keys = jax.vmap(lambda seed, first: jax.random.fold_in(jax.random.key(seed), first + at))(*draws)
        return jax.vmap(jax.random.categorical)(keys, logits / self._temperature).astype(jnp.int32)

    def _chunk(self, params, state, ended, draws=None):
        """A chunk of tokens, or fewer if all rows end: (state, ended, tokens [B, chunk], log-probabilities)."""
        rows, size = ended.shape[0], self._size

        def go_on(carry):
            at, _, ended, *_ = carry
            return (at < size) & ~ended.all()

        def one(carry):
            at, state, ended, tokens, log_probs = carry
            log_p = jax.nn.log_softmax(state["logits"], axis=-1)
            token = self._token(state["logits"], log_p, draws, at)
            tokens = tokens.at[:, at].set(jnp.where(ended, -1, token))
            log_probs = log_probs.at[:, at].set(jnp.take_along_axis(log_p, token[:, None], -1)[:, 0])
            state = self._family.advance(params, self._cfg, state, token)
            return at + 1, state, reduce(or_, (token == end for end in self._ends), ended), tokens, log_probs

        blank = jnp.full((rows, size), -1, jnp.int32), jnp.zeros((rows, size), jnp.float32)
        _, state, ended, *said = lax.while_loop(go_on, one, (jnp.int32(0), state, ended, *blank))
        return state, ended, *said

    @staticmethod
    def _grown(state, room: int):
        def longer(x, axis: int, value=0):
            widths = [(0, 0)] * x.ndim
            widths[axis] = (0, room - x.shape[axis])
            return jnp.pad(x, widths, constant_values=value)

        cache = jax.tree.map(partial(longer, axis=2), state["cache"])
        return {**state, "cache": cache, "seen": longer(state["seen"], 1, True)}

    def __call__(
        self,
        params,
        prompt: Callable[[int], Prompt],
        sizes: np.ndarray,
        most: int,
        on_batch: Callable[[int, int], bool] | None = None,
        draft: Callable[[int], Prompt | None] | None = None,
        stop: Callable[[int, np.ndarray], bool] | None = None,
        seeds: np.ndarray | None = None,
    ) -> Iterator[list[Written]]:
        """The answers, a list for each batch: prompts of about one length together, the short ones first.

        prompt: gives one by its number; sizes [N]: their tokens; most: tokens of an answer. on_batch(done, total) is
        called before each batch; True ends it all. draft: gives a prompt with a draft of its answer behind it, or None;
        asked when its batch is due. stop(number of a prompt, tokens of its answer so far) is asked after every chunk;
        True leaves it at that. seeds [N] uint32: of the prompts, where tokens are drawn.
        """
        seeds = np.arange(len(sizes), dtype=np.uint32) if seeds is None else seeds
        order, waiting, done = np.argsort(sizes, kind="stable"), [], 0
        for first in range(0, len(order), self._rows):
            if on_batch and on_batch(done, len(order)):
                return
            numbers = order[first : first + self._rows].tolist()
            begun = [_Begun(number, prompt(number), seed=int(seeds[number])) for number in numbers]
            if draft:
                begun = self._checked(params, begun, [draft(number) for number in numbers], most)
                if found := [one.written() for one in begun if one.ended]:
                    done += len(found)
                    yield found
            waiting += [one for one in begun if not one.ended]
            while len(waiting) >= self._rows or (waiting and first + self._rows >= len(order)):
                here, waiting = waiting[: self._rows], waiting[self._rows :]
                done += len(here)
                yield self._batch(params, here, most, stop)

    def _checked(self, params, begun: list[_Begun], drafts: list[Prompt | None], most: int) -> list[_Begun]:
        """The answers as far as their drafts are right."""
        if not any(drafts):
            return begun
        given = [draft or one.prompt for one, draft in zip(begun, drafts, strict=True)]
        size = round_up(max(len(prompt["inputs"]) for prompt in given), CHUNK)
        likeliest, log_probs = jax.device_get(self._read(params, collate(self._filled(given), size)))
        found = []
        for row, (one, whole) in enumerate(zip(begun, given, strict=True)):
            asked, length = len(one.prompt["inputs"]), len(whole["inputs"])
            wanted = whole["inputs"][asked:][:most]
            at = size - length + asked - 1  # where the first token of the answer is foretold
            right = likeliest[row, at : at + len(wanted)] == wanted
            count = len(wanted) if right.all() else int(np.argmin(right))
            kept = {name: x[: asked + count] for name, x in whole.items()}
            ended = bool(count and wanted[count - 1] in self._ends)
            found.append(_Begun(one.number, kept, wanted[:count], log_probs[row, at : at + count], ended, one.seed))
        return found

    def _filled(self, rows: list) -> list:
        return rows + rows[:1] * (self._rows - len(rows))

    def _batch(self, params, begun: list[_Begun], most: int, stop: Callable | None) -> list[Written]:
        prompts, rows = [one.prompt for one in begun], range(len(begun))
        size, room = round_up(max(len(prompt["inputs"]) for prompt in prompts), CHUNK), CHUNK
        state = self._begin(params, collate(self._filled(prompts), size), room=size + room)
        said = [(one.tokens, one.log_probs) for one in begun]
        filled = self._filled(begun)
        there = np.array([len(one.tokens) for one in filled], np.int32)  # of those that are there already
        seeds = np.array([one.seed for one in filled], np.uint32)
        ended = np.arange(self._rows) >= len(begun)
        for first in range(0, most - there.min(), self._size):
            if first + self._size > room:
                room += max(CHUNK, self._size)
                state = self._grow(state, room=size + room)
            draws = (seeds, there + first) if self._temperature else None
            state, *more = self._write(params, state, ended, draws)
            ended, *more = jax.device_get(more)
            counts = (more[0] >= 0).sum(1)
            for row in rows:
                new = (part[row, : counts[row]] for part in more)
                said[row] = tuple(np.concatenate(pair)[:most] for pair in zip(said[row], new, strict=True))
            if stop:
                ended = ended.copy()
                for row in rows:
                    ended[row] = ended[row] or stop(begun[row].number, said[row][0])
            if ended.all():
                break
        found = []
        for one, (tokens, log_probs) in zip(begun, said, strict=True):
            found.append(Written(one.number, tokens, log_probs, bool(len(tokens) and tokens[-1] in self._ends)))
        return found
