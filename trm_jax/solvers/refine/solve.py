"""A task by programs: a coder's replies are kept, their programs run, and the best of them answer."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from trm_jax.solvers import Question, generator
from trm_jax.solvers.refine import coders, score, search
from trm_jax.solvers.refine.coders import Coder
from trm_jax.solvers.refine.sandbox import Ran, Sandbox
from trm_jax.solvers.refine.score import Solution
from trm_jax.solvers.refine.search import Ask, Settings
from trm_jax.solvers.run import REPLIES, Outcome, Watch, inside
from trm_jax.storage.paths import AnyPath, append_line, json_lines
from trm_jax.tasks.arc.predictions import Line

PRINTED = 2000  # characters of what a program prints that are kept
SPENT = ("tries", "tokens", "seconds")


class Journal:
    """What a task's coder was asked and what came of it, by the name of the ask: a file of lines, which is all that is
    left of a run that was killed. A reply is a line, and so is what its program does; lines of one ask add up."""

    def __init__(self, folder: AnyPath, task: str):
        self._path = folder / REPLIES / f"{task}.jsonl"
        self.records: dict[str, dict[str, Any]] = {}
        for _, line in json_lines(self._path):
            self._take(**line)

    def _take(self, ask: str, **said: Any) -> None:
        there = self.records.setdefault(ask, dict.fromkeys(SPENT, 0))
        there |= said | {name: there[name] + said.get(name, 0) for name in SPENT}

    def add(self, ask: str, **said: Any) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        append_line(self._path, json.dumps({"ask": ask, **said}))
        self._take(ask, **said)

    def spent(self, what: str) -> float:
        """The sum of one of SPENT."""
        return sum(one[what] for one in self.records.values())


def replies_in(folder: AnyPath) -> int:
    """How many replies a run has had so far."""
    tasks = (path.stem for path in inside(folder / REPLIES) if path.suffix == ".jsonl")
    return sum("reply" in one for task in tasks for one in Journal(folder, task).records.values())


@dataclass(frozen=True)
class Refine:
    """The solver: see `run.Solver`. say: told a line for every reply."""

    coder: Coder
    sandbox: Sandbox
    how: Settings
    folder: AnyPath
    say: Callable[[str], None] = lambda line: None

    def __call__(self, group: Sequence[Question], wanted: set[str], watch: Watch) -> Iterator[Outcome]:
        for question in group:
            if question.id in wanted:
                yield self._answer(question, watch)

    def _answer(self, question: Question, watch: Watch) -> Outcome:
        kept, found, replies, status, reason = Journal(self.folder, question.id), [], 0, "ok", None
        for asks in search.chunks(self.how, question, found, self.coder.at_once):
            if reason := self._ask(question, asks, kept, watch):
                status = "skipped"
                break
            self._run(question, asks, kept)
            for ask in asks:
                record = kept.records.get(ask.name, {})
                if "outcome" not in record:
                    status, reason = "partial", self._budget(kept, watch)
                elif record.get("refused") and not replies:  # it would be so in every round
                    status, reason = "skipped", record["problem"]
                else:
                    if "grids" in record:
                        found.append((ask, _solution(replies, record, question)))
                    replies += 1
            if status != "ok":
                break
        grids = score.candidates(search.SEARCHES[self.how.search].best(self.how, found))
        lines = [Line(question.id, test, grid) for test, grids in enumerate(grids) for grid in grids]
        if not lines and status == "ok":
            status, reason = "failed", "no program gave a grid for a test input"
        programs = [one for _, one in found]
        numbers = {"calls": kept.spent("tries"), "tokens": kept.spent("tokens"), "programs": len(found)}
        numbers["solve"] = sum(one.solved for one in score.distinct(programs))
        numbers["best"] = round(max((one.score for one in programs), default=0.0), 4)
        return Outcome(question.id, status, reason, lines, kept.spent("seconds"), numbers)

    def _budget(self, kept: Journal, watch: Watch) -> str | None:
        """Which budget does not reach for a reply more."""
        for what, name, most in (("calls", "tries", self.how.most_calls), ("tokens", "tokens", self.how.tokens)):
            if 0 < most <= kept.spent(name):
                return f"{kept.spent(name)} {what} of {most} are used"
        over = watch.over() or kept.spent("seconds") >= watch.seconds
        return f"{watch.seconds:.0f} s are over" if over else None

    def _ask(self, question: Question, asks: list[Ask], kept: Journal, watch: Watch) -> str | None:
        """Have the replies to `asks` in the journal, as far as budgets reach; why a prompt cannot be asked."""
        missing = [ask for ask in asks if not {"reply", "outcome"} & kept.records.get(ask.name, {}).keys()]
        if not missing or self._budget(kept, watch):
            return None
        left = self.how.most_calls - kept.spent("tries")
        fitting = [self._fitting(question, ask) for ask in missing[:left]]
        if None in fitting:
            return "its prompt and a reply are longer than the coder can read"
        began = time.monotonic()
        seeds = [int(generator(self.how.seed, question.id, ask.name).integers(2**32)) for ask in fitting]
        seconds = watch.seconds - max(kept.spent("seconds"), watch.spent())
        replies = self.coder([search.prompt(question, ask) for ask in fitting], seeds, left, seconds)
        waited = round((time.monotonic() - began) / len(replies), 3)
        for ask, reply in zip(fitting, replies, strict=True):
            said = {"shown": [one.number for one in ask.earlier], "order": list(ask.order)}
            said |= {"tries": reply.tries, "tokens": reply.tokens, "seconds": waited}
            if reply.text is not None:
                said["reply"] = reply.text
            elif reply.lost is None:
                said |= {"outcome": "no_reply", "problem": reply.problem} | ({"refused": True} if reply.refused else {})
            kept.add(ask.name, **said)
            if reply.lost and not self._budget(kept, watch):
                raise reply.lost
            if reply.problem:
                self.say(f"{question.id}  {ask.name:<6}  no_reply    {reply.problem}")
        return None

    def _fitting(self, question: Question, ask: Ask) -> Ask | None:
        """An ask with as many of the earlier programs as the coder can read, the best of them; None: it reads none."""
        while not self.coder.fits(search.prompt(question, ask)):
            if not ask.earlier:
                return None
            ask = ask._replace(earlier=ask.earlier[1:])
        return ask

    def _run(self, question: Question, asks: list[Ask], kept: Journal) -> None:
        """Run the programs of the replies that are there and were not run."""
        for ask in asks:
            record = kept.records.get(ask.name, {})
            if "reply" in record and "outcome" not in record:
                began = time.monotonic()
                said = self._ran(question, coders.program(record["reply"]))
                kept.add(ask.name, **said, seconds=round(time.monotonic() - began, 3))
                error = next(filter(None, said.get("errors", ())), None)
                row = f"{said['score']:.2f}" + (f"  {error}" if error else "") if "score" in said else ""
                self.say(f"{question.id}  {ask.name:<6}  {said['outcome']:<10}  {row}")

    def _ran(self, question: Question, code: str | None) -> dict[str, Any]:
        """What a journal says of a reply's program."""
        if code is None:
            return {"outcome": "no_program"}
        ran = self.sandbox.run(code, [pair.input for pair in question.demonstrations] + list(question.inputs))
        one = score.solution(0, code, ran, question)
        outcome = "solved" if one.solved else "timeout" if ran.timeout else "error" if all(ran.errors) else "scored"
        said = {"outcome": outcome, "score": round(one.score, 6), "train_scores": [round(s, 6) for s in one.scores]}
        grids = [None if grid is None else grid.tolist() for grid in ran.grids]
        return said | {"grids": grids, "errors": list(ran.errors), "printed": ran.printed[:PRINTED]}


def _solution(number: int, record: dict, question: Question) -> Solution:
    """A program as its record has it."""
    grids = tuple(None if grid is None else np.array(grid, np.uint8) for grid in record["grids"])
    ran = Ran(grids, tuple(record["errors"]), "", 0.0, {})
    return score.solution(number, coders.program(record["reply"]), ran, question)
