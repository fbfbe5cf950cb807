"""The search for programs: what a coder is asked, and in which order.

Two searches: rounds, in which each of several experts shows its coder the best of its own earlier programs, and a tree,
in which the best of a generation are the parents of the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from trm_jax.settings import check, check_seed, number, option
from trm_jax.solvers import Question, generator
from trm_jax.solvers.refine import score
from trm_jax.solvers.refine.score import Solution


class Generation(NamedTuple):
    """One of the tree: `parents` programs with `each` replies, or `each` without any. pooled: all parents in one
    prompt, chosen so that each solves a demonstration that those before it do not."""

    parents: int
    each: int
    pooled: bool = False


TREE = (Generation(0, 50), Generation(0, 200), *(Generation(n, 10) for n in (10, 5, 5)), Generation(3, 5, pooled=True))


@dataclass(frozen=True)
class Settings:
    """What decides the search, besides the coder; budgets are for a task, and every try counts."""

    search: str = option("rounds", "rounds", "tree")
    rounds: int = number(10, low=1)
    experts: int = number(1, low=1)  # each with a seed of its own: seed + 10 i
    shown: int = number(5, low=0)  # earlier programs in a prompt, at most
    keep: float = number(1.0, low=0.0, high=1.0)  # the chance of each to be among them
    stop_after: int = number(1, low=1)  # programs that solve all demonstrations, of different text
    calls: int = number(0, low=0)  # 0: twice what the search asks for
    tokens: int = number(0, low=0)  # of prompts and replies; 0: any number
    seed: int = 0

    def __post_init__(self):
        check(self)
        check_seed("seed", self.seed)

    @property
    def most_calls(self) -> int:
        tree = sum(one.each if one.pooled else one.each * max(one.parents, 1) for one in TREE)
        return self.calls or 2 * (tree if self.search == "tree" else self.rounds * self.experts)


class Ask(NamedTuple):
    """One request: its name within the task, and what is shown."""

    name: str
    earlier: tuple[Solution, ...]  # the worst first
    order: tuple[int, ...]  # of the demonstrations


def prompt(question: Question, ask: Ask) -> str:
    """The text of a request. A demonstration has the same number wherever it stands, and in every feedback."""
    said = [INTRODUCTION]
    for at in ask.order:
        pair = question.demonstrations[at]
        said.append(f"Example {at + 1}\nInput:\n{rows(pair.input)}\nOutput:\n{rows(pair.output)}")
    said += [f"Test input {at + 1}:\n{rows(grid)}" for at, grid in enumerate(question.inputs)]
    if ask.earlier:
        said.append(EARLIER)
    for place, one in enumerate(ask.earlier, 1):
        told = score.feedback(one, question)
        said.append(f"Program {place}\n```python\n{one.code.strip()}\n```\n{told}\nScore: {one.score:.2f}")
    return "\n\n".join([*said, ANOTHER if any(one.solved for one in ask.earlier) else REQUEST])


INTRODUCTION = (
    "Find the rule that turns each input grid into its output grid, and write it as a Python program. A grid has 1 to "
    "30 rows and columns; its cells are whole numbers from 0 to 9, each a colour. One rule holds for all examples, and "
    "for the test inputs as well."
)
EARLIER = "These programs were tried before, the better ones later. None of them need be the right way to begin."
REQUEST = (
    "Say in a few sentences what the rule is. Then write one program in a fenced block that begins with ```python. It "
    "defines transform(grid), which takes an input as a two-dimensional NumPy array of integers and returns the output "
    "as such an array or as a list of rows. It may import the standard library, numpy and scipy; it has no files and "
    "no network."
)
ANOTHER = f"Some program above is right for all examples. Write one that does it another way. {REQUEST}"


def rows(grid: np.ndarray) -> str:
    """A grid as lines of digits with blanks between them."""
    return "\n".join(" ".join(map(str, row)) for row in grid.tolist())


def best(found: Sequence[Solution], count: int) -> tuple[Solution, ...]:
    """The best `count` by score, the worst of them first; of equals the later is the better."""
    return tuple(sorted(found, key=lambda one: (one.score, one.number))[max(0, len(found) - count) :])


Found = list[tuple[Ask, Solution]]  # programs in the order of their replies, each with what was asked for it


def rounds(how: Settings, question: Question, found: Found) -> Iterator[list[Ask]]:
    """Asks that may be answered side by side: each expert asks once a round and shows what it has, until it has enough
    programs that solve all demonstrations."""
    for turn in range(how.rounds):
        asks = []
        for expert in range(how.experts):
            own = _of(found, expert)
            draw = np.random.default_rng(how.seed + 10 * expert + turn)
            order = _order(draw, question)
            kept = [one for one in own if draw.random() < how.keep]
            if not _enough(how, own):
                asks.append(Ask(f"{turn}.{expert}", best(kept, how.shown), order))
        yield asks


def _of(found: Found, expert: int) -> list[Solution]:
    return [one for ask, one in found if ask.name.endswith(f".{expert}")]


def _order(draw: np.random.Generator, question: Question) -> tuple[int, ...]:
    return tuple(draw.permutation(len(question.demonstrations)).tolist())


def _enough(how: Settings, found: Sequence[Solution]) -> bool:
    return sum(one.solved for one in score.distinct(found)) >= how.stop_after


def best_of_rounds(how: Settings, found: Found) -> list[Solution]:
    """The results, best first: what each expert has that is best, and its other programs that solve all."""
    results = []
    for own in filter(None, (_of(found, expert) for expert in range(how.experts))):
        results += score.distinct([*best(own, 1), *[one for one in own if one.solved]])
    return [results[at] for at in score.grouped(results)]


def tree(how: Settings, question: Question, found: Found) -> Iterator[list[Ask]]:
    """The same for the generations of TREE."""
    for turn, (parents, each, pooled) in enumerate(TREE):
        ranked = _ranked(found)
        groups = [_pool(ranked, parents)] if pooled or not parents else [(one,) for one in ranked[:parents]]
        names = [(f"{turn}.{place}.{n}", shown) for place, shown in enumerate(groups) for n in range(each)]
        draws = (generator(how.seed, question.id, f"order {name}") for name, _ in names)
        yield [Ask(*name, _order(draw, question)) for name, draw in zip(names, draws, strict=True)]


def _ranked(found: Found) -> list[Solution]:
    return sorted(score.distinct([one for _, one in found]), key=score.by_pairs, reverse=True)


def _pool(ranked: Sequence[Solution], most: int) -> tuple[Solution, ...]:
    """Parents that together solve as many demonstrations as they can, the worst first."""
    chosen, solved = [], set()
    for one in ranked:
        new = {at for at, share in enumerate(one.scores) if share == 1.0} - solved
        if len(chosen) < most and (new or not chosen):
            chosen.append(one)
            solved |= new
    return tuple(reversed(chosen))


def best_of_tree(how: Settings, found: Found) -> list[Solution]:
    """The final two, then the others."""
    ranked = _ranked(found)
    first = score.final_two(ranked) if ranked else []
    return first + [one for one in ranked if one not in first]


class Search(NamedTuple):
    """asks: the generator of what is asked; best: the programs found, in the order in which their answers are taken;
    alone: whether it ends as soon as it has enough programs, whatever is still to be answered."""

    asks: Callable[[Settings, Question, Found], Iterator[list[Ask]]]
    best: Callable[[Settings, Found], list[Solution]]
    alone: bool


SEARCHES = {"rounds": Search(rounds, best_of_rounds, False), "tree": Search(tree, best_of_tree, True)}


def chunks(how: Settings, question: Question, found: Found, size: int) -> Iterator[list[Ask]]:
    """The asks of a search, at most so many at once; `found` grows meanwhile."""
    search = SEARCHES[how.search]
    for asks in search.asks(how, question, found):
        for first in range(0, len(asks), size):
            if search.alone and _enough(how, [one for _, one in found]):
                return
            yield asks[first : first + size]
