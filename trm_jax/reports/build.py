"""A report from a study: its sections, what is said above them, how it was made, its raw numbers."""

from __future__ import annotations

from collections.abc import Iterable

from trm_jax.reports import measures as m
from trm_jax.reports.content import Report, Table
from trm_jax.reports.groups import analyses_of
from trm_jax.reports.measures import Measure
from trm_jax.reports.runs import Run
from trm_jax.reports.study import Study
from trm_jax.reports.units import listed

_MEASURES: tuple[Measure, ...] = (
    m.EXACT, m.TOKENS, m.LIVE, m.TRAIN_EXACT, m.GAP, m.STEPS, m.TIME, m.SPEED, m.MEMORY, m.PARAMETERS, m.TRAIN_FLOPS,
    m.PUZZLE_FLOPS, m.DEPTH, m.EARLY_STEPS, m.EARLY_EXACT, m.HALT_VARIANCE, m.HALT_EARLY, m.TRAIN_STEPS,
    m.LOSS_VARIANCE, m.GRAD_NORM,
)  # fmt: skip
_LEVELS = (0.80, 0.85, 0.87)


def _csv_measures(study: Study) -> list[Measure]:
    levels = study.levels or _LEVELS
    return [*_MEASURES, *(until(level) for level in levels for until in (m.time_to, m.epochs_to))]


def build(study: Study, command: str) -> Report:
    """The report on a study. command: the command line that makes it."""
    sections = tuple(analyse(study) for analyse in analyses_of(study.kind))
    return Report(
        study.name,
        study.question,
        sections[0].sentence,
        _about(study, command),
        (*study.notes, *_mixed(study)),
        sections,
        {f"{study.name}.csv": _arms_csv(study), f"{study.name}_runs.csv": _runs_csv(study)},
    )


def _about(study: Study, command: str) -> tuple[tuple[str, str], ...]:
    runs = study.runs
    seeds = sorted({run.folder.seed for run in runs})
    count = len({run.place for run in runs})
    finals = {(run.final.get("eval_set", "unknown")[:12], run.final.get("count", 0)) for run in runs}
    return (
        ("command", command),
        ("runs", f"{count} run{'s' * (count > 1)}, seeds {listed(list(map(str, seeds)))}"),
        ("data", study.data),
        ("scored on", "; ".join(f"{number:,} held-out puzzles (set {digest})" for digest, number in sorted(finals))),
        ("accuracy", "exact accuracy of the evaluation after the last update, EMA weights where a run averages; never "
         "the best on the way"),
        ("device", "; ".join(_distinct(_device(run) for run in runs))),
        ("versions", "; ".join(_distinct(_versions(run) for run in runs))),
        ("tests", "Welch's t-test, two-sided, alpha 0.05, Holm's correction over the comparisons of a column"),
    )  # fmt: skip


def _distinct(words: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(words))


def _device(run: Run) -> str:
    kind = run.facts.get("device_kind")
    return f"{run.facts.get('devices', 1)} x {kind} ({run.facts.get('backend', 'unknown')})" if kind else "not recorded"


def _versions(run: Run) -> str:
    versions = run.facts.get("versions", {})
    return ", ".join(f"{name} {version}" for name, version in versions.items()) or "not recorded"


def _mixed(study: Study) -> list[str]:
    """What makes figures of the runs hard to compare."""
    most = max(len(arm.runs) for arm in study.ran)
    fewer = [f"{arm.name} ({len(arm.runs)} of {most})" for arm in study.ran if len(arm.runs) < most]
    found = [f"fewer seeds than others: {', '.join(fewer)}"] if fewer else []
    if len({_device(run) for run in study.runs}) > 1:
        found.append("runs on different devices: speed, time and memory do not compare across them")
    if len({_versions(run) for run in study.runs}) > 1:
        found.append("runs with different versions of the software")
    packs = sorted({run.facts.get("pack", 1) for run in study.runs})
    if packs != [1]:
        found.append(
            f"runs trained side by side ({listed([str(pack) for pack in packs])} in one program): time, throughput and "
            "memory are those of the whole program and count as one measurement for all seeds of an experiment"
        )
    return found


def _arms_csv(study: Study) -> Table:
    """Means, standard deviations and n in base units: seconds, bytes, FLOP."""
    measures = _csv_measures(study)
    columns = ["experiment", "alias_of", *study.varied]
    for measure in measures:
        columns += [f"{measure.key}_mean", f"{measure.key}_sd", f"{measure.key}_n"]
    guide = list(dict.fromkeys(key for arm in study.arms for key in arm.expects)) if study.full_size else []
    columns += [f"guide_expects_{key}_unmeasured" for key in guide]
    rows = []
    for arm in study.arms:
        row = [arm.name, arm.alias_of, *(str(arm.settings[key]) for key in study.varied)]
        for measure in measures:
            found = arm.spread(measure)
            row += [_raw(found.mean), _raw(found.deviation), str(found.n)] if found else ["", "", "0"]
        rows.append((*row, *(_raw(arm.expects.get(key)) for key in guide)))
    return Table(tuple(columns), tuple(rows))


def _runs_csv(study: Study) -> Table:
    """A row for each run, in base units."""
    measures = _csv_measures(study)
    columns = ("experiment", "run", "seed", "finished", *study.varied, *(measure.key for measure in measures))
    rows = [
        (
            arm.name,
            run.place,
            str(run.folder.seed),
            str(run.folder.done).lower(),
            *(str(run.settings[key]) for key in study.varied),
            *(_raw(measure.of(run)) for measure in measures),
        )
        for arm in study.arms
        for run in arm.runs
    ]
    return Table(columns, tuple(rows))


def _raw(value: float | None) -> str:
    return "" if value is None else repr(value)
