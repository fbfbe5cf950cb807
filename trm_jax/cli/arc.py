"""`trm arc vote|score|submit|merge|gallery`: from predictions to a score, a submission or a page."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from trm_jax.cli import arc_run
from trm_jax.cli.arguments import add_documented, any_path, check_free, command
from trm_jax.errors import InputError


def add_parser(subparsers) -> None:
    arc = subparsers.add_parser("arc", help="vote on, score, submit and look at answers to ARC tasks")
    commands = arc.add_subparsers(title="commands", metavar="COMMAND", required=True)
    arc_run.add_parser(commands)
    for name, run in _COMMANDS.items():
        parser = add_documented(commands, name, run, run.__doc__)
        parser.add_argument("files", type=any_path, nargs="+", help="predictions, as `trm eval` writes them")
        if name in ("score", "submit", "gallery"):
            parser.add_argument("--data", type=any_path, required=True, help="folder of tasks, or ..._challenges.json")
        if name != "score":
            parser.add_argument("--output", type=any_path, required=True, help="the file to write")
            parser.add_argument("--force", action="store_true", help="replace a file that exists")
        if name != "merge":
            parser.add_argument("--weights", type=float, nargs="+", metavar="W", help="of the files (alike)")


def _answers(args) -> tuple[Iterator, dict, dict]:
    """((test pair, its candidates, best first) from predictions or one submission; the tasks that they answer; those of
    --data, of which predictions may answer some)."""
    from trm_jax.tasks.arc.files import read_tasks
    from trm_jax.tasks.arc.predictions import asked, ranked
    from trm_jax.tasks.arc.submission import read_submission
    from trm_jax.tasks.arc.vote import Candidate

    tasks = every = read_tasks(args.data)
    if [file.name.endswith(".json") for file in args.files] == [True]:
        attempts = read_submission(args.files[0]).items()
        found = ((key, [Candidate(grid, 1 / n) for n, grid in enumerate(grids, 1)]) for key, grids in attempts)
    else:
        answered = [asked(file, every) for file in args.files]
        # Files of apart tasks are parts of one answer; else what all of them answer counts.
        apart = sum(map(len, answered)) == len(set().union(*answered))
        kept = set().union(*answered) if apart else set.intersection(*map(set, answered))
        tasks = {name: task for name, task in every.items() if name in kept}
        if not tasks:
            raise InputError(f"no task is answered by all of {', '.join(map(str, args.files))}; score them one by one")
        found = ranked(args.files, _weights(args))

    def checked():
        for (name, number), candidates in found:
            if name in every and name not in tasks:
                continue
            if name not in tasks or number >= len(tasks[name].test):
                raise InputError(f"{args.files[0]}: task {name}, test {number} is not in {args.data}; name its own set")
            yield (name, number), candidates

    return checked(), tasks, every


def _weights(args) -> list[float] | None:
    if args.weights and len(args.weights) != len(args.files):
        raise InputError(f"--weights gives {len(args.weights)} for {len(args.files)} files; give one each")
    if args.weights and min(args.weights) < 0:
        raise InputError(f"--weights {min(args.weights):g}: give numbers from 0 on")
    return args.weights


def _score(args) -> int:
    """`trm arc score`: pass@K of predictions or of a submission, by three rules.

    Several files are voted on first. A pair without candidates counts as missed.

    examples:
      trm arc score runs/arc1/predictions.jsonl --data arc/evaluation
      trm arc score submission.json --data arc-agi_evaluation_challenges.json
    """
    from trm_jax.tasks.arc.predictions import read
    from trm_jax.tasks.arc.vote import score

    answers, tasks, every = _answers(args)
    found = score(((key, [one.grid for one in candidates]) for key, candidates in answers), tasks)
    if len(tasks) < len(every):
        print(f"of the {len(every)} tasks of {args.data} those that the predictions are about:")
    ks = list(found.mean_over_tasks)
    print(f"{found.tasks} tasks, {found.pairs} test pairs" + " " * 12 + "".join(f"{f'pass@{k}':>11}" for k in ks))
    for name, scores in (
        ("mean over tasks (ARC Prize, TRM)", found.mean_over_tasks),
        ("mean over pairs (Kaggle)", found.mean_over_pairs),
        ("tasks with all pairs (Chollet)", found.all_pairs_right),
    ):
        print(f"{name:<36}" + "".join(f"{scores[k]:>11.4f}" for k in ks))
    for file in args.files:
        if not file.name.endswith(".json") and (told := read(file)[0].member.settings.get("contaminated")):
            print(f"contaminated: {file} is by a model that was trained on {told}")
    files = (str(file) for file in args.files)
    following = command("arc", "submit", *files, "--data", args.data, "--output", "submission.json")
    print(f"next: {following}", file=sys.stderr)
    return 0


def _submit(args) -> int:
    """`trm arc submit`: write submission.json: two attempts for every test pair.

    Pairs for which nothing was found get [[0, 0], [0, 0]].

    examples:
      trm arc submit runs/arc1/predictions.jsonl --data arc-agi_test_challenges.json --output submission.json
    """
    from trm_jax.tasks.arc.submission import submission, write_submission

    check_free(args.output, args.force)
    found, _, tasks = _answers(args)
    best = {key: [one.grid for one in candidates[:2]] for key, candidates in found if candidates}
    made = submission(best, tasks)
    write_submission(args.output, made)
    pairs = sum(len(pairs) for pairs in made.values())
    empty = pairs - len(best)
    print(f"wrote {args.output}: {len(made)} tasks, {pairs} test pairs, {empty} of them without an answer")
    print(f"next: {command('arc', 'score', args.output, '--data', args.data)}", file=sys.stderr)
    return 0


def _vote(args) -> int:
    """`trm arc vote`: rank the candidates of one or several files, each grid once.

    In a vote of several files each of them has one vote a test pair, shared by its candidates; --weights makes some
    count more.

    examples:
      trm arc vote a/predictions.jsonl b/predictions.jsonl --output both.jsonl
      trm arc vote a.jsonl b.jsonl --weights 2 1 --output both.jsonl
    """
    from trm_jax.tasks.arc.predictions import Header, Line, Member, ranked, read, writing

    check_free(args.output, args.force)
    headers = [read(file)[0] for file in args.files]
    trained = sorted({name for header in headers for name in header.member.trained_on})
    settings = {"members": [header.member.name for header in headers], "weights": args.weights or [1] * len(headers)}
    if told := sorted({str(said) for header in headers if (said := header.member.settings.get("contaminated"))}):
        settings["contaminated"] = "; ".join(told)
    member = Member("vote", "ensemble", args.typed, settings, None, trained)
    with writing(args.output, Header(member, headers[0].data_name, headers[0].data_sha256)) as writer:
        counts = {}
        for key, candidates in ranked(args.files, _weights(args)):
            writer.candidates(key, candidates)
            counts[key] = len(candidates)
        answered, said = {name for name, _ in counts}, {}
        for line in (line for file in args.files for line in read(file)[1]):
            said.setdefault(line.task, set()).add(line.status)
        for name in sorted(said):
            status, why = "ok", None
            if name not in answered:
                status, why = "failed", "no candidate"
            elif "partial" in said[name] and "ok" not in said[name]:
                status, why = "partial", "all answers to it are partial"
            writer.line(Line(name, status=status, reason=why))
    print(f"wrote {args.output}: {sum(counts.values())} candidates for {len(counts)} test pairs")
    print(f"next: {command('arc', 'score', args.output, '--data', 'TASKS')}", file=sys.stderr)
    return 0


def _merge(args) -> int:
    """`trm arc merge`: put parts of one member's predictions into one file, line by line.

    For parts that several hosts or several commands wrote; the members must agree.

    examples:
      trm arc merge part*.jsonl --output predictions.jsonl
    """
    import dataclasses

    from trm_jax.tasks.arc.predictions import read, writing

    check_free(args.output, args.force)
    first, _ = read(args.files[0])
    count = 0

    def who(header):
        return header.data_sha256, header.score_kind, dataclasses.replace(header.member, command="")

    with writing(args.output, first) as writer:
        for file in args.files:
            header, lines = read(file)
            if who(header) != who(first):
                raise InputError(
                    f"{file} is of another member or other data than {args.files[0]}; vote on them instead"
                )
            for line in lines:
                writer.line(line)
                count += 1
    print(f"wrote {args.output}: {count} lines of {len(args.files)} files")
    print(f"next: {command('arc', 'score', args.output, '--data', 'TASKS')}", file=sys.stderr)
    return 0


def _gallery(args) -> int:
    """`trm arc gallery`: one HTML page of the tasks with every candidate, its votes and q.

    Tasks can be filtered by solved and failed. The page needs nothing else, and no network.

    examples:
      trm arc gallery runs/arc1/predictions.jsonl --data arc/evaluation --output gallery.html
      trm arc gallery submission.json --data arc-agi_evaluation_challenges.json --output gallery.html
    """
    from trm_jax.storage.paths import write_whole
    from trm_jax.tasks.arc.gallery import gallery
    from trm_jax.tasks.arc.predictions import read

    check_free(args.output, args.force)
    answers, tasks, _ = _answers(args)
    about = []
    for file in args.files:
        said = f"{file}"
        if not file.name.endswith(".json"):
            member = read(file)[0].member
            settings = ", ".join(f"{key} {value}" for key, value in member.settings.items())
            said = f"{member.name} ({member.kind}{f': {settings}' if settings else ''}), made by {member.command}"
        about.append(said)
    write_whole(args.output, gallery(f"Answers to {args.data.name}", about, answers, tasks).encode())
    print(f"wrote {args.output}: {len(tasks)} tasks; open it in a browser")
    return 0


_COMMANDS = {"vote": _vote, "score": _score, "submit": _submit, "merge": _merge, "gallery": _gallery}
