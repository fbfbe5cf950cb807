"""Whether runs may stand in one table: scored on one set of examples, alike in all but what is varied."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from trm_jax.configs import registry
from trm_jax.configs.resolve import FREE_TO_CHANGE, diff, flatten, freeze
from trm_jax.configs.runs import RunFolder
from trm_jax.errors import InputError
from trm_jax.reports.runs import Run
from trm_jax.reports.study import Arm
from trm_jax.reports.units import listed, plain

# These do not tell experiments apart: a seed is a repetition, other averages are only evaluated besides.
OPEN = ("seed", "optim.ema_also", *FREE_TO_CHANGE)
# What may be changed and still be the experiment that the guide speaks of: which puzzles are scored, and when.
_OF_SCORING = ("eval.", "data.test_puzzles")


def deciding(run: RunFolder) -> dict[str, Any]:
    """The settings that decide what a run computes, its seed left out."""
    return {k: v for k, v in flatten(run.config).items() if not k.startswith(OPEN)}


def require_one_setting(name: str, runs: list[RunFolder]) -> None:
    """Raise InputError when runs of an arm, whatever their seeds, differ in a setting that decides their results."""
    _require_equal(name, {str(run.path): deciding(run) for run in runs})


def require_comparable(name: str, runs: list[Run], varied: Iterable[str]) -> None:
    """Raise InputError unless the runs were scored on the same examples and changed from their experiments alike."""
    require_one_eval_set(name, runs)
    changed = {key for run in runs for key in overrides(run)} - set(varied)
    _require_equal(name, {run.place: {key: run.settings.get(key) for key in sorted(changed)} for run in runs})


def _require_equal(name: str, pages: Mapping[str, Mapping[str, Any]]) -> None:
    """pages: settings of each run by its place."""
    found = [(key, _places(pages, key)) for key in dict.fromkeys(key for page in pages.values() for key in page)]
    said = [f"{key}: {_who_has(places)}" for key, places in found if len(places) > 1]
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


def scored_on(run: Run) -> str:
    """The examples of the run's evaluation of record, and by what they were scored."""
    return f"eval_set {run.final.get('eval_set', 'unknown')[:12]} of {run.final.get('count', 0):,} by {run.headline}"


def require_one_eval_set(name: str, runs: list[Run]) -> None:
    """Raise InputError unless the runs were scored on the same examples."""
    scored = defaultdict(list)
    for run in runs:
        scored[scored_on(run)].append(run.place)
    if len(scored) > 1:
        raise InputError(
            f"the runs of {name} were scored on different examples, so their scores do not compare: "
            f"{_who_has(scored)}; report those of one set apart, or make the others again on the same data"
        )


def _places(pages: Mapping[str, Mapping[str, Any]], key: str) -> dict[str, list[str]]:
    """Which runs have which value of a setting."""
    places = defaultdict(list)
    for place, page in pages.items():
        places[repr(page.get(key))].append(place)
    return places


def _who_has(places: Mapping[str, list[str]]) -> str:
    def some(paths: list[str]) -> str:
        return ", ".join(paths[:3]) + (f" and {len(paths) - 3} more" if len(paths) > 3 else "")

    return "; ".join(f"{value} in {some(paths)}" for value, paths in places.items())


def overrides(run: Run) -> dict[str, tuple[Any, Any]]:
    """Settings in which a run differs from its experiment: {key: (the experiment's, the run's)}."""
    changes = diff(run.folder.config, registry.get(run.folder.name))
    return {k: v for k, v in changes.items() if not k.startswith(OPEN)}


def unlike_guide(runs: list[Run]) -> str:
    """Why what the users' guide expects of a group is not an expectation of these runs; empty where it is."""
    changed = sorted({key for run in runs for key in overrides(run) if not key.startswith(_OF_SCORING)})
    said = f"the guide's expectations are of the experiments as declared; these runs changed {listed(changed)}"
    return said if changed else ""


def setting_notes(runs: list[Run]) -> list[str]:
    """What was changed from the experiments, and what a person should know of runs as they were configured."""
    changed = defaultdict(list)
    for run in runs:
        for key, (old, new) in overrides(run).items():
            changed[f"{key} {plain(new)} (there {plain(old)})"].append(run.place)
    notes = [
        f"changed from the experiment: {change} in {'all runs' if len(places) == len(runs) else ', '.join(places)}"
        for change, places in changed.items()
    ]
    frozen = {run.folder.name: (freeze(run.folder.config), run.folder.total_steps) for run in runs}
    return notes + sorted(f"{name}: {said}" for name, (cfg, steps) in frozen.items() for said in cfg.warnings(steps))
