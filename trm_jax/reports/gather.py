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
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import listed
from trm_jax.storage.paths import AnyPath, BucketPath

_SWEPT = Path("runs")  # where `trm sweep` puts runs unless told otherwise
# Groups that answer a question together; the page of each shows the runs of the other where it needs them.
COMPANIONS = {"exp02a": "exp02b", "exp02b": "exp02a", "exp04a": "exp04b", "exp04b": "exp04a"}


def group_study(name: str, root: AnyPath, *, unfinished: bool = False, levels: tuple[float, ...] = ()) -> Study:
    """The group's study from the runs under `root`, with its companion's where that can be compared.

    Raises InputError when there is nothing to report or the runs do not compare.
    """
    problems: list[str] = []
    pool = find_runs(root, lambda error: problems.append(f"left out, cannot be read: {error}"))
    study = _of_group(name, pool, root, unfinished)
    study = replace(study, notes=(*study.notes, *problems), levels=levels)
    other = COMPANIONS.get(study.kind)
    other = other and name.removesuffix(study.kind) + other
    if not other or other not in registry.groups():
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
    arms, found = [], 0
    for experiment in group.experiments:
        stands = registry.run_name(experiment.name)
        # A run under an alias' own name is a run of the same settings.
        same = [run for run in pool if run.name in registry.catalogue() and registry.run_name(run.name) == stands]
        found += len(same)
        kept = _finished(same, unfinished, notes)
        require_one_setting(experiment.name, kept)
        runs = _one_a_seed(kept, notes)
        settings = flatten(runs[0].config if runs else registry.get(experiment.name))
        arm = Arm(experiment.name, settings, tuple(map(load_run, runs)), experiment.alias_of, experiment.expects)
        arms.append(arm)
    telling = telling_settings(group.varied, arms)
    arms = [replace(arm, varied=telling) for arm in arms]
    if not any(arm.runs for arm in arms):
        _refuse_nothing(name, root, [registry.run_name(arm.name) for arm in arms], found, notes, unfinished)
    runs = [run for arm in arms for run in arm.runs]
    require_comparable(name, runs, group.varied)
    require_distinct(arms)
    missing = [arm.label for arm in arms if not arm.runs]
    if missing:
        makes = _what_makes([name], root)
        notes.insert(0, f"not run (or not finished): {', '.join(missing)}; {makes} runs what is missing")
    notes += setting_notes(runs)
    return Study(name, group.question, group.varied, tuple(arms), tuple(notes), unlike_guide(name, runs))


def _refuse_nothing(name: str, root: AnyPath, names: list[str], found: int, notes: list[str], unfinished: bool) -> None:
    makes = _what_makes([name], root)
    if found:
        raise _none_fit(f" of {name} in {root}", notes, unfinished, f"go on with {makes}")
    looked = ", ".join(dict.fromkeys(names))
    raise InputError(f"no runs of {name} in {root}: looked for {looked}; make them with {makes}")


def _what_makes(words: list[str], root: AnyPath) -> str:
    """The command that trains experiments or groups under `root`; a sweep takes no bucket."""
    if isinstance(root, BucketPath):
        return shlex.join(["trm", "train", "NAME", "--workdir", f"{root}/NAME"])
    elsewhere = ["--root", str(root)] if root != _SWEPT else []
    return shlex.join(["trm", "sweep", *words, *elsewhere])


def _none_fit(where: str, notes: list[str], unfinished: bool, go_on: str) -> InputError:
    """For runs of which none can be reported."""
    if unfinished:
        return InputError(f"no run{where} has an evaluation: {_some(notes)}; {go_on}")
    return InputError(f"no finished run{where}: {_some(notes)}; {go_on}, or report what there is with --unfinished")


def _some(notes: list[str]) -> str:
    """The first few, for an error of one line."""
    return "; ".join(notes[:4]) + (f"; and {len(notes) - 4} more" if len(notes) > 4 else "")


def selection_study(
    names: list[str], folders: list[Path], root: AnyPath, *, unfinished: bool = False, levels: tuple[float, ...] = ()
) -> Study:
    """A study of experiments by name (their runs under `root`) and of run folders: an arm for each setting."""
    notes: list[str] = []
    pool = find_runs(root, lambda error: notes.append(f"left out, cannot be read: {error}")) if names else []
    wanted = {registry.run_name(name) for name in names}
    found = [run for run in pool if run.name in registry.catalogue() and registry.run_name(run.name) in wanted]
    for folder in folders:
        found += find_runs(folder)
    found = list({run.path.resolve(): run for run in found}.values())
    if not found:
        where = f"{', '.join(sorted(wanted))} in {root}" if names else f"anything in {listed(list(map(str, folders)))}"
        raise InputError(f"no runs of {where}; make them with {_what_makes(names or ['NAME'], root)}")
    runs = _finished(found, unfinished, notes)
    if not runs:
        raise _none_fit("", notes, unfinished, "train one further")
    by_settings = defaultdict(list)
    for run in runs:
        by_settings[tuple(sorted(deciding(run).items()))].append(run)
    families = [_one_a_seed(family, notes) for family in by_settings.values()]
    pages = [dict(settings) for settings in by_settings]
    varied = tuple(key for key in pages[0] if len({repr(page[key]) for page in pages}) > 1)
    arms: list[Arm] = []
    for family in families:
        name = family[0].name
        if sum(other[0].name == name for other in families) > 1:
            name = str(family[0].path)  # one experiment with different settings
        arms.append(Arm(name, flatten(family[0].config), tuple(map(load_run, family))))
    arms = [replace(arm, varied=telling_settings(varied, arms)) for arm in arms]
    absent = sorted(wanted - {registry.run_name(run.name) for run in runs if run.name in registry.catalogue()})
    if absent:
        notes.insert(0, f"not run (or not finished): {', '.join(absent)}; {_what_makes(absent, root)} runs them")
    loaded = [run for arm in arms for run in arm.runs]
    require_one_eval_set("the selection", loaded)
    return Study("selection", "How do these runs compare?", varied, tuple(arms), tuple(notes))


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
