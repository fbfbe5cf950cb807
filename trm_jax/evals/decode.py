"""Writing answers token by token, always the likeliest: batched, with a cache of static size that grows in steps.

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
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trm_jax import compiler
from trm_jax.models.layers import round_up

Prompt = Mapping[str, np.ndarray]  # name -> [n, ...], "inputs" among them
CHUNK = 64  # tokens that are written between two looks at what has ended; the cache grows by as many


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

    def written(self) -> Written:
        return Written(self.number, self.tokens, self.log_probs, self.ended)


class Decoder:
    """Greedy decoding with one model, compiled once for each size of the cache."""

    def __init__(self, family, cfg, rows: int, end: int):
        """rows: prompts at a time; end: the token that ends an answer."""
        self._cfg, self._family, self._rows, self._end = cfg, family, rows, end
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

    def _chunk(self, params, state, ended):
        """CHUNK more tokens, or fewer if all rows end: (state, ended, tokens [B, CHUNK], log-probabilities)."""
        rows = ended.shape[0]

        def go_on(carry):
            at, _, ended, *_ = carry
            return (at < CHUNK) & ~ended.all()

        def one(carry):
            at, state, ended, tokens, log_probs = carry
            log_p = jax.nn.log_softmax(state["logits"], axis=-1)
            token = jnp.argmax(log_p, axis=-1).astype(jnp.int32)
            tokens = tokens.at[:, at].set(jnp.where(ended, -1, token))
            log_probs = log_probs.at[:, at].set(jnp.take_along_axis(log_p, token[:, None], -1)[:, 0])
            state = self._family.advance(params, self._cfg, state, token)
            return at + 1, state, ended | (token == self._end), tokens, log_probs

        blank = jnp.full((rows, CHUNK), -1, jnp.int32), jnp.zeros((rows, CHUNK), jnp.float32)
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
    ) -> Iterator[list[Written]]:
        """The answers, a list for each batch: prompts of about one length together, the short ones first.

        prompt: gives one by its number; sizes [N]: their tokens; most: tokens of an answer. on_batch(done, total) is
        called before each batch; True ends it all. draft: gives a prompt with a draft of its answer behind it, or None;
        asked when its batch is due.
        """
        order, waiting, done = np.argsort(sizes, kind="stable"), [], 0
        for first in range(0, len(order), self._rows):
            if on_batch and on_batch(done, len(order)):
                return
            numbers = order[first : first + self._rows].tolist()
            begun = [_Begun(number, prompt(number)) for number in numbers]
            if draft:
                begun = self._checked(params, begun, [draft(number) for number in numbers], most)
                if found := [one.written() for one in begun if one.ended]:
                    done += len(found)
                    yield found
            waiting += [one for one in begun if not one.ended]
            while len(waiting) >= self._rows or (waiting and first + self._rows >= len(order)):
                here, waiting = waiting[: self._rows], waiting[self._rows :]
                done += len(here)
                yield self._batch(params, here, most)

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
            ended = bool(count and wanted[count - 1] == self._end)
            found.append(_Begun(one.number, kept, wanted[:count], log_probs[row, at : at + count], ended))
        return found

    def _filled(self, prompts: list) -> list:
        return prompts + prompts[:1] * (self._rows - len(prompts))

    def _batch(self, params, begun: list[_Begun], most: int) -> list[Written]:
        prompts = [one.prompt for one in begun]
        size = round_up(max(len(prompt["inputs"]) for prompt in prompts), CHUNK)
        room = size + CHUNK
        state = self._begin(params, collate(self._filled(prompts), size), room=room)
        ended, parts = jnp.arange(self._rows) >= len(prompts), []
        fewest = min(len(one.tokens) for one in begun)  # of those that are there already
        while True:
            state, ended, *said = self._write(params, state, ended)
            parts.append(jax.device_get(said))
            if np.asarray(ended).all() or fewest + CHUNK * len(parts) >= most:
                break
            room += CHUNK
            state = self._grow(state, room=room)
        tokens, log_probs = (np.concatenate(part, axis=1) for part in zip(*parts, strict=True))
        found = []
        for row, one in enumerate(begun):
            count = int((tokens[row] >= 0).sum())
            all_tokens = np.concatenate([one.tokens, tokens[row, :count]])[:most]
            all_log_probs = np.concatenate([one.log_probs, log_probs[row, :count]])[:most]
            ends = bool(len(all_tokens) and all_tokens[-1] == self._end)
            found.append(Written(one.number, all_tokens, all_log_probs, ends))
        return found
