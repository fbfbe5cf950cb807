"""Finding the runs that a report is on, and saying what is missing."""

from __future__ import annotations

import shlex
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from trm_jax.configs import registry
from trm_jax.configs.resolve import flatten
from trm_jax.configs.runs import RunFolder, find_runs
from trm_jax.errors import InputError
from trm_jax.reports.comparable import (
    deciding,
    require_comparable,
    require_distinct,
    require_one_eval_set,
    require_one_setting,
    setting_notes,
    unlike_guide,
)
from trm_jax.reports.runs import load_run
from trm_jax.reports.sections import general
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import listed
from trm_jax.storage.paths import AnyPath, BucketPath

_SWEPT = Path("runs")  # where `trm sweep` puts runs unless told otherwise


def group_study(name: str, root: AnyPath, *, unfinished: bool = False, levels: tuple[float, ...] = ()) -> Study:
    """The group's study from the runs under `root`, with its companion's where that can be compared.

    levels: scores to reach in place of the group's. Raises InputError when there is nothing to report or the runs do
    not compare.
    """
    problems: list[str] = []
    pool = find_runs(root, lambda error: problems.append(f"left out, cannot be read: {error}"))
    study = _of_group(name, pool, root, unfinished)
    study = replace(study, notes=(*study.notes, *problems), levels=levels or study.levels)
    other = registry.groups()[name].companion
    if not other:
        return study
    try:
        companion = _of_group(other, pool, root, unfinished)
        require_comparable(f"{name} and {other}", [*study.runs, *companion.runs], (*study.varied, *companion.varied))
    except InputError as error:
        return replace(study, companion_problem=str(error))
    return replace(study, companion=companion)


def _of_group(name: str, pool: list[RunFolder], root: AnyPath, unfinished: bool) -> Study:
    group = registry.groups()[name]
    notes: list[str] = []
    arms, stands = [], [registry.run_name(experiment.name) for experiment in group.experiments]
    for experiment, stand in zip(group.experiments, stands, strict=True):
        kept = _finished(_runs_of([stand], pool), unfinished, notes)
        require_one_setting(experiment.name, kept)
        runs = _one_a_seed(kept, notes)
        settings = flatten(runs[0].config if runs else registry.get(experiment.name))
        arms.append(Arm(experiment.name, settings, tuple(map(load_run, runs)), experiment.alias_of, experiment.expects))
    arms = [replace(arm, varied=telling_settings(group.varied, arms)) for arm in arms]
    makes = _what_makes([name], root)
    runs = [run for arm in arms for run in arm.runs]
    if not runs and _runs_of(stands, pool):
        raise _none_fit(f" of {name} in {root}", notes, unfinished, f"go on with {makes}")
    if not runs:
        looked = ", ".join(dict.fromkeys(stands))
        raise InputError(f"no runs of {name} in {root}: looked for {looked}; make them with {makes}")
    require_comparable(name, runs, group.varied)
    require_distinct(arms)
    if missing := [arm.label for arm in arms if not arm.runs]:
        notes.insert(0, f"not run (or not finished): {', '.join(missing)}; {makes} runs what is missing")
    notes += setting_notes(runs)
    problem = unlike_guide(runs) if any(arm.expects for arm in arms) else ""
    report = group.report or general
    return Study(name, group.question, group.varied, tuple(arms), report, tuple(notes), problem, levels=group.levels)


def _runs_of(stands: list[str], pool: list[RunFolder]) -> list[RunFolder]:
    """The runs of experiments; a run under an alias' own name is a run of the same settings."""
    return [run for run in pool if run.name in registry.catalogue() and registry.run_name(run.name) in stands]


def _what_makes(words: list[str], root: AnyPath) -> str:
    """The command that trains experiments or groups under `root`; a sweep takes no bucket."""
    if isinstance(root, BucketPath):
        return shlex.join(["trm", "train", "NAME", "--workdir", f"{root}/NAME"])
    elsewhere = ["--root", str(root)] if root != _SWEPT else []
    return shlex.join(["trm", "sweep", *words, *elsewhere])


