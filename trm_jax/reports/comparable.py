"""Whether runs may stand in one table: scored on one set of puzzles, alike in all but what is varied."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from trm_jax.configs import registry
from trm_jax.configs.resolve import FREE_TO_CHANGE, diff, flatten, freeze
from trm_jax.configs.runs import RunFolder
from trm_jax.errors import InputError
from trm_jax.reports.runs import Run
from trm_jax.reports.study import Arm
from trm_jax.reports.units import plain

# These do not tell experiments apart: a seed is a repetition, other averages are only evaluated besides.
OPEN = ("seed", "optim.ema_also", *FREE_TO_CHANGE)


def deciding(run: RunFolder) -> dict[str, Any]:
    """The settings that decide what a run computes, its seed left out."""
    return {k: v for k, v in flatten(run.config).items() if not k.startswith(OPEN)}


def require_distinct(arms: list[Arm]) -> None:
    """Raise InputError when runs of one arm differ, or two arms are the same: an override has undone the sweep."""
    seen: dict[tuple, Run] = {}
    for arm in arms:
        settings = {tuple(deciding(run.folder).items()): run for run in arm.runs}
        if len(settings) > 1:
            (one, first), (other, second), *_ = settings.items()
            keys = ", ".join(key for key, value in one if dict(other)[key] != value)
            raise InputError(
                f"the runs of {arm.name} differ in {keys}: {first.place} and {second.place}; report runs of one "
                "setting: keep them under a --root of their own, or name their folders"
            )
        for key, run in settings.items():
            if key in seen:
                raise InputError(
                    f"{seen[key].place} and {run.place} are runs of two experiments with the same settings: what their "
                    "group varies was overridden; name the folders to report them as they are"
                )
            seen[key] = run


def require_comparable(name: str, runs: list[Run], varied: Iterable[str]) -> None:
    """Raise InputError unless the runs were scored on one set of puzzles and changed from their experiments alike."""
    require_one_eval_set(name, runs)
    changed = {key for run in runs for key in overrides(run)} - set(varied)
    for key in sorted(changed):
        places = _places(runs, lambda run, key=key: repr(run.settings[key]))
        if len(places) > 1:
            raise InputError(
                f"the runs of {name} differ in {key}, which is not what it varies: {_who_has(places)}; report runs of "
                "one setting: keep them under a --root of their own, or name their folders"
            )


def require_one_eval_set(name: str, runs: list[Run]) -> None:
    def scored_on(run: Run) -> str:
        return f"eval_set {run.final.get('eval_set', 'unknown')[:12]} of {run.final.get('count', 0):,} puzzles"

    places = _places(runs, scored_on)
    if len(places) > 1:
        raise InputError(
            f"the runs of {name} were scored on different puzzles, so their accuracies do not compare: "
            f"{_who_has(places)}; report those of one set apart, or make the others again on the same data"
        )


def _places(runs: list[Run], value: Callable[[Run], str]) -> dict[str, list[str]]:
    places = defaultdict(list)
    for run in runs:
        places[value(run)].append(run.place)
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
