"""What a page says of how its runs were made: data, machine, company; and what makes them hard to compare."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from trm_jax.errors import InputError
from trm_jax.reports.comparing import updates_words
from trm_jax.reports.measures import EXACT
from trm_jax.reports.runs import Run
from trm_jax.reports.statistics import ALPHA
from trm_jax.reports.study import Study, largest_pack
from trm_jax.reports.units import counted, listed
from trm_jax.sweep import state


def about(study: Study, command: str) -> tuple[tuple[str, str], ...]:
    """How a report was made, as (name, words). command: the command line that makes it."""
    runs = study.runs
    seeds = [str(seed) for seed in sorted({run.folder.seed for run in runs})]
    count = len({run.place for run in runs})
    finals = {(run.final.get("eval_set", "unknown")[:12], run.final.get("count", 0)) for run in runs}
    facts = [
        ("command", command),
        ("runs", f"{counted(count, 'run')} of {counted(len(study.ran), 'experiment')}, "
         f"seed{'s' * (len(seeds) > 1)} {listed(seeds)}"),
        ("data", data_facts(runs)),
        ("scored on", "; ".join(f"{number:,} held-out puzzles (set {digest})" for digest, number in sorted(finals))),
        ("accuracy", "exact accuracy of the evaluation after the last update, EMA weights where a run averages; never "
         "the best on the way"),
        ("device", "; ".join(_distinct(map(device, runs)))),
        ("versions", "; ".join(_distinct(map(_versions, runs)))),
        ("side by side", _company(runs)),
        ("tests", f"two-sided, alpha {ALPHA}, Holm's correction over the comparisons of a column; Welch's t-test where "
         "no other is named"),
    ]  # fmt: skip
    return (*facts, *([("expectations", study.guide_problem)] if study.guide_problem else []))


def _distinct(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def data_facts(runs: Sequence[Run]) -> str:
    """What the runs trained on, by their own configs and records."""
    kinds = defaultdict(list)
    for run in runs:
        kinds[_boards(run)].append(run)
    return "; ".join(f"{kind}: {_amounts(members)}" for kind, members in kinds.items())


def _boards(run: Run) -> str:
    data = {key.removeprefix("data."): value for key, value in run.settings.items() if key.startswith("data.")}
    boards = f"{data['size']}x{data['size']} boards"
    if data["source"] == "hub":
        words = [f"{boards} of {data['hub_repo']}"]
    elif data["source"] == "generated":
        words = [f"generated {boards}", *[counted(data["extra_clues"], "extra clue")] * (data["extra_clues"] > 0)]
    else:
        words = [f"{boards} from {data['path']} ({data['source']})"]
    if data["min_rating"] > 0 or data["max_rating"] >= 0:
        words.append(f"rated {data['min_rating']} to {data['max_rating'] if data['max_rating'] >= 0 else 'any'}")
    return ", ".join([*words, f"data seed {data['seed']}"])


def _amounts(runs: Sequence[Run]) -> str:
    def numbers(values: Iterable[int]) -> str:
        return listed([f"{value:,}" for value in sorted(set(values))])

    puzzles = [run.facts.get("groups") or run.settings["data.train_puzzles"] for run in runs]
    known = numbers(puzzles) if all(puzzles) else "all"
    augmentations = numbers(run.settings["data.augmentations"] for run in runs)
    return f"{known} training puzzles with {augmentations} augmentations each"


def device(run: Run) -> str:
    kind, backend = run.facts.get("device_kind"), run.facts.get("backend", "unknown")
    if not kind:
        return "not recorded"
    model = " (its model is not recorded)" if kind == backend == "cpu" else f" ({backend})"
    return f"{run.facts.get('devices', 1)} x {kind}{model}"


def _versions(run: Run) -> str:
    versions = run.facts.get("versions", {})
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded"


def _packs(runs: Sequence[Run]) -> str:
    return listed([str(pack) for pack in sorted({run.facts.get("pack", 1) for run in runs})])


def _company(runs: Sequence[Run]) -> str:
    """How many runs shared a program, and how many programs a machine where their sweep's record says so."""
    alone = largest_pack(runs) == 1
    said = "each run alone in its program" if alone else f"{_packs(runs)} runs in a program"
    try:
        jobs = programs_at_once(runs)
    except InputError:
        return f"{said}; the sweep's record of programs at once cannot be read"
    if jobs is None:
        return f"{said}; programs at once were not recorded"
    return f"{said}; {counted(jobs, 'program')} at once by the sweep's record"


def programs_at_once(runs: Sequence[Run]) -> int | None:
    """The most programs of their sweeps that were running while one of these runs did; None where none of that is
    recorded."""
    folders = {run.folder.path for run in runs}
    most = 0
    for root in {folder.parent for folder in folders}:
        entries = state.read(root)
        ends = {}  # of each program: the runs of a pack are written down one after the other
        for e in entries.values():
            if e.started and e.ended:
                ends[e.command, e.started] = max(e.ended, ends.get((e.command, e.started), ""))
        spans = [(command, started, ended) for (command, started), ended in ends.items()]
        ours = {entries[folder.name].command for folder in folders if folder.parent == root and folder.name in entries}
        for command, started, ended in spans:
            if command in ours:
                # Where the most overlap, one of them has just begun. ISO times in UTC sort as they are.
                begun = {start for _, start, _ in spans if started <= start < ended}
                most = max([most, *(sum(a <= time < b for _, a, b in spans) for time in begun)])
    return most or None


def mixed(study: Study) -> list[str]:
    """What makes figures of the runs hard to compare."""
    most = max(len(arm.runs) for arm in study.ran)
    fewer = [f"{arm.name} ({len(arm.runs)} of {most})" for arm in study.ran if len(arm.runs) < most]
    found = [f"fewer seeds than others: {', '.join(fewer)}"] if fewer else []
    if len({device(run) for run in study.runs}) > 1:
        found.append("runs on different devices: speed, time and memory do not compare across them")
    if len({_versions(run) for run in study.runs}) > 1:
        found.append("runs with different versions of the software")
    if largest_pack(study.runs) > 1:
        found.append(
            f"runs trained side by side ({_packs(study.runs)} in one program): time, throughput and memory are those "
            "of the whole program, so arms are not compared in them; for one arm they count as one measurement"
        )
    return found + _budgets(study) + _nothing_learnt(study)


def _budgets(study: Study) -> list[str]:
    words = updates_words(study.ran)
    return [f"arms differ in their number of updates too, {words}, and may owe their accuracy to it"] if words else []


def _nothing_learnt(study: Study) -> list[str]:
    names = [arm.name for arm in study.ran if max(arm.values(EXACT)) == 0]
    return [f"no held-out puzzle was solved at the end of {listed(names)}"] if names else []
