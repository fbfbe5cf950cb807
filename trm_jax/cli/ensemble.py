"""`trm ensemble`: one vote of several solvers' predictions: a submission, and what each member adds.

A member's candidates share its weight by their votes, likelihoods or ranks; submission.json is read as ranks. --mode
count takes the three best grids of each member and counts them as MARC does; --mode rescore lets the language model
--scorer rank the best of all by NVARC's likelihood. --output writes the report, and beside it the submission, the
predictions and a gallery. Scores are those of the tasks that all members were asked. Weights are tuned on tasks that
are then left out of the scores. --config votes with the members of a configuration: it runs what makes their
predictions where the models are there, and says what is missing; --plan says what it would cost.

examples:
  trm ensemble marc=A.jsonl:.4 nvarc=B.jsonl:.35 trm=C.jsonl:.25 --data arc/evaluation --output results.json
  trm ensemble marc=A.jsonl trm=C.jsonl --data arc/evaluation --tune-weights 00576224 009d5c81 00dbd492
  trm ensemble marc=A.jsonl trm=C.jsonl --data arc/evaluation --mode rescore --scorer models/nvarc-4B --output r.json
  trm ensemble --config A --plan
  trm ensemble --config A --data arc/evaluation --output results.json
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trm_jax.cli.arguments import add_documented, any_path, check_free, command, options_again, positive
from trm_jax.cli.ensemble_members import Given, of_config, parse, print_plan
from trm_jax.cli.lm import add_loading, loading, model_path, open_model
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath

if TYPE_CHECKING:
    from trm_jax.tasks.arc.vote import Ballot

POOL = 20  # grids of a test pair that are rescored, the best ones


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "ensemble", run, __doc__)
    parser.add_argument("members", nargs="*", metavar="NAME=FILE[:WEIGHT]", help="predictions, or a submission.json")
    parser.add_argument("--data", type=any_path, metavar="SET", help="folder of tasks, or ..._challenges.json")
    text = "the report; X.submission.json, X.predictions.jsonl and X.gallery.html stand beside X.json"
    parser.add_argument("--output", type=any_path, metavar="FILE.json", help=text)
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--mode", choices=("weighted", "count", "rescore"), default="weighted", help="(weighted)")
    text = "a member that says nothing of a test pair (renormalise: the others share its weight)"
    parser.add_argument("--missing", choices=("renormalise", "zero", "error"), default="renormalise", help=text)
    text = "find weights on these tasks, and score the others"
    parser.add_argument("--tune-weights", nargs="+", metavar="ID", help=text)
    text = "take members that were trained on the answers, and mark what is written"
    parser.add_argument("--allow-contaminated", action="store_true", help=text)
    group = parser.add_argument_group("configurations")
    group.add_argument(
        "--config", dest="configuration", choices=("A", "B", "C"), help="members and weights of a file of this package"
    )
    group.add_argument("--plan", action="store_true", help="say what it takes and what is claimed of it")
    group.add_argument("--dry-run", action="store_true", help="say what would be run")
    group = parser.add_argument_group("rescoring")
    group.add_argument("--scorer", type=model_path, metavar="MODEL", help="a folder, or a .gguf file")
    group.add_argument("--prompts-at-once", type=positive, default=4, metavar="N", help="texts at a time (4)")
    add_loading(parser)


def run(args) -> int:
    from trm_jax.cli.arc_run import Ended
    from trm_jax.solvers import configuration
    from trm_jax.tasks.arc.files import read_tasks

    _check(args)
    given = [parse(text) for text in args.members]
    _require_different(given)
    if args.plan:
        print_plan(configuration.read(args.configuration))
        return 0
    every = read_tasks(args.data) if args.data else {}
    if args.configuration:
        try:
            given = of_config(args, configuration.read(args.configuration), given)
        except Ended as end:
            return end.code
        if args.dry_run:
            return 0
        _require_different(given)
    return _vote(args, given, _weights(given), every)


def _require_different(given: list[Given]) -> None:
    for number, one in enumerate(given):
        for other in given[:number]:
            if one.name == other.name:
                raise InputError(f"{one.name} stands there twice; give each member once")
            if _place(one.file) == _place(other.file):
                raise InputError(f"{other.name} and {one.name} are both {other.file}; give each member once")


def _place(file: AnyPath) -> AnyPath:
    return file.resolve() if isinstance(file, Path) else file


def _weights(given: list[Given]) -> list[float]:
    """As they are given, or all alike."""
    weights = [one.weight for one in given]
    if None not in weights:
        return weights
    if len(set(weights)) > 1:
        lacking = given[weights.index(None)].name
        raise InputError(f"{lacking} has no weight and others have one; write NAME=FILE:WEIGHT for all, or for none")
    return [1.0] * len(given)


def _check(args) -> None:
    """What does not go together."""
    if (args.plan or args.dry_run) and not args.configuration:
        raise InputError("--plan and --dry-run are of a configuration; give --config A, B or C")
    if not args.members and not args.configuration:
        raise InputError("no members; write NAME=FILE:WEIGHT for each, or --config A, B or C")
    if args.data is None and not args.plan and not args.dry_run:
        raise InputError("--data is missing; name the tasks that the members answer")
    if (args.mode == "rescore") != bool(args.scorer):
        raise InputError("--mode rescore and --scorer MODEL belong together; give both or none")
    if args.output:
        for path in _files(args.output).values():
            check_free(path, args.force)
    if args.mode == "rescore" and args.output is None:
        raise InputError("--mode rescore keeps what it has scored beside the report; give --output")
    if args.mode != "weighted" and args.tune_weights:
        raise InputError(f"--tune-weights: {args.mode} has no weights to tune; leave one out")


def _files(output: AnyPath) -> dict[str, AnyPath]:
    stem = output.name.removesuffix(".json")
    ends = {"submission": "submission.json", "predictions": "predictions.jsonl", "gallery": "gallery.html"}
    return {"report": output} | {what: output.parent / f"{stem}.{end}" for what, end in ends.items()}


def _vote(args, given: list[Given], weights: list[float], every: dict) -> int:
    from trm_jax.cli.main import EXIT_STOPPED
    from trm_jax.solvers import ensemble

    names = [one.name for one in given]
    ensemble.check_weights(weights, names)
    if args.mode != "weighted" and len(set(weights)) > 1:
        raise InputError(f"--mode {args.mode} has no weights; leave them out")
    if args.tune_weights and any(one.weight is not None for one in given):
        raise InputError("--tune-weights finds the weights; leave those of the members out")
    entries = [_enter(one, every) for one in given]
    contaminated = _contaminated(args, entries)
    common = [name for name in every if all(name in one.tasks for one in entries)]
    if not common:
        raise InputError(f"no task is answered by all of {', '.join(names)}; give members that were asked the same")
    tuned = set(args.tune_weights or ())
    if unknown := sorted(tuned - set(common)):
        raise InputError(f"--tune-weights {unknown[0]}: no task of that name is answered by all members")
    reported = {name: every[name] for name in common if name not in tuned}
    if not reported:
        raise InputError("--tune-weights names every task; leave some to score")
    voters = tuple(ensemble.Voter(one.given.name, one.ballot) for one in entries)
    chosen = ensemble.Ensemble(
        voters, tuple(weights), ensemble.RULES.get(args.mode, ensemble.RULES["weighted"]), args.missing
    )
    if tuned:
        chosen = _tuned(chosen, {name: every[name] for name in common if name in tuned})
    voted = {name: task for name, task in every.items() if any(name in one.tasks for one in entries)}
    if args.mode == "rescore":
        rule = _rescored(args, chosen, voted, contaminated)
        if rule is None:
            return EXIT_STOPPED
        chosen = dataclasses.replace(chosen, rule=rule)
    found = ensemble.measure(chosen, reported)
    found["data"] = {"name": args.data.name, "tuned_on": sorted(tuned)}
    found["mode"], found["missing"], found["contaminated"] = args.mode, args.missing, contaminated
    for said, one in zip(found["members"], entries, strict=True):
        said["file"], said["trained_on"] = str(one.given.file), list(one.trained_on)
    if len(reported) < len(every):
        without = f", but the {len(tuned)} that weights were tuned on" if tuned else ""
        print(f"of the {len(every)} tasks of {args.data} those that all members were asked{without}:")
    _print(args, found)
    if args.output:
        _write(args, found, chosen, entries, voted, every)
    else:
        again = options_again(
            ("--mode", args.mode, "weighted"),
            ("--missing", args.missing, "renormalise"),
            ("--allow-contaminated", args.allow_contaminated, False),
        )
        again += ["--tune-weights", *args.tune_weights] if tuned else []
        words = (*map(str, given), "--data", args.data, *again, "--output", "results.json")
        print(f"next: {command('ensemble', *words)}", file=sys.stderr)
    return 0


class _Entry(NamedTuple):
    """A member whose file was read."""

    given: Given
    ballot: Ballot
    tasks: dict  # that it was asked
    trained_on: tuple[str, ...]
    contaminated: str | None  # what is known of it


def _enter(given: Given, every: dict) -> _Entry:
    """Read a member. Raises InputError for answers to other tasks."""
    from trm_jax.tasks.arc.predictions import asked, contaminated, read, read_ballot
    from trm_jax.tasks.arc.submission import NOTHING, read_submission
    from trm_jax.tasks.arc.vote import Ballot

    if not given.file.name.endswith(".json"):
        header = read(given.file)[0]
        tasks, ballot = asked(given.file, every), read_ballot(given.file)
        trained, known = tuple(header.member.trained_on), contaminated(header)
    else:
        ballot, trained, known = Ballot(), (), None
        found = read_submission(given.file)
        for (name, test), grids in found.items():
            if [grid.tolist() for grid in grids] != [NOTHING]:  # which says that nothing was found
                for place, grid in enumerate((grid for grid in grids if grid.size), 1):
                    ballot.add(name, test, grid, place, weight=1 / place)
        tasks = {name: every[name] for name in dict.fromkeys(name for name, _ in found) if name in every}
        named = {name for name, _ in found}
        if strange := sorted(named - every.keys()):
            raise InputError(f"{given.file}: task {strange[0]} is none of the tasks given; name the set it belongs to")
    for (name, test), _ in ballot.ranked():
        if name not in tasks or test >= len(tasks[name].test):
            raise InputError(f"{given.file}: task {name}, test {test} is not among the tasks given; mend the file")
    return _Entry(given, ballot, tasks, trained, known)


def _contaminated(args, entries: list[_Entry]) -> list[str]:
    found = [f"{one.given.name} was trained on {one.contaminated}" for one in entries if one.contaminated]
    if found and not args.allow_contaminated:
        said = f"{found[0]}, which it is asked"
        raise InputError(f"{said}; leave it out, or --allow-contaminated, which marks what is written")
    return found


def _tuned(chosen, tasks: dict):
    """The ensemble with the weights that do best on `tasks`."""
    from contextlib import closing

    from trm_jax.solvers import ensemble
    from trm_jax.tasks.arc.vote import unknown
    from trm_jax.train.progress import Progress

    for name, task in tasks.items():
        if (number := unknown(task)) is not None:
            raise InputError(f"--tune-weights {name}: test {number} has no output; tuning needs the answers")
    splits = ensemble.splits(len(chosen.voters))
    with closing(Progress("weights", len(splits))) as progress:
        weights = ensemble.tune(chosen, tasks, splits, progress.step)
    said = " ".join(f"{one.name} {weight:g}" for one, weight in zip(chosen.voters, weights, strict=True))
    print(f"weights tuned on {len(tasks)} tasks: {said}", file=sys.stderr)
    return dataclasses.replace(chosen, weights=weights)


def _rescored(args, chosen, tasks: dict, contaminated: list[str]):
    """The rule by the costs of the pool under --scorer, whose records stand beside the report; None: stopped."""
    import hashlib

    from trm_jax import compiler
    from trm_jax.cli import ttt
    from trm_jax.language.model import digest
    from trm_jax.solvers import ensemble
    from trm_jax.solvers import run as runs
    from trm_jax.solvers.nvarc import select
    from trm_jax.solvers.nvarc.rescore import Rescorer
    from trm_jax.solvers.seen import seen
    from trm_jax.tasks.arc import files

    known = seen(tasks, [one for one in (args.scorer, args.adapter) if one and one.is_dir()], [])
    if known.ids or known.pairs:
        contaminated.append(f"the scorer was trained on {known}")
        if not args.allow_contaminated:
            raise InputError(f"{contaminated[-1]}; take another, or --allow-contaminated")
    pool = {key: [one.grid for one in placed[:POOL]] for key, _, placed in chosen.vote(tasks)}
    text = json.dumps([[*key, [grid.tolist() for grid in grids]] for key, grids in pool.items()])
    folder = args.output.parent / f"{args.output.name.removesuffix('.json')}.scores"
    header = {"recipe": "rescore", "model": digest(args.scorer, **loading(args)), "data": files.digest(tasks)}
    runs.begin(folder, {**header, "pool": hashlib.sha256(text.encode()).hexdigest()}, args.force)
    if len(runs.done(folder, [*tasks])) < len(tasks):
        compiler.use_cache()
        solver = Rescorer(ttt.plain(open_model(args.scorer, loading(args))), args.prompts_at_once, pool)
        if not ttt.work(folder, "rescoring", tasks, solver, args.scorer.name):
            return None
    costs: dict = {}
    for name in tasks:
        for line in runs.read(folder, name)[1]:
            costs.setdefault((name, line.test), []).append(select.Candidate(line.grid, (), line.view_nll))
    return ensemble.rescored(costs)


def _print(args, found: dict) -> None:
    from trm_jax.cli.plan import print_table
    from trm_jax.solvers.ensemble import pass2

    def figures(scores: dict | None) -> list[str]:
        if scores is None:
            return ["-"] * 3
        tasks, pairs = scores["mean_over_tasks"], scores["mean_over_pairs"]
        return [f"{one:.4f}" for one in (tasks["pass@1"], tasks["pass@2"], pairs["pass@2"])]

    print(f"{found['tasks']} tasks, {found['pairs']} test pairs, {found['unanswered']} of them unanswered")
    rows = []
    for one in found["members"]:
        more = ["-"] * 3
        if one["scores"]:
            without = f"{pass2(one['ensemble_without']):.4f}" if one["ensemble_without"] else "-"
            more = [f"{pass2(one['any_candidate']):.4f}", f"{one['solved_by_no_other']}", without]
        rows.append([one["name"], f"{one['weight']:g}", f"{one['silent']}", *figures(one["scores"]), *more])
    rows += [(), ["ensemble", "", f"{found['unanswered']}", *figures(found["ensemble"]), "", "", ""]]
    rows += [["oracle", "", "", *figures(found["oracle"]), "", "", ""]]
    headings = ("", "weight", "silent\npairs", "pass@1\ntasks", "pass@2\ntasks", "pass@2\npairs", "any\ncandidate")
    print_table((*headings, "solved by\nno other", "pass@2\nwithout it"), rows)
    if len(found["members"]) > 1:
        names = [one["name"] for one in found["members"]]
        print("\nsame first grid, of the pairs that both answer:")
        table = [["-" if one is None else f"{one:.4f}" for one in row] for row in found["agreement"]]
        print_table(("", *names), [[name, *row] for name, row in zip(names, table, strict=True)])
    print(found["verdict"] or f"no scores: {args.data} does not have all answers")
    for said in found["contaminated"]:
        print(f"contaminated: {said}")


def _write(args, found: dict, chosen, entries: list[_Entry], voted: dict, every: dict) -> None:
    from trm_jax.storage.paths import write_whole
    from trm_jax.tasks.arc.files import digest
    from trm_jax.tasks.arc.gallery import gallery
    from trm_jax.tasks.arc.predictions import Header, Line, Member, writing
    from trm_jax.tasks.arc.submission import submission, write_submission
    from trm_jax.tasks.arc.vote import Candidate

    files, names = _files(args.output), [one.given.name for one in entries]
    settings = {"members": names, "weights": list(chosen.weights), "mode": args.mode, "missing": args.missing}
    settings |= {"tuned_on": found["data"]["tuned_on"]} if found["data"]["tuned_on"] else {}
    settings |= {"contaminated": "; ".join(found["contaminated"])} if found["contaminated"] else {}
    trained = sorted({name for one in entries for name in one.trained_on})
    made_by = command("ensemble", *map(str, (one.given for one in entries)), "--data", args.data)
    member = Member("ensemble", "ensemble", made_by, settings, None, trained)
    ranked = {}
    with writing(files["predictions"], Header(member, args.data.name, digest(voted))) as writer:
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
    write_submission(files["submission"], made)
    pairs = sum(map(len, made.values()))
    found["submission"] = {"tasks": len(made), "pairs": pairs, "unanswered": pairs - len(best)}
    shown = ((key, [Candidate(one.grid, one.score) for one in placed]) for key, placed in ranked.items())
    about = [
        f"{one.given.name}: {one.given.file}, weight {weight:g}"
        for one, weight in zip(entries, chosen.weights, strict=True)
    ]
    if found["verdict"]:
        about.append(found["verdict"])
    write_whole(files["gallery"], gallery(f"An ensemble's answers to {args.data.name}", about, shown, voted).encode())
    write_whole(files["report"], (json.dumps(found, indent=1) + "\n").encode())
    print(f"wrote {files['submission']}: {len(made)} tasks, {pairs} test pairs, {pairs - len(best)} without an answer")
    print(f"wrote {', '.join(str(files[name]) for name in ('report', 'predictions', 'gallery'))}")
    print(f"next: {command('arc', 'score', files['submission'], '--data', args.data)}", file=sys.stderr)
