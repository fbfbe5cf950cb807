"""Writing answers token by token, always the likeliest: batched, with a cache of static size that grows in steps.

A family that can write has two functions: begin(params, cfg, batch, room) -> state, whose "logits" [B, V] are those of
the first token of the answers, and advance(params, cfg, state, tokens) -> state. A state's "cache" is a tree of
[L, B, room, ...] and "seen" is [B, room].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from trm_jax import compiler
from trm_jax.models.layers import round_up

CHUNK = 64  # tokens that are written between two looks at what has ended; the cache grows by as many


@dataclass(frozen=True)
class Written:
    """The answer to a prompt."""

    prompt: int  # its number
    tokens: np.ndarray  # [n] int32, the end among them
    log_probs: np.ndarray  # [n] float32
    ended: bool  # else it was cut


def collate(prompts: Sequence[Mapping[str, np.ndarray]], size: int) -> dict[str, np.ndarray]:
    """Prompts (name -> [n, ...]) as one batch, padded in front to `size`; "segments" is -1 where there is padding."""
    batch = {name: np.zeros((len(prompts), size, *x.shape[1:]), x.dtype) for name, x in prompts[0].items()} | {
        "segments": np.full((len(prompts), size), -1, np.int32)
    }
    for row, prompt in enumerate(prompts):
        length = len(prompt["inputs"])
        for name, x in prompt.items():
            batch[name][row, size - length :] = x
        batch["segments"][row, size - length :] = 0
    return batch


class Decoder:
    """Greedy decoding with one model, compiled once for each size of the cache."""

    def __init__(self, family, cfg, rows: int, end: int):
        """rows: prompts at a time; end: the token that ends an answer."""
        self._cfg, self._family, self._rows, self._end = cfg, family, rows, end
        how = {"compiler_options": compiler.options()}
        self._begin = jax.jit(self._first, static_argnames="room", **how)
        self._write = jax.jit(self._chunk, donate_argnums=1, **how)
        self._grow = jax.jit(self._grown, static_argnames="room", **how)

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
        prompt: Callable[[int], Mapping[str, np.ndarray]],
        sizes: np.ndarray,
        most: int,
        on_batch: Callable[[int, int], bool] | None = None,
    ) -> Iterator[list[Written]]:
        """The answers, a list for each batch: prompts of about one length together, the short ones first.

        prompt: gives one by its number; sizes [N]: their tokens; most: tokens of an answer. on_batch(done, total) is
        called before each batch; True ends it all.
        """
        order = np.argsort(sizes, kind="stable")
        for first in range(0, len(order), self._rows):
            if on_batch and on_batch(first, len(order)):
                return
            numbers = order[first : first + self._rows]
            yield self._batch(params, numbers, [prompt(int(number)) for number in numbers], most)

    def _batch(self, params, numbers: np.ndarray, prompts: list, most: int) -> list[Written]:
        size = round_up(max(len(prompt["inputs"]) for prompt in prompts), CHUNK)
        filled = prompts + prompts[:1] * (self._rows - len(prompts))
        room = size + CHUNK
        state = self._begin(params, collate(filled, size), room=room)
        ended = jnp.arange(self._rows) >= len(prompts)
        parts = []
        while True:
            state, ended, *said = self._write(params, state, ended)
            parts.append(jax.device_get(said))
            if np.asarray(ended).all() or CHUNK * len(parts) >= most:
                break
            room += CHUNK
            state = self._grow(state, room=room)
        tokens, log_probs = (np.concatenate(part, axis=1)[:, :most] for part in zip(*parts, strict=True))
        found = []
        for row, number in enumerate(numbers):
            written = int((tokens[row] >= 0).sum())
            ends = bool(written and tokens[row, written - 1] == self._end)
            found.append(Written(int(number), tokens[row, :written], log_probs[row, :written], ends))
        return found
