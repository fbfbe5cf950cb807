"""A run of a solver over tasks: a file for each task, whoever answered it, and one of predictions when all are there.

FOLDER/run.json says what decides the answers, FOLDER/tasks/ID.json what became of a task, FOLDER/adapters/ID is the
adapter that was trained for it, FOLDER/replies/ID.jsonl what a coder wrote for it, FOLDER/predictions.jsonl the answers
to all tasks.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from trm_jax.errors import InputError
from trm_jax.language import peft
from trm_jax.models.lora import Lora
from trm_jax.solvers import Question, adapt
from trm_jax.storage.paths import AnyPath, write_whole
from trm_jax.tasks.arc.files import read_grid, read_json
from trm_jax.tasks.arc.predictions import Header, Line, writing

RUN, RECORDS, ADAPTERS, REPLIES = "run.json", "tasks", "adapters", "replies"
PREDICTIONS, SUBMISSION = "predictions.jsonl", "submission.json"


class Stopped(Exception):
    """Told to stop before the tasks at hand were answered; they are begun anew."""


@dataclass
class Watch:
    """What a solver looks at while it works on a group of tasks."""

    seconds: float  # for the group
    stopping: Callable[[], bool] = lambda: False
    tell: Callable[[str], None] = lambda text: None  # what it is doing
    began: float = field(default_factory=time.monotonic)

    def spent(self) -> float:
        """Seconds since the work began."""
        return time.monotonic() - self.began

    def over(self, share: float = 1.0) -> bool:
        """Whether a share of the time is over. Raises Stopped where the run is to stop."""
        if self.stopping():
            raise Stopped
        return self.spent() > share * self.seconds

    def answering(self, number: int, count: int) -> Watch:
        """For the answers to task `number` of `count`, which share what training leaves, the second half."""
        return dataclasses.replace(self, seconds=self.seconds * (0.5 + 0.5 * (number + 1) / count))


@dataclass
class Outcome:
    """What became of a task."""

    task: str
    status: str = "ok"  # one of predictions.STATUSES
    reason: str | None = None
    candidates: Sequence[Line] = ()  # best first, of each test input
    seconds: float = 0.0  # its own, and its share of what was done for the group
    numbers: Mapping[str, Any] = field(default_factory=dict)  # for the table and the record
    adapter: tuple[dict, Lora] | None = None


class Solver(Protocol):
    def __call__(self, group: Sequence[Question], wanted: set[str], watch: Watch) -> Iterator[Outcome]:
        """What becomes of those tasks of a group that are wanted. The others are trained beside them all the same, for
        sums of another group would be other ones."""


def by_training(
    trainer: adapt.Trainer,
    params: dict,
    start: dict,
    courses: Sequence[adapt.Course],
    tasks: int,
    group: Sequence[Question],
    wanted: set[str],
    watch: Watch,
    outcome: Callable[[int, adapt.Trained, Watch], Outcome],
) -> Iterator[Outcome]:
    """Train an adapter for each task of a group, as `adapt.train` does; then, of those wanted, outcome(number of a
    task, what was trained for it, its own watch)."""

    def go_on(made: int, losses: Sequence[float]) -> bool:
        known = [loss for loss in losses if np.isfinite(loss)]  # a task that is given up has none
        watch.tell(f"{group[0].id}: update {made}, loss {np.mean(known):.3f}")
        return not watch.over(0.5)  # the rest is for answers

    trained = adapt.train(trainer, params, start, courses, go_on, tasks)
    shared, each = watch.spent() / len(group), min(trained[0].each, len(group))

    def answer(number: int) -> Outcome:
        before = watch.spent()
        found = outcome(number, trained[number], watch.answering(number % each, each))
        found.seconds = shared + watch.spent() - before
        return found

    yield from adapt.answers(trained, (n for n, task in enumerate(group) if task.id in wanted), answer)


def begin(folder: AnyPath, header: Mapping, force: bool, budgets: Mapping | None = None) -> None:
    """Begin a run, or go on with one of the same header. Raises InputError where another one is, unless `force`.

    budgets: of a task, which are no part of what the run is: where they are others than before, tasks that were left
    partial are taken up again.
    """
    path = folder / RUN
    there = read_json(path) if path.exists() else {**header, "budgets": budgets}
    before = there.pop("budgets", None)
    if there != header:
        if not force:
            differ = sorted(name for name in {*there, *header} if there.get(name) != header.get(name))
            raise InputError(f"{folder} is of another run ({', '.join(differ)} differ); --force begins anew there")
        trained = [file for one in inside(folder / ADAPTERS) for file in inside(one)]
        kept = *inside(folder / RECORDS), *trained, *inside(folder / REPLIES)
        for file in (*kept, folder / PREDICTIONS, folder / SUBMISSION):
            file.unlink(missing_ok=True)
    elif before != budgets:
        for file in inside(folder / RECORDS):
            if file.suffix == ".json" and read_json(file)["status"] == "partial":
                file.unlink()
    said = {**header, "budgets": budgets} if budgets else header
    write_whole(path, (json.dumps(said, indent=1) + "\n").encode())


def inside(folder: AnyPath) -> list[AnyPath]:
    """What lies in a folder, which need not be there."""
    return [*folder.iterdir()] if folder.is_dir() else []


def done(folder: AnyPath, ids: Sequence[str]) -> list[str]:
    """Those of the tasks that a record is there of."""
    return [name for name in ids if _record(folder, name).exists()]


def _record(folder: AnyPath, task: str) -> AnyPath:
    return folder / RECORDS / f"{task}.json"


def answer(
    folder: AnyPath,
    questions: Sequence[Question],
    solver: Solver,
    at_once: int,
    watch: Callable[[int], Watch],
    base: str,
    adapters: bool = True,
) -> Iterator[dict]:
    """Answer the tasks that no record is there of, `at_once` side by side; each record as it is written.

    watch: gives one for a group of so many tasks. base: name of the model, which stands in the adapters' files.
    """
    for first in range(0, len(questions), at_once):
        group = questions[first : first + at_once]
        names = [one.id for one in group]
        wanted = {*names} - {*done(folder, names)}
        if not wanted:
            continue
        for outcome in solver(group, wanted, watch(len(group))):
            if adapters and outcome.adapter:
                peft.write(folder / ADAPTERS / outcome.task, *outcome.adapter, base)
            record = {
                "task": outcome.task,
                "status": outcome.status,
                "reason": outcome.reason,
                "seconds": round(outcome.seconds, 3),
                "numbers": dict(outcome.numbers),
                "candidates": [_said(line) for line in outcome.candidates],
            }
            write_whole(_record(folder, outcome.task), (json.dumps(record) + "\n").encode())
            yield record


def _said(line: Line) -> dict:
    said = {name: value for name, value in vars(line).items() if value is not None and name != "task"}
    return {**said, "grid": line.grid.tolist()}


def read(folder: AnyPath, task: str) -> tuple[dict, list[Line]]:
    """The record of a task, and its candidates."""
    path = _record(folder, task)
    record = read_json(path)
    grids = [read_grid(f"{path}: test {said['test']}", said["grid"]) for said in record["candidates"]]
    lines = [Line(task, **{**said, "grid": grid}) for said, grid in zip(record["candidates"], grids, strict=True)]
    return record, lines


def merge(folder: AnyPath, header: Header, ids: Sequence[str]) -> dict[str, int]:
    """Write the predictions of all tasks, whose records must be there; how many ended in which way."""
    counts: dict[str, int] = {}
    with writing(folder / PREDICTIONS, header) as writer:
        for name in ids:
            record, lines = read(folder, name)
            for line in lines:
                writer.line(line)
            status = record["status"]
            writer.line(Line(name, status=status, reason=record["reason"], seconds=record["seconds"]))
            counts[status] = counts.get(status, 0) + 1
    return counts
