"""Whether runs may stand in one table: scored on one set of puzzles, alike in all but what is varied."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from trm_jax.configs import registry
from trm_jax.configs.resolve import FREE_TO_CHANGE, diff, flatten, freeze
from trm_jax.configs.runs import RunFolder
from trm_jax.errors import InputError
from trm_jax.reports.runs import Run
from trm_jax.reports.study import MINI, Arm
from trm_jax.reports.units import listed, plain

# These do not tell experiments apart: a seed is a repetition, other averages are only evaluated besides.
OPEN = ("seed", "optim.ema_also", *FREE_TO_CHANGE)


def deciding(run: RunFolder) -> dict[str, Any]:
    """The settings that decide what a run computes, its seed left out."""
    return {k: v for k, v in flatten(run.config).items() if not k.startswith(OPEN)}


def require_one_setting(name: str, runs: list[RunFolder]) -> None:
    """Raise InputError when runs of an arm, whatever their seeds, differ in a setting that decides their results."""
    pages = {str(run.path): deciding(run) for run in runs}
    keys = dict.fromkeys(key for page in pages.values() for key in page)
    said = [f"{key}: {_who_has(places)}" for key in keys if len(places := _places(pages, key)) > 1]
    if said:
        raise InputError(
            f"the runs of {name} differ in {', and in '.join(said)}; report runs of one setting: keep them under a "
            "--root of their own, or name their folders"
        )


def require_distinct(arms: list[Arm]) -> None:
    """Raise InputError when two arms are the same: an override has undone the sweep."""
    seen: dict[tuple, Run] = {}
    for run in (arm.runs[0] for arm in arms if arm.runs):
        other = seen.setdefault(tuple(deciding(run.folder).items()), run)
        if other is not run:
            raise InputError(
                f"{other.place} and {run.place} are runs of two experiments with the same settings: what their group "
                "varies was overridden; name the folders to report them as they are"
            )


def require_comparable(name: str, runs: list[Run], varied: Iterable[str]) -> None:
    """Raise InputError unless the runs were scored on one set of puzzles and changed from their experiments alike."""
    require_one_eval_set(name, runs)
    changed = {key for run in runs for key in overrides(run)} - set(varied)
    for key in sorted(changed):
        places = _places({run.place: run.settings for run in runs}, key)
        if len(places) > 1:
            raise InputError(
                f"the runs of {name} differ in {key}, which is not what it varies: {_who_has(places)}; report runs of "
                "one setting: keep them under a --root of their own, or name their folders"
            )


def scored_on(run: Run) -> str:
    """The puzzles of the run's evaluation of record."""
    return f"eval_set {run.final.get('eval_set', 'unknown')[:12]} of {run.final.get('count', 0):,} puzzles"


def require_one_eval_set(name: str, runs: list[Run]) -> None:
    scored = defaultdict(list)
    for run in runs:
        scored[scored_on(run)].append(run.place)
    if len(scored) > 1:
        raise InputError(
            f"the runs of {name} were scored on different puzzles, so their accuracies do not compare: "
            f"{_who_has(scored)}; report those of one set apart, or make the others again on the same data"
        )


def _places(pages: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, list[str]]:
    """Which runs have which value of a setting; pages: the settings of each by its place."""
    places = defaultdict(list)
    for place, page in pages.items():
        places[repr(page.get(key))].append(place)
    return places


def _who_has(places: Mapping[str, list[str]]) -> str:
    def some(paths: list[str]) -> str:
        more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
        return ", ".join(paths[:3]) + more

    return "; ".join(f"{value} in {some(paths)}" for value, paths in places.items())


def overrides(run: Run) -> dict[str, tuple[Any, Any]]:
    """Settings in which a run differs from its experiment: {key: (the experiment's, the run's)}."""
    changes = diff(run.folder.config, registry.get(run.folder.name))
    return {k: v for k, v in changes.items() if not k.startswith(OPEN)}


# What may be changed and still be the experiment that the guide speaks of: which puzzles are scored, and when.
_OF_SCORING = ("eval.", "data.test_puzzles")


def unlike_guide(name: str, runs: list[Run]) -> str:
    """Why what the users' guide expects of a group is not an expectation of these runs; empty where it is."""
    if name.startswith(MINI):
        return "the guide's expectations are of the full-size catalogue, so none stand beside these runs"
    changed = sorted({key for run in runs for key in overrides(run) if not key.startswith(_OF_SCORING)})
    if not changed:
        return ""
    return f"the guide's expectations are of the experiments as declared; these runs changed {listed(changed)}"


def setting_notes(runs: list[Run]) -> list[str]:
    """What was changed from the experiments, and what a person should know of runs as they were configured."""
    changed = defaultdict(list)
    for run in runs:
        for key, (old, new) in overrides(run).items():
            changed[key, plain(new), plain(old)].append(run.place)
    notes = []
    for (key, new, old), places in changed.items():
        where = "all runs" if len(places) == len(runs) else ", ".join(places)
        notes.append(f"changed from the experiment: {key} {new} (there {old}) in {where}")
    warned = {
        f"{run.folder.name}: {warning}"
        for run in runs
        for warning in freeze(run.folder.config).warnings(run.folder.total_steps)
    }
    return notes + sorted(warned)
