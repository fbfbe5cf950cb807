"""Finding the runs that a report is on, holding them against one another, and saying what is missing."""

import shlex
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from trm_jax.configs import registry
from trm_jax.configs.resolve import flatten, freeze
from trm_jax.configs.runs import Run, find_runs
from trm_jax.errors import InputError
from trm_jax.reports.sections import general
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import listed, plain, shortened
from trm_jax.storage.paths import AnyPath, BucketPath

_SWEPT = Path("runs")  # where `trm sweep` puts runs unless told otherwise
# What may be changed and still be the experiment that the guide speaks of: which puzzles are scored, and when.
_OF_SCORING = ("eval.", "data.test_puzzles")


def group_study(name: str, root: AnyPath) -> Study:
    """The group's study from the finished runs under `root`, with its companion's where that can be compared.

    Raises InputError when there is nothing to report or the runs do not compare.
    """
    problems: list[str] = []
    pool = _pool(root, problems)
    study = _of_group(name, pool, root)
    study = replace(study, notes=(*study.notes, *problems))
    if not (other := registry.groups()[name].companion):
        return study
    try:
        companion = _of_group(other, pool, root)
        require_comparable(f"{name} and {other}", [*study.runs, *companion.runs], (*study.varied, *companion.varied))
    except InputError as error:
        return replace(study, companion_problem=str(error))
    return replace(study, companion=companion)


def _pool(root: AnyPath, notes: list[str]) -> list[Run]:
    return find_runs(root, lambda error: notes.append(f"left out, cannot be read: {error}"))


def _of_group(name: str, pool: list[Run], root: AnyPath) -> Study:
    group, arms, notes = registry.groups()[name], [], []
    stands = [registry.run_name(experiment.name) for experiment in group.experiments]
    for experiment, stand in zip(group.experiments, stands, strict=True):
        kept = _finished(_runs_of([stand], pool), notes)
        _require_equal(experiment.name, kept, lambda run: run.deciding)
        runs = _one_a_seed(kept, notes)
        settings = runs[0].settings if runs else flatten(registry.get(experiment.name))
        arms.append(Arm(experiment.name, settings, tuple(runs), group.varied, experiment.alias_of, experiment.expects))
    makes, runs = _what_makes([name], root), [run for arm in arms for run in arm.runs]
    if not runs:
        raise _nothing(f"of {name} in {root}", notes or [f"looked for {', '.join(dict.fromkeys(stands))}"], makes)
    require_comparable(name, runs, group.varied)
    if missing := [arm.label for arm in arms if not arm.runs]:
        notes.insert(0, f"not run (or not finished): {', '.join(missing)}; {makes} runs what is missing")
    notes += setting_notes(runs)
    unlike = sorted({key for run in runs for key in run.changed if not key.startswith(_OF_SCORING)})
    said = f"the guide's expectations are of the experiments as declared; these runs changed {listed(unlike)}"
    guide, report = said if unlike and any(arm.expects for arm in arms) else "", group.report or general
    return Study(name, group.question, group.varied, tuple(arms), report, tuple(notes), guide, levels=group.levels)


def selection_study(names: list[str], folders: list[AnyPath], root: AnyPath) -> Study:
    """A study of experiments by name (their runs under `root`) and of run folders: an arm for each setting."""
    notes: list[str] = []
    wanted = sorted({registry.run_name(name) for name in names})
    found = _runs_of(wanted, _pool(root, notes)) if names else []
    found += [run for folder in folders for run in _pool(folder, notes)]
    runs = _finished(list({run.path.resolve(): run for run in found}.values()), notes)
    if not runs:
        where = f"of {', '.join(wanted)} in {root}" if names else f"in {listed(map(str, folders))}"
        raise _nothing(where, notes or ["nothing is there"], _what_makes(names or ["NAME"], root))
    study = selected(runs, notes)
    if absent := [name for name in wanted if not _runs_of([name], runs)]:
        notes.insert(0, f"not run (or not finished): {', '.join(absent)}; {_what_makes(absent, root)} runs them")
    require_comparable("the selection", study.runs, [key for run in study.runs for key in run.changed])
    return replace(study, notes=(*notes, *setting_notes(study.runs, study.varied)))


