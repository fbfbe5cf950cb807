"""Predictions: the one file that everything which answers ARC tasks writes, and that everything else reads.

JSON lines. The first is a header; the others are candidates, {"task", "test", "grid", and "weight", "nll" or nothing},
and what became of a task, {"task", "status"}. Lines of one grid add up: weights, or probabilities exp(-nll); by rank,
the lines of a test pair stand best first. A grid without cells, which is never right, is left out.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path, local_copy, replacement
from trm_jax.tasks.arc.files import ID, Tasks, digest, read_grid
from trm_jax.tasks.arc.vote import Ballot, Candidate, Key

FORMAT = "trm-predictions-1"
NAME = re.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # of a member
KINDS = ("trm", "arc_transformer", "marc", "nvarc", "refine", "hybrid", "ensemble", "external")
SCORE_KINDS = ("weight", "nll", "rank")
STATUSES = ("ok", "partial", "skipped", "failed")
_HEADER = {"format", "member", "data", "score_kind"}
_MEMBER = {"name", "kind", "command", "settings", "weights_sha256", "trained_on"}
_CANDIDATE = {"task", "test", "grid", "weight", "nll", "q", "view", "view_nll", "source"}
_STATUS = {"task", "test", "status", "reason", "seconds"}
_TEXTS = "view", "source", "reason"
_MOST = 1e300  # sums of such numbers are finite


@dataclass(frozen=True)
class Member:
    """Who answers."""

    name: str
    kind: str  # one of KINDS
    command: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights_sha256: str | None = None
    trained_on: Sequence[str] = ()  # data sets whose answers it has seen


@dataclass(frozen=True)
class Header:
    """Who answers what, and which field of the candidates counts in a vote."""

    member: Member
    data_name: str
    data_sha256: str  # of `files.digest`
    score_kind: str = "weight"  # one of SCORE_KINDS


@dataclass(frozen=True)
class Line:
    """A candidate, or (grid None) what became of a task or of one of its test pairs."""

    task: str
    test: int | None = None
    grid: np.ndarray | None = None  # [H, W] uint8
    weight: float | None = None
    nll: float | None = None
    q: float | None = None
    view: str | None = None
    view_nll: Sequence[float] | None = None
    source: str | None = None
    status: str | None = None
    reason: str | None = None
    seconds: float | None = None


def contaminated(header: Header) -> str | None:
    """What a member was trained on though it is asked just that, as its header says; None for nothing."""
    if told := header.member.settings.get("contaminated"):
        return str(told)
    whole = [one for one in header.member.trained_on if one.removesuffix(":all") == header.data_name]
    return f"the answers of {whole[0]}" if whole else None


class Writer:
    """Writes lines; what is not given is left out."""

    def __init__(self, file, header: Header):
        self._file = file
        member = {key: value for key, value in asdict(header.member).items() if value not in ("", {}, ())}
        member["weights_sha256"] = header.member.weights_sha256
        if header.member.trained_on:
            member["trained_on"] = list(header.member.trained_on)
        data = {"name": header.data_name, "sha256": header.data_sha256}
        self._put({"format": FORMAT, "member": member, "data": data, "score_kind": header.score_kind})

    def _put(self, line: Mapping) -> None:
        self._file.write(json.dumps(line) + "\n")

    def candidates(self, key: Key, candidates: Iterable[Candidate]) -> None:
        """The candidates of a test pair, best first."""
        for one in candidates:
            if one.grid.size:
                said = {"task": key[0], "test": key[1], "grid": one.grid.tolist(), "weight": one.weight}
                self._put(said | ({"q": one.q} if one.qs else {}))

    def line(self, line: Line) -> None:
        """Any line."""
        said = {key: value for key, value in vars(line).items() if value is not None}
        if line.grid is not None:
            said["grid"] = line.grid.tolist()
        self._put(said)


@contextmanager
def writing(path: str | AnyPath, header: Header) -> Iterator[Writer]:
    """A writer of the file at `path`, which stands there whole or not at all."""
    with replacement(as_path(path)) as new, new.open("w", encoding="utf-8") as file:
        yield Writer(file, header)


def read(path: str | AnyPath) -> tuple[Header, Iterator[Line]]:
    """(header, lines as they are read) of a predictions file. Raises InputError naming the line and what it lacks."""
    path = as_path(path)
    lines = _lines(path)
    number, first = next(lines, (1, None))
    header = _header(f"{path} line {number}", first)
    return header, (_line(f"{path} line {n}", said, header.score_kind) for n, said in lines)


def _lines(path: AnyPath) -> Iterator[tuple[int, Any]]:
    try:
        with local_copy(path) as copy, copy.open("rb") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    try:
                        said = json.loads(line.decode("utf-8-sig" if number == 1 else "utf-8"))
                    except (ValueError, RecursionError) as error:  # of numbers and nests without end too
                        raise InputError(f"{path} line {number}: not JSON ({error}); copy the file once more") from None
                    yield number, said
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; name a predictions file, as `trm eval` writes it") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder; name a predictions file in it") from None


def _need(holds: bool, where: str, said: str) -> None:
    if not holds:
        raise InputError(f"{where}: {said}")


def _header(where: str, said: Any) -> Header:
    _need(isinstance(said, dict) and said.get("format") == FORMAT, where, f"no header with format {FORMAT!r}")
    _need(not said.keys() - _HEADER, where, f"{sorted(said.keys() - _HEADER)[:1]} does not belong to a header")
    member, data = said.get("member"), said.get("data")
    _need(isinstance(member, dict) and not member.keys() - _MEMBER, where, "member is no object of known names")
    name = member.get("name")
    named = isinstance(name, str) and NAME.fullmatch(name)
    _need(bool(named), where, f"the member's name is {name!r}; write letters, digits, . _ -")
    _need(member.get("kind") in KINDS, where, f"kind is {member.get('kind')!r}; one of {', '.join(KINDS)}")
    _need(isinstance(member.get("settings", {}), dict), where, "the member's settings are no object")
    trained = member.get("trained_on", [])
    strings = isinstance(trained, list) and all(isinstance(one, str) for one in trained)
    _need(strings, where, "trained_on is no list of names of sets")
    texts = isinstance(member.get("command", ""), str) and isinstance(member.get("weights_sha256") or "", str)
    _need(texts, where, "the member's command and weights_sha256 are texts")
    known = isinstance(data, dict) and data.keys() == {"name", "sha256"} and all(type(x) is str for x in data.values())
    _need(known and bool(re.fullmatch("[0-9a-f]{64}", data["sha256"])), where, "data needs a name and a sha256 alone")
    kind = said.get("score_kind")
    _need(kind in SCORE_KINDS, where, f"score_kind is {kind!r}; one of {', '.join(SCORE_KINDS)}")
    return Header(Member(**member), data["name"], data["sha256"], kind)


def _is_number(value: Any, least: float = -_MOST) -> bool:
    return type(value) in (int, float) and least <= value <= _MOST


def _line(where: str, said: Any, score_kind: str) -> Line:
    _need(isinstance(said, dict), where, "no JSON object")
    task = said.get("task")
    _need(isinstance(task, str) and bool(ID.fullmatch(task)), where, f"task is {task!r}; write its id")
    test = said.get("test")
    _need(test is None or type(test) is int and test >= 0, where, f"test is {test!r}; count from 0")
    for name in said:
        _need(said[name] is not None, where, f"{name} is null; leave it out")
        _need(name not in _TEXTS or isinstance(said[name], str), where, f"{name} is {said[name]!r:.40}; write a text")
    if "status" in said:
        _need(not said.keys() - _STATUS, where, f"{sorted(said.keys() - _STATUS)[:1]} does not belong to a status")
        _need(said["status"] in STATUSES, where, f"status is {said['status']!r}; one of {', '.join(STATUSES)}")
        _need(_is_number(said.get("seconds", 0), 0), where, f"seconds is {said.get('seconds')!r:.40}; write a number")
        return Line(**said)
    _need(not said.keys() - _CANDIDATE, where, f"{sorted(said.keys() - _CANDIDATE)[:1]} does not belong to a candidate")
    _need(test is not None and "grid" in said, where, "a candidate needs task, test and grid")
    for name, least in (("weight", 0), ("nll", 0), ("q", -_MOST)):
        fine = _is_number(said.get(name, 0), least)
        _need(fine, where, f"{name} is {said.get(name)!r:.40}; write a number{' from 0 on' if least == 0 else ''}")
    views = said.get("view_nll", [])
    _need(isinstance(views, list) and all(map(_is_number, views)), where, "view_nll is no list of numbers")
    line = Line(**{**said, "grid": read_grid(where, said["grid"])})
    counts = score_kind == "rank" or said.get(score_kind) is not None
    _need(counts, where, f"a candidate without {score_kind}, which counts here as the header says")
    return line


def asked(path: str | AnyPath, tasks: Tasks) -> Tasks:
    """Those of `tasks` that a file answers. Raises InputError where its tasks or their test inputs are others."""
    header, lines = read(path)
    if header.data_sha256 == digest(tasks):
        return tasks
    named = {line.task for line in lines}
    some = {name: task for name, task in tasks.items() if name in named}
    if header.data_sha256 != digest(some):
        said = f"{path} answers {header.data_name}, whose tasks or test inputs are not those of the tasks given"
        raise InputError(f"{said}: name the set that it belongs to")
    return some


def ranked(
    paths: Sequence[str | AnyPath], weights: Sequence[float] | None = None
) -> Iterator[tuple[Key, list[Candidate]]]:
    """The candidates of every test pair from one or several files, best first; task by task.

    weights: of the files. A grid's weight in a file is its share of that test pair's weights there, so that a file that
    says more does not count more; in a single file it is the sum itself. Files of other data are refused.
    """
    digests: dict[str, str] = {}
    for path in paths:
        digests.setdefault(read(path)[0].data_sha256, str(path))
    if len(digests) > 1:
        one, other, *_ = digests.values()
        raise InputError(f"{one} and {other} answer other tasks (data.sha256 differs); vote on one set at a time")
    ballots = [read_ballot(path) for path in paths]
    if len(ballots) == 1:
        yield from ballots[0].ranked()
        return
    together = Ballot()
    for number, ballot in enumerate(ballots):
        for key, candidates in ballot.ranked():
            total = sum(one.weight for one in candidates)
            factor = (weights[number] if weights else 1.0) / total if total else 0.0
            for one in candidates:
                q = one.q if one.qs else None
                together.add(*key, one.grid, number << 32 | one.first, q, factor * one.weight)
    yield from together.ranked()


def read_ballot(path: str | AnyPath) -> Ballot:
    """The votes of a file. Of probabilities, those of a test pair are divided by the largest: they may be tiny."""
    header, lines = read(path)
    found, by_rank, least = Ballot(), defaultdict(set), defaultdict(lambda: math.inf)
    if header.score_kind == "nll":
        for line in read(path)[1]:
            if line.grid is not None:
                least[line.task, line.test] = min(least[line.task, line.test], line.nll)
    for position, line in enumerate(lines):
        if line.grid is None:
            continue
        weight = line.weight
        if header.score_kind == "rank":
            above, identity = by_rank[line.task, line.test], (line.grid.shape, line.grid.tobytes())
            if identity in above:
                continue
            above.add(identity)
            weight = 1.0 / len(above)
        elif header.score_kind == "nll":
            weight = math.exp(least[line.task, line.test] - line.nll)
        found.add(line.task, line.test, line.grid, position, line.q, weight)
    return found
