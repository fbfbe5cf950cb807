"""`trm report`: what the runs of a group, or any runs, say."""

import fnmatch
import sys
from pathlib import Path

from trm_jax.cli.arguments import add_command, any_path, command, options_again
from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path

DEFAULT_ROOT = Path("runs")


def add_parser(subparsers) -> None:
    parser = add_command(
        subparsers,
        "report",
        "what the runs of a group say",
        "Write a report on finished runs: tables, pictures and what can be said from them, as NAME.html (one file,\n"
        "no network needed), NAME.md, NAME.csv and NAME_*.png. A group gets the analyses of its question and a page\n"
        "of its own; names and run folders get one page together, `selection`. Nothing is reported that was not run.",
        "  trm report exp02a                          runs/ searched for the runs of the group\n"
        "  trm report 'mini_*' --output docs/reports  every small group, into one folder\n"
        "  trm report runs/demo runs/demo_2           any runs scored on the same puzzles\n",
        run,
    )
    parser.add_argument("what", nargs="+", metavar="GROUP|NAME|RUN", help="groups, experiments, run folders; patterns")
    parser.add_argument("--root", type=any_path, default=DEFAULT_ROOT, help="where the runs are (default: runs)")
    parser.add_argument("--output", type=any_path, metavar="DIR", help="folder to write to (default: reports/NAME)")


def run(args) -> int:
    from trm_jax.reports.build import build
    from trm_jax.reports.gather import group_study, selection_study
    from trm_jax.reports.pages import write_report

    groups, names, folders = _sort_words(args.what)
    wanted = [(group, [group], lambda group=group: group_study(group, args.root)) for group in groups]
    if names or folders:
        wanted.append(("selection", args.what, lambda: selection_study(names, folders, args.root)))
    again = options_again(("--root", args.root, DEFAULT_ROOT), ("--output", args.output, None))
    problems, pages = [], []
    for name, words, study in wanted:
        try:
            report = build(study(), command("report", *words, *again))
            pages.append(write_report(report, args.output or Path("reports") / name)[0])
        except InputError as error:
            problems.append(str(error))
            continue
        print(f"{name}: {report.answer}")
        for warning in report.warnings:
            print(f"  mind: {warning}", file=sys.stderr)
    for page in pages:
        print(f"next: open {page}")
    if problems:
        made = f" ({len(pages)} of {len(wanted)} reports were made)" if len(wanted) > 1 else ""
        raise InputError("; ".join(problems) + made)
    return 0


def _sort_words(words: list[str]) -> tuple[list[str], list[str], list[AnyPath]]:
    """(groups, names of experiments, folders) that words stand for; groups are tried before names and folders."""
    from trm_jax.configs import registry

    known = registry.groups()
    groups, names, folders = [], [], []
    for word in words:
        pattern = word if any(c in word for c in "*?[") else f"{word}*"
        if word in registry.catalogue():
            names.append(word)
        elif matches := fnmatch.filter(known, pattern):
            groups += matches
        elif "://" in word or Path(word).is_dir():
            folders.append(as_path(word))
        else:
            names += registry.select([word])
    return list(dict.fromkeys(groups)), list(dict.fromkeys(names)), folders
