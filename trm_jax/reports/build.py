"""A report from a study: its sections, what is said above them, how it was made, its raw numbers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace

from trm_jax.reports import measures as m
from trm_jax.reports.content import Report, Table
from trm_jax.reports.runs import Run
from trm_jax.reports.sections import where_time_went
from trm_jax.reports.statistics import ALPHA
from trm_jax.reports.study import Arm, Study
from trm_jax.reports.units import counted, listed, plain
from trm_jax.reports.words import updates_words


def build(study: Study, command: str) -> Report:
    """The report on a study. command: the command line that makes it."""
    sections = study.report(study)
    if any(run.goodput for run in study.runs):
        sections.append(where_time_went(study))
    sections = [replace(part, panels=tuple(panel for panel in part.panels if panel.series)) for part in sections]
    csv = {f"{study.name}.csv": _arms_csv(study), f"{study.name}_runs.csv": _runs_csv(study)}
    notes = (*study.notes, *_hard_to_compare(study))
    answer = sections[0].sentence
    return Report(study.name, study.question, answer, _about(study, command), notes, tuple(sections), csv)


def _about(study: Study, command: str) -> tuple[tuple[str, str], ...]:
    """How a report was made, as (name, words)."""
    runs, final = study.runs, study.runs[0].final  # all were scored on the same
    seeds = [str(seed) for seed in sorted({run.folder.seed for run in runs})]
    facts = {
        "command": command,
        "runs": f"{counted(len({run.place for run in runs}), 'run')} of {counted(len(study.ran), 'experiment')}, "
        f"seed{'s' * (len(seeds) > 1)} {listed(seeds)}",
        "data": _data(runs),
        "scored on": f"{final.get('count', 0):,} held-out puzzles (set {final.get('eval_set', 'unknown')[:12]})",
        "score": f"{study.score.name} of the evaluation after the last update, EMA weights where a run averages; never "
        "the best on the way",
        "device": "; ".join(dict.fromkeys(map(_device, runs))),
        "versions": "; ".join(dict.fromkeys(map(_versions, runs))),
        "tests": f"two-sided, alpha {ALPHA}, Holm's correction over the comparisons of a column; Welch's t-test where "
        "no other is named",
        "expectations": study.guide_problem,
    }
    return tuple((name, words) for name, words in facts.items() if words)


def _data(runs: list[Run]) -> str:
    """What the runs trained on: their settings of data that say something, and how many puzzles these gave."""
    found = defaultdict(dict)
    for run in runs:
        settings = {key.removeprefix("data."): v for key, v in run.settings.items() if key.startswith("data.")}
        used = {"hub": ("hub_repo",), "generated": ()}.get(settings["source"], ("path",))
        settings |= dict.fromkeys({"hub_repo", "path", "train_file", "test_file"}.difference(used), "")
        for key, value in {**settings, "puzzles trained on": run.facts.get("groups", "not recorded")}.items():
            if value not in ("", 0, -1):
                found[key][plain(value)] = None
    return "; ".join(f"{key} {listed(values)}" for key, values in found.items())


def _device(run: Run) -> str:
    kind, backend = run.facts.get("device_kind"), run.facts.get("backend", "unknown")
    model = " (its model is not recorded)" if kind == backend == "cpu" else f" ({backend})"
    return f"{run.facts.get('devices', 1)} x {kind}{model}" if kind else "not recorded"


def _versions(run: Run) -> str:
    versions = run.facts.get("versions", {})
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded"


def _hard_to_compare(study: Study) -> list[str]:
    """What makes figures of the runs hard to compare."""
    found, most = replaced_data(study.runs), max(len(arm.runs) for arm in study.ran)
    if fewer := [f"{arm.name} ({len(arm.runs)} of {most})" for arm in study.ran if len(arm.runs) < most]:
        found.append(f"fewer seeds than others: {', '.join(fewer)}")
    if len({_device(run) for run in study.runs}) > 1:
        found.append("runs on different devices: speed, time and memory do not compare across them")
    if len({_versions(run) for run in study.runs}) > 1:
        found.append("runs with different versions of the software")
    if any(run.packed for run in study.runs):
        found.append("some runs shared a program with others, so their time, throughput and memory are left out")
    if words := updates_words(study.ran):
        found.append(f"arms differ in their number of updates too, {words}, and may owe their score to it")
    if nothing := [arm.name for arm in study.ran if study.score.higher and not any(arm.values(study.score))]:
        found.append(f"no held-out puzzle was solved at the end of {listed(nothing)}")
    return found


def replaced_data(runs: Iterable[Run]) -> list[str]:
    """What is to be said of runs that did not train on their experiment's data."""
    found = defaultdict(list)
    for run in runs:
        found[run.replaced_data].append(run.place)
    return [f"{said}: {', '.join(places)}" for said, places in found.items() if said]


def _measures(study: Study) -> list[m.Measure]:
    """Those that stand in the CSV files."""
    return [
        *study.scores, m.STEPS, m.TIME, m.SPEED, m.MEMORY, m.PARAMETERS, m.TRAIN_FLOPS, m.PUZZLE_FLOPS, m.EARLY_STEPS,
        m.HALT_VARIANCE, m.HALT_EARLY, m.TRAIN_STEPS, m.LOSS_VARIANCE, m.GRAD_NORM,
        *(until(level) for level in study.levels for until in (m.time_to, m.epochs_to)),
    ]  # fmt: skip


def _arms_csv(study: Study) -> Table:
    """Means, standard deviations and n in base units: seconds, bytes, FLOP."""
    guide = list(dict.fromkeys(key for arm in study.arms for key in arm.expects)) if not study.guide_problem else []

    def row(arm: Arm) -> dict[str, object]:
        cells = {"experiment": arm.name, "alias_of": arm.alias_of, **{key: arm.settings[key] for key in study.varied}}
        for measure in _measures(study):
            mean, deviation, n = arm.spread(measure) or (None, None, 0)
            cells |= {f"{measure.key}_mean": mean, f"{measure.key}_sd": deviation, f"{measure.key}_n": n}
        return cells | {f"guide_expects_{key}_unmeasured": arm.expects.get(key) for key in guide}

    return _csv([row(arm) for arm in study.arms])


def _runs_csv(study: Study) -> Table:
    """A row for each run, in base units."""

    def row(arm: Arm, run: Run) -> dict[str, object]:
        done = str(run.folder.done).lower()
        cells = {"experiment": arm.name, "run": run.place, "seed": run.folder.seed, "finished": done}
        cells |= {"device": run.facts.get("device_kind"), **{key: run.settings[key] for key in study.varied}}
        return cells | {measure.key: measure.of(run) for measure in (*_measures(study), *m.TIME_SPENT)}

    return _csv([row(arm, run) for arm in study.arms for run in arm.runs])


def _csv(rows: list[dict[str, object]]) -> Table:
    texts = [tuple("" if value is None else str(value) for value in row.values()) for row in rows]
    return Table(tuple(rows[0]), tuple(texts))
