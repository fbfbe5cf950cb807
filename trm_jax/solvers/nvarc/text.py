"""ARC grids as NVARC's 16 tokens: views of a task, the texts that train on it, prompts, and grids from replies.

A pair is `start user newline INPUT end start assistant newline OUTPUT end`; rows are joined by newlines, and nothing
stands between pairs. Functions take demonstrations and test inputs, never a test output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from trm_jax.errors import InputError
from trm_jax.tasks.arc.grids import COLORS, Pair
from trm_jax.tasks.dihedral import INVERSE, dihedral
from trm_jax.tasks.pairs import tokens as pairs_tokens

T = TypeVar("T")
# Ids 0 to 9 are colours.
NEWLINE, USER, ASSISTANT, PAD, START, END = range(10, 16)
REPLIES = (*range(11), END)  # what may stand in a reply
LIMIT = 8192  # tokens of a text
REPLY = 931  # of the longest reply: 30 x 30 cells, 29 newlines, the end and one to spare
SYMMETRIES = (0, 1, 2, 3, 6, 5, 7, 4)  # as it is and transposed, each with 0 to 3 turns; numbers of `tasks.dihedral`


@dataclass(frozen=True, eq=False)
class View:
    """A task in another form: turned, recoloured, its demonstrations in another order."""

    symmetry: int  # of `tasks.dihedral`
    colors: np.ndarray  # [10]: the new one of each
    order: np.ndarray  # [N] of the demonstrations

    def apply(self, grid: np.ndarray) -> np.ndarray:
        return self.colors.astype(np.uint8)[dihedral(grid, self.symmetry)]

    def undo(self, grid: np.ndarray) -> np.ndarray:
        return np.argsort(self.colors).astype(np.uint8)[dihedral(grid, INVERSE[self.symmetry])]

    def pairs(self, train: Sequence[Pair]) -> list[Pair]:
        """Demonstrations as they look in this view."""
        return [Pair(self.apply(train[number].input), self.apply(train[number].output)) for number in self.order]


def drawn(rng: np.random.Generator, symmetry: int, demonstrations: int) -> View:
    """A view of a symmetry, with colours and order drawn."""
    return View(symmetry, rng.permutation(COLORS), rng.permutation(demonstrations))


def views(rng: np.random.Generator, demonstrations: int, each: int) -> list[View]:
    """`each` views of every symmetry, with colours and order drawn anew for each."""
    return [drawn(rng, symmetry, demonstrations) for symmetry in SYMMETRIES for _ in range(each)]


def _rows(grid: np.ndarray) -> list[int]:
    return np.pad(grid, ((0, 0), (0, 1)), constant_values=NEWLINE).ravel()[:-1].tolist()


def query(grid: np.ndarray) -> list[int]:
    """An input, up to where its reply begins."""
    return [START, USER, NEWLINE, *_rows(grid), END, START, ASSISTANT, NEWLINE]


def reply(grid: np.ndarray) -> list[int]:
    """An output and its end."""
    return [*_rows(grid), END]


def parse(tokens: Sequence[int]) -> np.ndarray | None:
    """The grid [H, W] uint8 of a reply, the end among its tokens; empty rows are passed over.

    None for what is no grid of at most 30 x 30: without its end, with other words in it, ragged, or empty.
    """
    *body, end = tokens if len(tokens) else [PAD]
    if end != END or any(token > NEWLINE for token in body):
        return None
    body = np.array(body, np.int32)
    return pairs_tokens.parse(np.where(body == NEWLINE, pairs_tokens.NEXT_LINE, body))


def _fitting(parts: list[list[int]], limit: int) -> list[list[int]]:
    """The last parts, as many as `limit` tokens hold. Raises InputError where they do not hold the last one."""
    kept, size = 0, 0
    for part in reversed(parts):
        size += len(part)
        if size > limit:
            break
        kept += 1
    if not kept:
        raise InputError(f"the shortest text has {len(parts[-1])} tokens, more than the {limit} that are allowed")
    return parts[-kept:]


def training_text(pairs: Sequence[Pair], limit: int = LIMIT) -> tuple[np.ndarray, np.ndarray]:
    """(tokens [S] int32, whether each is to be learnt [S] bool) of demonstrations; leading ones go if it is too long.

    What is learnt is every reply, the first too, with its end; the logits one before foretell a token.
    """
    asked = [(query(pair.input), reply(pair.output)) for pair in pairs]
    parts = _fitting([one + other for one, other in asked], limit)
    learnt = [[False] * len(one) + [True] * len(other) for one, other in asked[-len(parts) :]]
    return np.concatenate(parts).astype(np.int32), np.concatenate(learnt)


def those_that_fit(of: Callable[[View], T], every: Iterable[View]) -> list[T]:
    """of(view) for all views that it raises no InputError for; where it does for all, one of these is raised."""
    found, fault = [], None
    for view in every:
        try:
            found.append(of(view))
        except InputError as error:
            fault = error
    if fault and not found:
        raise fault
    return found


def samples(
    train: Sequence[Pair], rng: np.random.Generator, each: int = 16, limit: int = LIMIT
) -> list[tuple[np.ndarray, np.ndarray]]:
    """The texts that train on a task, 8 x `each`, in the order of training, without those whose last pair is too long.

    Raises InputError where that is all of them.
    """
    every = views(rng, len(train), each)
    texts = those_that_fit(lambda view: training_text(view.pairs(train), limit), every)
    return [texts[number] for number in rng.permutation(len(texts))]


def prompt(train: Sequence[Pair], question: np.ndarray, view: View, limit: int = LIMIT - REPLY) -> np.ndarray:
    """Tokens [S] int32 behind which the reply to a test input stands; leading demonstrations go if it is too long."""
    shown = [query(pair.input) + reply(pair.output) for pair in view.pairs(train)]
    return np.concatenate(_fitting([*shown, query(view.apply(question))], limit)).astype(np.int32)
