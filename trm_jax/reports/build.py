"""A report from a study: its sections, what is said above them, how it was made, its raw numbers."""

from collections import defaultdict

from trm_jax.configs.runs import Run
from trm_jax.reports import measures as m
from trm_jax.reports.content import Report
from trm_jax.reports.diagnostics import diagnosed
from trm_jax.reports.sections import curves
from trm_jax.reports.statistics import ALPHA
from trm_jax.reports.study import Study
from trm_jax.reports.units import listed, plain


def build(study: Study, command: str) -> Report:
    """The report on a study. command: the command line that makes it."""
    sections = [*study.report(study), *diagnosed(study), curves(study)]
    sections = [part._replace(panels=tuple(panel for panel in part.panels if panel.series)) for part in sections]
    notes = (*study.notes, *_hard_to_compare(study))
    csv = {f"{study.name}.csv": _csv(study)}
    return Report(study.name, study.question, sections[0].sentence, _about(study, command), notes, tuple(sections), csv)


def _about(study: Study, command: str) -> tuple[tuple[str, str], ...]:
    """How a report was made, as (name, words)."""
    runs = study.runs
    seeds = [str(seed) for seed in sorted({run.seed for run in runs})]
    facts = {
        "command": command,
        "runs": f"{len({run.path for run in runs})}, of {len(study.ran)} experiments; seeds: {listed(seeds)}",
        "data": _data(runs),
        "scored on": f"{'fitted' if runs[0].settings.get('data.fit') else 'held-out'} puzzles, {runs[0].scored_on}",
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
    """What the runs trained on: their settings of data that say something."""
    found = defaultdict(dict)
    for key, value in ((key, value) for run in runs for key, value in run.settings.items()):
        if key.startswith("data.") and value not in ("", 0, -1):
            found[key.removeprefix("data.")][plain(value)] = None
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
    found, seeds = [], max(len(arm.runs) for arm in study.ran)
    if fewer := [f"{arm.name} ({len(arm.runs)} of {seeds})" for arm in study.ran if len(arm.runs) < seeds]:
        found.append(f"fewer seeds than others: {', '.join(fewer)}")
    if len(set(map(_device, study.runs))) > 1:
        found.append("runs on different devices: speed, time and memory do not compare across them")
    if len(set(map(_versions, study.runs))) > 1:
        found.append("runs with different versions of the software")
    updates = sorted((arm.mean(m.STEPS), arm.name) for arm in study.ran)
    (least, first), (most, last) = updates[0], updates[-1]
    if most > 1.01 * least:
        words = f"from {least:,.0f} ({first}) to {most:,.0f} ({last})"
        found.append(f"arms differ in their number of updates too, {words}, and may owe their score to it")
    return found


def _csv(study: Study) -> list[dict[str, object]]:
    """A row for each run, in base units: seconds, bytes, FLOP."""
    levels = [m.until(what, level) for level in study.levels for what in ("time", "epochs")]
    rows = []
    for name, run in ((arm.name, run) for arm in study.arms for run in arm.runs):
        row = {"experiment": name, "run": str(run.path), "seed": run.seed, "finished": run.done}
        row |= {"device": run.facts.get("device_kind"), **{key: run.settings[key] for key in study.varied}}
        rows.append(row | {measure.key: measure.of(run) for measure in (*study.scores, *m.OF_RUNS, *levels)})
    return rows
