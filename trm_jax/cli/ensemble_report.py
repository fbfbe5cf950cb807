"""What is said of an ensemble: a table, a report, a submission, predictions, a gallery."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trm_jax.cli.arguments import command
from trm_jax.storage.paths import AnyPath

if TYPE_CHECKING:
    from trm_jax.solvers.ensemble import Ensemble
    from trm_jax.tasks.arc.files import Tasks

# What is written beside the report, and how the names end.
ENDS = {"submission": "submission.json", "predictions": "predictions.jsonl", "gallery": "gallery.html"}
_TASKS, _PAIRS = "mean_over_tasks", "mean_over_pairs"
# Columns of the table: where their values stand in a member's report.
_COLUMNS = {
    "": ("name",),
    "weight": ("weight",),
    "silent\npairs": ("silent",),
    "pass@1\ntasks": ("scores", _TASKS, "pass@1"),
    "pass@2\ntasks": ("scores", _TASKS, "pass@2"),
    "pass@2\npairs": ("scores", _PAIRS, "pass@2"),
    "any\ncandidate": ("any_candidate", _TASKS, "pass@2"),
    "solved by\nno other": ("solved_by_no_other",),
    "pass@2\nwithout it": ("ensemble_without", _TASKS, "pass@2"),
}


def beside(output: AnyPath, end: str) -> AnyPath:
    """X.END for the report X.json."""
    return output.parent / f"{output.name.removesuffix('.json')}.{end}"


def show(found: Mapping, data: AnyPath) -> None:
    """Print what `ensemble.measure` found."""
    from trm_jax.cli.plan import print_table

    print(f"{found['tasks']} tasks, {found['pairs']} test pairs, {found['unanswered']} of them unanswered")
    total = {"name": "ensemble", "silent": found["unanswered"], "scores": found["ensemble"]}
    rows = [*found["members"], {}, total, {"name": "oracle", "scores": found["oracle"]}]
    print_table((*_COLUMNS,), [[_cell(one, *path) for path in _COLUMNS.values()] for one in rows])
    if len(found["members"]) > 1:
        names = [one["name"] for one in found["members"]]
        print("\nsame first grid, of the pairs that both answer:")
        table = [["-" if one is None else f"{one:.4f}" for one in row] for row in found["agreement"]]
        print_table(("", *names), [[name, *row] for name, row in zip(names, table, strict=True)])
    print(found["verdict"] or f"no scores: {data} does not have all answers")
    if len({one["asked"] for one in found["members"]}) > 1:
        print("asked: " + ", ".join(f"{one['name']} {one['asked']} tasks" for one in found["members"]))
    for said in found["contaminated"]:
        print(f"contaminated: {said}")


def _cell(one: Mapping, first: str, *path: str) -> str:
    """A value of a row: empty where the row has no such thing, "-" where it is not known."""
    if first not in one:
        return ""
    value = one[first]
    for name in path if value else ():
        value = value[name]
    return "-" if value is None else f"{value:.4f}" if path else f"{value}" if first == "name" else f"{value:g}"


def write(
    output: AnyPath,
    data: AnyPath,
    made_by: str,
    found: dict,
    told: Mapping,
    chosen: Ensemble,
    voted: Tasks,
    every: Tasks,
) -> None:
    """Write the report, and beside it the submission of `every` task, predictions and gallery of those voted on.

    told: how it was voted, for the report and the header of the predictions.
    """
    from trm_jax.storage.paths import write_whole
    from trm_jax.tasks.arc.files import digest
    from trm_jax.tasks.arc.gallery import gallery
    from trm_jax.tasks.arc.predictions import Header, Line, Member, writing
    from trm_jax.tasks.arc.submission import submission, write_submission
    from trm_jax.tasks.arc.vote import Candidate

    members, names = found["members"], [one["name"] for one in found["members"]]
    settings = {"members": names, "weights": [*chosen.weights], **{key: value for key, value in told.items() if value}}
    settings |= {"contaminated": "; ".join(told["contaminated"])} if told["contaminated"] else {}
    trained = sorted({name for one in members for name in one["trained_on"]})
    member = Member("ensemble", "ensemble", made_by, settings, None, trained)
    places, ranked = {what: beside(output, end) for what, end in ENDS.items()}, {}
    with writing(places["predictions"], Header(member, data.name, digest(voted))) as writer:
        for key, _, placed in chosen.vote(voted):
            ranked[key] = placed
            for one in placed:
                source = ", ".join(names[number] for number in one.members)
                # As ties go by it, so that the order of the lines decides what else is equal.
                writer.line(Line(*key, one.grid, weight=round(one.score, 9), source=source))
            if key[1] == len(voted[key[0]].test) - 1:
                empty = [test for test in range(key[1] + 1) if not ranked[key[0], test]]
                reason = f"no member answers test {', '.join(map(str, empty))}" if empty else None
                writer.line(Line(key[0], status="partial" if empty else "ok", reason=reason))
    best = {key: [one.grid for one in placed[:2]] for key, placed in ranked.items() if placed}
    made = submission(best, every)
    write_submission(places["submission"], made)
    pairs = sum(map(len, made.values()))
    found["submission"] = {"tasks": len(made), "pairs": pairs, "unanswered": pairs - len(best)}
    shown = ((key, [Candidate(one.grid, one.score) for one in placed]) for key, placed in ranked.items())
    about = [f"{one['name']}: {one['file']}, weight {one['weight']:g}" for one in members]
    about += filter(None, [found["verdict"]])
    page = gallery(f"An ensemble's answers to {data.name}", about, shown, voted)
    write_whole(places["gallery"], page.encode())
    write_whole(output, (json.dumps(found, indent=1) + "\n").encode())
    submitted = places.pop("submission")
    print(f"wrote {submitted}: {len(made)} tasks, {pairs} test pairs, {pairs - len(best)} without an answer")
    print(f"wrote {', '.join(map(str, (output, *places.values())))}")
    print(f"next: {command('arc', 'score', submitted, '--data', data)}", file=sys.stderr)
