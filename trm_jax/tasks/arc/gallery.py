"""The gallery: one HTML page, which needs nothing else, of tasks and all that was answered to them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from string import Template

import numpy as np

from trm_jax.tasks.arc.files import Tasks
from trm_jax.tasks.arc.vote import Candidate, Key

ATTEMPTS = 2  # of which one must be right for a test pair to be solved


def _text(grid: np.ndarray) -> str:
    return "|".join("".join(map(str, row)) for row in grid.tolist())


def gallery(title: str, about: Sequence[str], ranked: Iterable[tuple[Key, list[Candidate]]], tasks: Tasks) -> str:
    """The page; about: lines above the tasks. A task is solved if one of two attempts at each of its pairs is right."""
    found: dict[Key, list[dict]] = {}
    for (name, number), candidates in ranked:
        answer = tasks[name].test[number].output
        found[name, number] = [
            {
                "grid": _text(one.grid),
                "votes": round(one.weight, 3),
                "q": round(one.q, 6) if one.qs else None,
                "right": answer is not None and np.array_equal(one.grid, answer),
            }
            for one in candidates
            if one.grid.size
        ]
    content = []
    for name, task in tasks.items():
        tests = []
        for number, pair in enumerate(task.test):
            candidates = found.get((name, number), [])
            rank = next((place for place, one in enumerate(candidates, 1) if one["right"]), None)
            output = None if pair.output is None else _text(pair.output)
            tests.append({"input": _text(pair.input), "output": output, "rank": rank, "candidates": candidates})
        known = all(pair.output is not None for pair in task.test)
        solved = all(test["rank"] and test["rank"] <= ATTEMPTS for test in tests)
        shown = [[_text(pair.input), _text(pair.output)] for pair in task.train]
        state = ("solved" if solved else "failed") if known else "unknown"
        content.append({"id": name, "state": state, "train": shown, "test": tests})
    # Inside a script no text may look like its end.
    data = json.dumps({"about": list(about), "tasks": content}, separators=(",", ":")).replace("</", "<\\/")
    page = Template(Path(__file__).with_name("gallery.html").read_text(encoding="utf-8"))
    return page.substitute(title=escape(title), data=data)
