"""The search for programs: what a coder is asked, in which order, and what is kept of its replies.

Two searches: rounds, in which each of several experts shows its coder the best of its own earlier programs, and a tree,
in which the best of a generation are the parents of the next. Every reply is kept as it comes in
FOLDER/replies/TASK.jsonl, and a search goes on from there.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from trm_jax.errors import InputError
from trm_jax.settings import check, check_seed, number, option
from trm_jax.solvers import Question, generator
from trm_jax.solvers.refine import coders, score
from trm_jax.solvers.refine.coders import Coder, Reply
from trm_jax.solvers.refine.sandbox import Ran, Sandbox
from trm_jax.solvers.refine.score import Solution
from trm_jax.solvers.run import REPLIES, Outcome, Watch
from trm_jax.storage.paths import AnyPath, append_line, json_lines
from trm_jax.tasks.arc.predictions import Line

PRINTED = 2000  # characters of what a program prints that stand in a record


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


class Rounds:
    """Each expert asks once a round and shows what it has; it stops at programs that solve all demonstrations."""

    def __init__(self, settings: Settings, question: Question):
        self._how, self._question, self._round = settings, question, 0
        self._found: list[list[Solution]] = [[] for _ in range(settings.experts)]

    def asks(self) -> list[Ask]:
        """The next ones, nothing when all is over."""
        if self._round == self._how.rounds:
            return []
        made = []
        for expert, found in enumerate(self._found):
            if self._solved(found) >= self._how.stop_after:
                continue
            draw = np.random.default_rng(self._how.seed + 10 * expert + self._round)
            order = tuple(draw.permutation(len(self._question.demonstrations)).tolist())
            kept = [one for one in found if draw.random() < self._how.keep]
            made.append(Ask(f"{self._round}.{expert}", best(kept, self._how.shown), order))
        self._round += 1
        return made

    def take(self, ask: Ask, one: Solution) -> None:
        self._found[int(ask.name.partition(".")[2])].append(one)

    def over(self) -> bool:
        """Whether the asks that are left need no reply: never, for each expert is its own."""
        return False

    def ordered(self) -> list[Solution]:
        """The results, best first: what each expert has that is best, and its other programs that solve all."""
        results = []
        for found in filter(None, self._found):
            [top] = best(found, 1)
            results += score.distinct([top, *[one for one in found if one.solved]])
        return [results[at] for at in score.grouped(results)]

    @staticmethod
    def _solved(found: Sequence[Solution]) -> int:
        return sum(one.solved for one in score.distinct(found))


class Tree:
    """Generations of TREE, until enough programs solve all demonstrations."""

    def __init__(self, settings: Settings, question: Question):
        self._how, self._question, self._number = settings, question, 0
        self._found: list[Solution] = []

    def _ranked(self) -> list[Solution]:
        return sorted(score.distinct(self._found), key=score.by_pairs, reverse=True)

    def asks(self) -> list[Ask]:
        if self._number == len(TREE) or self.over():
            return []
        parents, each, pooled = TREE[self._number]
        groups = [self._pool(parents)] if pooled else [(one,) for one in self._ranked()[:parents]]
        if not parents:
            groups = [()]
        made = []
        for place, shown in enumerate(groups):
            for count in range(each):
                name = f"{self._number}.{place}.{count}"
                draw = generator(self._how.seed, self._question.id, f"order {name}")
                made.append(Ask(name, shown, tuple(draw.permutation(len(self._question.demonstrations)).tolist())))
        self._number += 1
        return made

    def _pool(self, most: int) -> tuple[Solution, ...]:
        """Parents that together solve as many demonstrations as they can, the worst first."""
        chosen, solved = [], set()
        for one in self._ranked():
            new = {at for at, share in enumerate(one.scores) if share == 1.0} - solved
            if len(chosen) < most and (new or not chosen):
                chosen.append(one)
                solved |= new
        return tuple(reversed(chosen))

    def take(self, ask: Ask, one: Solution) -> None:
        self._found.append(one)

    def over(self) -> bool:
        return Rounds._solved(self._found) >= self._how.stop_after

    def ordered(self) -> list[Solution]:
        """The final two, then the others."""
        ranked = self._ranked()
        first = score.final_two(ranked) if ranked else []
        return first + [one for one in ranked if one not in first]


@dataclass
class _Spent:
    calls: int = 0
    tokens: int = 0
    seconds: float = 0.0


class Refine:
    """The solver: see `run.Solver`. say: told a line for every reply."""

    def __init__(
        self,
        coder: Coder,
        sandbox: Sandbox,
        settings: Settings,
        folder: AnyPath,
        say: Callable[[str], None] = lambda line: None,
    ):
        self._coder, self._sandbox, self._how, self._folder, self._say = coder, sandbox, settings, folder, say

    def __call__(self, group: Sequence[Question], wanted: set[str], watch: Watch):
        for question in group:
            if question.id in wanted:
                yield self._answer(question, watch)

    def _answer(self, question: Question, watch: Watch) -> Outcome:
        search = (Tree if self._how.search == "tree" else Rounds)(self._how, question)
        path = journal(self._folder, question.id)
        records = [record for _, record in json_lines(path)]
        spent = _Spent(*(sum(one[name] for one in records) for name in ("tries", "tokens", "seconds")))
        known = {one["ask"]: one for one in records if "outcome" in one}
        found: list[Solution] = []
        replies, status, reason = 0, "ok", None
        while status == "ok" and (asks := search.asks()):
            while asks and status == "ok" and not search.over():
                chunk, asks = asks[: self._coder.at_once], asks[self._coder.at_once :]
                missing = [ask for ask in chunk if ask.name not in known]
                if missing and not self._budget(spent, watch):
                    try:
                        left = self._how.most_calls - spent.calls
                        known |= self._asked(question, missing[:left], spent, watch, path)
                    except _TooLong as error:
                        status, reason = "skipped", str(error)
                        break
                for ask in chunk:
                    record = known.get(ask.name)
                    if record is None:
                        status, reason = "partial", self._budget(spent, watch)
                        continue
                    if record["outcome"] not in ("no_program", "no_reply"):
                        one = _solution(replies, record, question)
                        search.take(ask, one)
                        found.append(one)
                    replies += 1
        ordered = search.ordered()
        grids = score.candidates(ordered)
        lines = [Line(question.id, test, grid) for test, grids in enumerate(grids) for grid in grids]
        if not lines and status == "ok":
            status, reason = "failed", "no program gave a grid for a test input"
        solved = sum(one.solved for one in score.distinct(found))
        numbers = {"calls": spent.calls, "tokens": spent.tokens, "programs": len(found), "solve": solved}
        numbers["best"] = round(max((one.score for one in found), default=0.0), 4)
        return Outcome(question.id, status, reason, lines, spent.seconds, numbers)

    def _budget(self, spent: _Spent, watch: Watch) -> str | None:
        """Which budget does not reach for a reply more."""
        if spent.calls >= self._how.most_calls:
            return f"{spent.calls} calls of {self._how.most_calls} are used"
        if 0 < self._how.tokens <= spent.tokens:
            return f"{spent.tokens} tokens of {self._how.tokens} are used"
        if watch.over() or spent.seconds >= watch.seconds:
            return f"{watch.seconds:.0f} s are over"
        return None

    def _asked(self, question: Question, asks: list[Ask], spent: _Spent, watch: Watch, path: AnyPath) -> dict:
        """Records of replies to `asks`, as they stand in the journal now; what they took is added to `spent`."""
        asks = [self._fitting(question, ask) for ask in asks]
        began = time.monotonic()
        seeds = [int(generator(self._how.seed, question.id, ask.name).integers(2**32)) for ask in asks]
        left = watch.seconds - max(spent.seconds, watch.spent())
        prompts = [prompt(question, ask) for ask in asks]
        replies = self._coder(prompts, seeds, self._how.most_calls - spent.calls, left)
        waited = (time.monotonic() - began) / len(replies)
        made = {}
        for ask, reply in zip(asks, replies, strict=True):
            began = time.monotonic()
            record = {"ask": ask.name, "shown": [one.number for one in ask.earlier], "order": list(ask.order)}
            record |= {"tries": reply.tries, "tokens": reply.tokens}
            if reply.lost is None:
                record |= self._ran(question, reply)
                made[ask.name] = record
            record["seconds"] = round(waited + time.monotonic() - began, 3)
            path.parent.mkdir(parents=True, exist_ok=True)
            append_line(path, json.dumps(record))
            spent.calls, spent.tokens = spent.calls + reply.tries, spent.tokens + reply.tokens
            spent.seconds += record["seconds"]
            if reply.lost and not self._budget(spent, watch):
                raise reply.lost
            self._say(f"{question.id}  {ask.name:<6}  {record.get('outcome', 'no_reply'):<10}  {_row(record, reply)}")
        return made

    def _fitting(self, question: Question, ask: Ask) -> Ask:
        """An ask with as many of the earlier programs as the coder can read, the best of them."""
        while not self._coder.fits(prompt(question, ask)):
            if not ask.earlier:
                raise _TooLong("its prompt and a reply are longer than the coder can read")
            ask = ask._replace(earlier=ask.earlier[1:])
        return ask

    def _ran(self, question: Question, reply: Reply) -> dict[str, Any]:
        """What a record says of a reply and of the program in it."""
        said: dict[str, Any] = {"reply": reply.text} | ({"problem": reply.problem} if reply.problem else {})
        if reply.text is None:
            return said | {"outcome": "no_reply"}
        code = coders.program(reply.text)
        if code is None:
            return said | {"outcome": "no_program"}
        inputs = [pair.input for pair in question.demonstrations] + list(question.inputs)
        ran = self._sandbox.run(code, inputs)
        one = score.solution(0, code, ran, question)
        outcome = "solved" if one.solved else "timeout" if ran.timeout else "error" if all(ran.errors) else "scored"
        said |= {"outcome": outcome, "score": round(one.score, 6), "train_scores": [round(s, 6) for s in one.scores]}
        grids = [None if grid is None else grid.tolist() for grid in ran.grids]
        said |= {"grids": grids, "errors": list(ran.errors), "printed": ran.printed[:PRINTED]}
        return said


class _TooLong(Exception):
    """A prompt that the coder cannot read."""


def journal(folder: AnyPath, task: str) -> AnyPath:
    """The file of a task's replies."""
    return folder / REPLIES / f"{task}.jsonl"


def replies_in(folder: AnyPath) -> int:
    """How many replies a run has had so far."""
    return sum("outcome" in one for path in (folder / REPLIES).glob("*.jsonl") for _, one in json_lines(path))


def _solution(number: int, record: dict, question: Question) -> Solution:
    """A program as its record has it."""
    grids = tuple(None if grid is None else np.array(grid, np.uint8) for grid in record["grids"])
    code = coders.program(record["reply"])
    if code is None or len(grids) != len(question.demonstrations) + len(question.inputs):
        raise InputError(f"the replies to task {question.id} were changed; --force begins anew")
    return score.solution(number, code, Ran(grids, tuple(record["errors"]), "", 0.0, {}), question)


def _row(record: dict, reply: Reply) -> str:
    if reply.problem:
        return reply.problem
    if "score" not in record:
        return ""
    error = next(filter(None, record["errors"]), None)
    return f"{record['score']:.2f}" + (f"  {error}" if error else "")
