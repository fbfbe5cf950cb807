"""`trm ensemble`: one vote of several solvers' predictions: a submission, and what each member adds.

A member's candidates share its weight by their votes, likelihoods or ranks; submission.json is read as ranks. --mode
count takes the three best grids of each member and counts them as MARC does; --mode rescore lets the language model
--scorer rank the best of all by NVARC's likelihood. --output writes the report, and beside it the submission, the
predictions and a gallery. Members may have been asked different tasks: scores are those of the tasks that all of them
were asked, the submission has all of --data. Weights are tuned on tasks that are then left out of the scores. --config
votes with the members of a configuration: it runs what makes their predictions where the models are there, and says
what is missing; --plan says what it would cost.

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

from trm_jax.cli import ensemble_plan, ttt
from trm_jax.cli import ensemble_report as report
from trm_jax.cli.arguments import add_documented, any_path, check_free, command, options_again, positive
from trm_jax.cli.ensemble_members import Given, different, enter, of_config, parse, weights_of
from trm_jax.cli.ensemble_report import ENDS, beside
from trm_jax.cli.lm import add_loading, loading, model_path, open_model
from trm_jax.errors import InputError

POOL = 20  # grids of a test pair that are rescored, the best ones


def add_parser(subparsers) -> None:
    parser = add_documented(subparsers, "ensemble", run, __doc__)
    parser.add_argument("members", nargs="*", metavar="NAME=FILE[:WEIGHT]", help="predictions, or a submission.json")
    parser.add_argument("--data", type=any_path, metavar="SET", help="folder of tasks, or ..._challenges.json")
    parser.add_argument("--tasks", nargs="+", metavar="ID", help="of the set, these alone")
    text = "the report; X.submission.json, X.predictions.jsonl and X.gallery.html stand beside X.json"
    parser.add_argument("--output", type=any_path, metavar="FILE.json", help=text)
    parser.add_argument("--force", action="store_true", help="replace files that exist")
    parser.add_argument("--mode", choices=("weighted", "count", "rescore"), default="weighted", help="(weighted)")
    text = "a member that says nothing of a test pair (renormalise: the others share its weight)"
    parser.add_argument("--missing", choices=("renormalise", "zero", "error"), default="renormalise", help=text)
    text = "find weights on these tasks, and score the others"
    parser.add_argument("--tune-weights", nargs="+", metavar="ID", default=[], help=text)
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
    given = different([parse(text) for text in args.members])
    if args.plan:
        ensemble_plan.show(configuration.read(args.configuration))
        return 0
    every = read_tasks(args.data) if args.data else {}
    if args.configuration:
        try:
            given = different(of_config(args, configuration.read(args.configuration), given))
        except Ended as end:
            return end.code
        if args.dry_run:
            return 0
    return _vote(args, given, weights_of(given), every)


def _check(args) -> None:
    """What does not go together."""
    planned, rescore, tuned = args.plan or args.dry_run, args.mode == "rescore", args.tune_weights
    faults = {
        "--plan and --dry-run are of a configuration; give --config A, B or C": planned and not args.configuration,
        "no members; write NAME=FILE:WEIGHT for each, or --config A, B or C": not (args.members or args.configuration),
        "--plan shows a configuration as it is; leave NAME=FILE out": args.plan and args.members,
        "--data is missing; name the tasks that the members answer": not (args.data or planned),
        "--mode rescore and --scorer MODEL belong together; give both or none": rescore != bool(args.scorer),
        "--mode rescore keeps what it has scored beside the report; give --output": rescore and not args.output,
        f"--tune-weights: {args.mode} has no weights to tune; leave one out": tuned and args.mode != "weighted",
    }
    for said, wrong in faults.items():
        if wrong:
            raise InputError(said)
    for path in [args.output, *(beside(args.output, end) for end in ENDS.values())] if args.output else ():
        check_free(path, args.force)


def _check_seen(args, found: list[str]) -> None:
    """Raise InputError for what was trained on answers, unless that is allowed."""
    if found and not args.allow_contaminated:
        said = f"{found[0]}, which it is asked; leave it out"
        raise InputError(f"{said}, or --allow-contaminated, which marks what is written")


def _vote(args, given: list[Given], weights: list[float], every: dict) -> int:
    from trm_jax.cli.main import EXIT_STOPPED
    from trm_jax.solvers import ensemble

    names = [one.name for one in given]
    ensemble.check_weights(weights, names)
    if args.mode != "weighted" and len(set(weights)) > 1:
        raise InputError(f"--mode {args.mode} has no weights; leave them out")
    if args.tune_weights and any(one.weight is not None for one in given):
        raise InputError("--tune-weights finds the weights; leave those of the members out")
    entries = [enter(one, args.data, every) for one in given]
    every = ttt.chosen(args, every)
    told = {"mode": args.mode, "missing": args.missing, "tuned_on": sorted({*args.tune_weights})}
    told["contaminated"] = [f"{one.given.name} was trained on {one.seen}" for one in entries if one.seen]
    _check_seen(args, told["contaminated"])
    voted = {name: task for name, task in every.items() if any(name in one.tasks for one in entries)}
    common = [name for name in voted if all(name in one.tasks for one in entries)]
    if not common:
        raise InputError(f"no task is answered by all of {', '.join(names)}; give members that were asked the same")
    if unknown := sorted({*told["tuned_on"]} - {*common}):
        raise InputError(f"--tune-weights {unknown[0]}: no task of that name is answered by all members")
    reported = {name: every[name] for name in common if name not in told["tuned_on"]}
    if not reported:
        raise InputError("--tune-weights names every task; leave some to score")
    voters = tuple(ensemble.Voter(one.given.name, one.ballot) for one in entries)
    rule = ensemble.RULES.get(args.mode, ensemble.RULES["weighted"])
    chosen = ensemble.Ensemble(voters, tuple(weights), rule, args.missing)
    if told["tuned_on"]:
        chosen = _tuned(chosen, {name: every[name] for name in told["tuned_on"]})
    if args.mode == "rescore":
        rule = _rescored(args, chosen, voted, told["contaminated"])
        if rule is None:
            return EXIT_STOPPED
        chosen = dataclasses.replace(chosen, rule=rule)
    found = {**ensemble.measure(chosen, reported), "data": args.data.name, **told}
    for said, one in zip(found["members"], entries, strict=True):
        said |= {"file": str(one.given.file), "trained_on": [*one.trained_on]}
        said["asked"] = len(one.tasks.keys() & every.keys())
    if len(reported) < len(every):
        without = f", but the {len(told['tuned_on'])} that weights were tuned on" if told["tuned_on"] else ""
        print(f"of the {len(every)} tasks of {args.data} those that all members were asked{without}:")
    report.show(found, args.data)
    modes = (
        ("--mode", args.mode, "weighted"),
        ("--scorer", args.scorer, None),
        ("--missing", args.missing, "renormalise"),
    )
    words = [*map(str, given), "--data", args.data]
    words += options_again(*modes, ("--allow-contaminated", args.allow_contaminated, False))
    for option, ids in (("--tasks", args.tasks), ("--tune-weights", args.tune_weights)):
        words += [option, *ids] if ids else []
    if args.output:
        report.write(args.output, args.data, args.typed, found, told, chosen, voted, every)
    else:
        print(f"next: {command('ensemble', *words, '--output', 'results.json')}", file=sys.stderr)
    return 0


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
        _check_seen(args, contaminated)
    pool = {key: [one.grid for one in placed[:POOL]] for key, _, placed in chosen.vote(tasks)}
    text = json.dumps([[*key, [grid.tolist() for grid in grids]] for key, grids in pool.items()])
    folder = beside(args.output, "scores")
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
