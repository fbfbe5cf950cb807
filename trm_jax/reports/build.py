"""A report from a study: its sections, what is said above them, how it was made, its raw numbers."""

from __future__ import annotations

from trm_jax.reports import measures as m
from trm_jax.reports.analyses.goodput import where_time_went
from trm_jax.reports.content import Report, Table
from trm_jax.reports.facts import about, mixed
from trm_jax.reports.groups import analyses_of
from trm_jax.reports.measures import Measure
from trm_jax.reports.study import Study

_MEASURES: tuple[Measure, ...] = (
    m.EXACT, m.TOKENS, m.LIVE, m.TRAIN_EXACT, m.GAP, m.STEPS, m.TIME, m.SPEED, m.MEMORY, m.PARAMETERS, m.TRAIN_FLOPS,
    m.PUZZLE_FLOPS, m.DEPTH, m.EARLY_STEPS, m.EARLY_EXACT, m.HALT_VARIANCE, m.HALT_EARLY, m.TRAIN_STEPS,
    m.LOSS_VARIANCE, m.GRAD_NORM,
)  # fmt: skip
_LEVELS = (0.80, 0.85, 0.87)


def _csv_measures(study: Study) -> list[Measure]:
    levels = study.levels or _LEVELS
    return [*_MEASURES, *(until(level) for level in levels for until in (m.time_to, m.epochs_to, m.compute_to))]


def build(study: Study, command: str) -> Report:
    """The report on a study. command: the command line that makes it."""
    analyses = analyses_of(study.kind)
    if any(run.goodput for run in study.runs):
        analyses = (*analyses, where_time_went)
    sections = tuple(analyse(study) for analyse in analyses)
    return Report(
        study.name,
        study.question,
        sections[0].sentence,
        about(study, command),
        (*study.notes, *mixed(study)),
        sections,
        {f"{study.name}.csv": _arms_csv(study), f"{study.name}_runs.csv": _runs_csv(study)},
    )


def _arms_csv(study: Study) -> Table:
    """Means, standard deviations and n in base units: seconds, bytes, FLOP."""
    measures = _csv_measures(study)
    columns = ["experiment", "alias_of", *study.varied]
    for measure in measures:
        columns += [f"{measure.key}_mean", f"{measure.key}_sd", f"{measure.key}_n"]
    guide = list(dict.fromkeys(key for arm in study.arms for key in arm.expects)) if not study.guide_problem else []
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
    """A row for each run, in base units; the time of packed runs is that of the whole pack, in each of its rows."""
    measures = [*_csv_measures(study), *m.TIME_SPENT]
    columns = ("experiment", "run", "seed", "finished", "device", "pack", *study.varied, *(one.key for one in measures))
    rows = [
        (
            arm.name,
            run.place,
            str(run.folder.seed),
            str(run.folder.done).lower(),
            run.facts.get("device_kind", ""),
            str(run.facts.get("pack", 1)),
            *(str(run.settings[key]) for key in study.varied),
            *(_raw(measure.of(run)) for measure in measures),
        )
        for arm in study.arms
        for run in arm.runs
    ]
    return Table(columns, tuple(rows))


def _raw(value: float | None) -> str:
    return "" if value is None else repr(value)