def selected(runs: list[Run], notes: list[str]) -> Study:
    """Any runs by arm: those with the same settings but the seed are one. What is left out is added to `notes`."""
    by_settings = defaultdict(list)
    for run in runs:
        by_settings[tuple(sorted(run.deciding.items()))].append(run)
    families = [_one_a_seed(family, notes) for family in by_settings.values()]
    pages = [family[0].deciding for family in families]
    differing = [key for key in pages[0] if len({repr(page.get(key)) for page in pages}) > 1]
    # What another family has no setting for is told by the family.
    varied = tuple(key for key in differing if all(key in page for page in pages))
    names = [family[0].name for family in families]
    # Runs of one experiment with different settings go by their folders.
    labels = [str(runs[0].path) if names.count(name) > 1 else name for name, runs in zip(names, families, strict=True)]
    arms = [Arm(label, runs[0].settings, tuple(runs), varied) for label, runs in zip(labels, families, strict=True)]
    return Study("selection", "How do these runs compare?", varied, tuple(arms), general)


def _runs_of(stands: list[str], pool: list[Run]) -> list[Run]:
    """The runs of experiments; a run under an alias' own name is a run of the same settings."""
    return [run for run in pool if run.name in registry.catalogue() and registry.run_name(run.name) in stands]


def _what_makes(words: list[str], root: AnyPath) -> str:
    """The command that trains experiments or groups under `root`; a sweep takes no bucket."""
    if isinstance(root, BucketPath):
        return shlex.join(["trm", "train", "NAME", "--workdir", f"{root}/NAME"])
    elsewhere = ["--root", str(root)] if root != _SWEPT else []
    return shlex.join(["trm", "sweep", *words, *elsewhere])


def _nothing(where: str, notes: list[str], makes: str) -> InputError:
    return InputError(f"no finished runs {where}: {shortened(notes, 4, '; ')}; {makes} makes them")


def _finished(runs: list[Run], notes: list[str]) -> list[Run]:
    for run in runs:
        if not run.done:
            far = f"step {run.step:,} of {run.total_steps:,}" if run.total_steps else "not started"
            notes.append(f"left out, unfinished: {run.path} ({far})")
    return [run for run in runs if run.done]


def _one_a_seed(runs: list[Run], notes: list[str]) -> list[Run]:
    """Runs of one setting by seed. The same seed twice is the same run twice: it must not count as two."""
    kept: dict[int, Run] = {}
    for run in sorted(runs, key=lambda run: run.seed):
        first = kept.setdefault(run.seed, run)
        if first is not run:
            notes.append(f"left out: {run.path} has the settings and the seed {run.seed} of {first.path}")
    return list(kept.values())


def require_comparable(name: str, runs: list[Run], varied: Iterable[str]) -> None:
    """Raise InputError unless the runs were scored on the same examples and changed from their experiments alike."""
    changed = sorted({key for run in runs for key in run.changed} - set(varied))
    _require_equal(
        name, runs, lambda run: {"the examples scored": run.scored_on} | {k: run.settings.get(k) for k in changed}
    )


def _require_equal(name: str, runs: list[Run], of: Callable[[Run], Mapping[str, Any]]) -> None:
    """Raise InputError when runs differ in what is taken of them."""
    pages, differ = {str(run.path): of(run) for run in runs}, []
    for key in dict.fromkeys(key for page in pages.values() for key in page):
        places = defaultdict(list)
        for place, page in pages.items():
            places[str(page.get(key))].append(place)
        having = "; ".join(f"{value} in {shortened(where, 3)}" for value, where in places.items())
        differ += [f"{key}: {having}"] * (len(places) > 1)
    if differ:
        raise InputError(
            f"the runs of {name} differ in {', and in '.join(differ)}; report runs that compare: keep them under a "
            "--root of their own, or name their folders"
        )


def setting_notes(runs: Iterable[Run], shown: Iterable[str] = ()) -> list[str]:
    """What was changed from the experiments, but for settings that are `shown`, and what to know of the settings."""
    runs, changed, together = list(runs), defaultdict(list), defaultdict(list)
    for run in runs:
        for key, (old, new) in run.changed.items():
            if key not in shown:
                changed[f"{key} {plain(new)} (there {plain(old)})"].append(str(run.path))
    for change, places in changed.items():
        together["all runs" if len(places) == len(runs) else ", ".join(places)].append(change)
    notes = [f"changed from the experiment: {listed(changes)} in {where}" for where, changes in together.items()]
    frozen = {run.name: (freeze(run.config), run.total_steps) for run in runs}
    return notes + sorted(f"{name}: {said}" for name, (cfg, steps) in frozen.items() for said in cfg.warnings(steps))
