"""Runs side by side as they are, finished or not: last figures and the settings that differ."""

from __future__ import annotations

from collections.abc import Mapping

from trm_jax.configs.resolve import FREE_TO_CHANGE
from trm_jax.reports.build import replaced_data
from trm_jax.reports.comparable import scored_on
from trm_jax.reports.content import Table
from trm_jax.reports.runs import Run, seconds_at
from trm_jax.reports.units import SECONDS, scale_for, setting_name, setting_value


def compared(runs: Mapping[str, Run]) -> tuple[Table, list[str]]:
    """A row for each run by its name, and what makes their figures hard to compare."""
    keys = dict.fromkeys(key for run in runs.values() for key in run.settings if not key.startswith(FREE_TO_CHANGE))
    differing = [key for key in keys if len({repr(run.settings.get(key)) for run in runs.values()}) > 1]
    times = [seconds_at(run.records[-1]) for run in runs.values() if run.records]
    clock = scale_for(SECONDS, filter(None, times))
    headlines = dict.fromkeys(run.headline.replace("_", " ") for run in runs.values())
    rows = tuple((name, *_figures(run, clock), _differing(run, differing)) for name, run in runs.items())
    columns = ("run", " or ".join(headlines), "loss", "step", f"time ({clock.label})", "what differs")
    return Table(columns, rows, f"{columns[1]}: of the last evaluation; loss: of the last log line"), _notes(runs)


def reportable(runs: Mapping[str, Run]) -> list[str]:
    """The names of those that one report can be on: evaluated, on the examples of the first that was."""
    scored = {name: scored_on(run) for name, run in runs.items() if run.evaluations}
    return [name for name, examples in scored.items() if examples == next(iter(scored.values()))]


def _figures(run: Run, clock) -> tuple[str, ...]:
    seconds = seconds_at(run.records[-1]) if run.records else None
    total = run.folder.total_steps
    return (
        f"{run.final[run.headline]:.4f}" if run.evaluations else "",
        f"{run.training[-1]['loss']:.4f}" if run.training else "",
        f"{run.folder.step:,}" if run.folder.done else f"{run.folder.step:,} of {f'{total:,}' if total else 'unknown'}",
        "" if seconds is None else clock.number(seconds),
    )


def _differing(run: Run, keys: list[str]) -> str:
    return ", ".join(f"{setting_name(key)} {setting_value(key, run.settings.get(key))}" for key in keys) or "nothing"


def _notes(runs: Mapping[str, Run]) -> list[str]:
    notes = replaced_data(runs.values())
    if len({scored_on(run) for run in runs.values() if run.evaluations}) > 1:
        notes.append("these runs were scored on different examples, so their scores do not compare")
    if len({(run.facts.get("device_kind"), run.facts.get("devices")) for run in runs.values()}) > 1:
        notes.append("these runs were on different devices, so their times do not compare")
    return notes