def _none_fit(where: str, notes: list[str], unfinished: bool, go_on: str) -> InputError:
    """For runs of which none can be reported; the first few notes, for an error of one line."""
    some = "; ".join(notes[:4]) + (f"; and {len(notes) - 4} more" if len(notes) > 4 else "")
    if unfinished:
        return InputError(f"no run{where} has an evaluation: {some}; {go_on}")
    return InputError(f"no finished run{where}: {some}; {go_on}, or report what there is with --unfinished")


def selection_study(
    names: list[str], folders: list[Path], root: AnyPath, *, unfinished: bool = False, levels: tuple[float, ...] = ()
) -> Study:
    """A study of experiments by name (their runs under `root`) and of run folders: an arm for each setting."""
    notes: list[str] = []
    pool = find_runs(root, lambda error: notes.append(f"left out, cannot be read: {error}")) if names else []
    wanted = sorted({registry.run_name(name) for name in names})
    found = _runs_of(wanted, pool) + [run for folder in folders for run in find_runs(folder)]
    found = list({run.path.resolve(): run for run in found}.values())
    if not found:
        where = f"{', '.join(wanted)} in {root}" if names else f"anything in {listed(list(map(str, folders)))}"
        raise InputError(f"no runs of {where}; make them with {_what_makes(names or ['NAME'], root)}")
    runs = _finished(found, unfinished, notes)
    if not runs:
        raise _none_fit("", notes, unfinished, "train one further")
    by_settings = defaultdict(list)
    for run in runs:
        by_settings[tuple(sorted(deciding(run).items()))].append(run)
    families = [_one_a_seed(family, notes) for family in by_settings.values()]
    pages = [dict(settings) for settings in by_settings]
    varied = tuple(key for key in pages[0] if len({repr(page.get(key)) for page in pages}) > 1)
    names = [family[0].name for family in families]
    # Runs of one experiment with different settings go by their folders.
    names = [str(f[0].path) if names.count(name) > 1 else name for name, f in zip(names, families, strict=True)]
    arms = [Arm(n, flatten(f[0].config), tuple(map(load_run, f))) for n, f in zip(names, families, strict=True)]
    arms = [replace(arm, varied=telling_settings(varied, arms)) for arm in arms]
    if absent := [name for name in wanted if not _runs_of([name], runs)]:
        notes.insert(0, f"not run (or not finished): {', '.join(absent)}; {_what_makes(absent, root)} runs them")
    require_one_eval_set("the selection", [run for arm in arms for run in arm.runs])
    question = "How do these runs compare?"
    return Study("selection", question, varied, tuple(arms), general, tuple(notes), levels=levels)


def telling_settings(varied: tuple[str, ...], arms: list[Arm]) -> tuple[str, ...]:
    """Those of the varied settings that do not follow from one before them: enough to name an arm."""
    telling: list[str] = []
    for key in varied:
        pairs = [{(repr(arm.settings[first]), repr(arm.settings[key])) for arm in arms} for first in telling]
        if not any(len(seen) == len({first for first, _ in seen}) for seen in pairs):
            telling.append(key)
    return tuple(telling)


def _finished(runs: list[RunFolder], unfinished: bool, notes: list[str]) -> list[RunFolder]:
    kept = []
    for run in runs:
        if run.done:
            kept.append(run)
            continue
        far = f"step {run.step:,} of {run.total_steps:,}" if run.total_steps else "not started"
        if unfinished and load_run(run).evaluations:
            notes.append(f"unfinished, with its last evaluation so far: {run.path} ({far})")
            kept.append(run)
        else:
            why = "no evaluation yet" if unfinished else "unfinished"
            notes.append(f"left out, {why}: {run.path} ({far})")
    return kept


def _one_a_seed(runs: list[RunFolder], notes: list[str]) -> list[RunFolder]:
    """Runs of one setting by seed. The same seed twice is the same run twice: it must not count as two."""
    kept: dict[int, RunFolder] = {}
    for run in sorted(runs, key=lambda run: (run.seed, not run.done)):
        first = kept.setdefault(run.seed, run)
        if first is not run:
            notes.append(f"left out: {run.path} has the settings and the seed {run.seed} of {first.path}")
    return list(kept.values())
