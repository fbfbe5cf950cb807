"""What `trm eval --diagnose` found of runs: its diagrams, and a section of a report."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from statistics import fmean
from typing import Any

from trm_jax.configs.runs import Run
from trm_jax.reports import units
from trm_jax.reports.content import Panel, Section, Series
from trm_jax.reports.measures import Measure
from trm_jax.reports.parts import arm_table, measured
from trm_jax.reports.sections import distribution
from trm_jax.reports.study import Study
from trm_jax.reports.units import compact, listed

Page = Mapping[str, Any]  # of diagnostics.json; trm_jax.reports.diagnosis makes it
NOTE = (
    "Settled rows are those whose answer did not change in the last quarter of the steps. Calibration is of "
    "sigmoid(q_halt) after the last step against answers right in every token. docs/diagnostics.md says what each "
    "figure means."
)


def of_record(run: Run) -> Page:
    """A run's diagnostics where they are of its evaluation of record, else {}."""
    weights = "ema" if run.settings["optim.ema_decay"] else "live"
    wanted = {"step": run.final["step"], "eval_set": run.final.get("eval_set"), "weights": weights}
    whole = run.diagnostics and run.diagnostics["held_out"]["n"] == run.final["count"]
    return run.diagnostics if whole and wanted.items() <= run.diagnostics.items() else {}


def _measure(key: str, name: str, *path: str, unit=units.FRACTION) -> Measure:
    def take(run: Run) -> float | None:
        value = of_record(run)
        for word in path:
            value = value[word]
        return value

    return Measure(f"diagnosed_{key}", name, unit, take)


MEASURES = (
    _measure("training", "score of training puzzles", "training", "score"),
    _measure("held_out", "of held-out ones", "held_out", "score"),
    _measure("settled", "share settled", "settling", "settled"),
    _measure("score_settled", "score of settled rows", "settling", "score_settled"),
    _measure("score_wandering", "score of wandering rows", "settling", "score_wandering"),
    _measure("q_score", "score when stopped by q", "stopping", "q", "score"),
    _measure("q_steps", "steps then", "stopping", "q", "steps", unit=units.PLAIN),
    _measure("settled_score", "score when stopped once settled", "stopping", "settled", "score"),
    _measure("settled_steps", "its steps", "stopping", "settled", "steps", unit=units.PLAIN),
    _measure("ece", "calibration error of q", "calibration", "ece"),
    _measure("brier", "Brier score of q", "calibration", "brier"),
    _measure("auroc", "AUROC of q", "calibration", "auroc"),
)


def diagnosed(study: Study) -> list[Section]:
    """The section of runs that were diagnosed at their evaluation of record; none without such."""
    pages = {arm.name: [page for run in arm.runs if (page := of_record(run))] for arm in study.ran}
    if not any(pages.values()):
        return []
    known = [measure for measure in MEASURES if any(arm.values(measure) for arm in study.ran)]
    table = arm_table(study, measured(study, *known))
    others = [str(run.path) for run in study.runs if run.diagnostics and not of_record(run)]
    left_out = f"Left out, of another checkpoint, weights or puzzles than the evaluation of record: {listed(others)}."
    sentence = f"{sum(map(len, pages.values()))} of {len(study.runs)} runs were diagnosed; curves are means over seeds."
    notes = (NOTE, *[left_out] * bool(others))
    return [Section("What happens while it thinks", sentence, table, "diagnostics", tuple(panels(pages)), notes)]


def panels(pages: Mapping[str, Sequence[Page]]) -> list[Panel]:
    """The diagrams of diagnostics, a colour for each arm. pages: of each run of an arm, by the arm's name."""
    pages = {name: found for name, found in pages.items() if found}
    score = next(iter(pages.values()))[0]["score"].replace("_", " ")
    by_step = partial(_panel, pages, "supervision step")
    drawn = [
        by_step("How far the latents move", "norm of the difference", lambda page: _steps(page, "residual")),
        by_step("Tokens of the answer that change", "tokens", lambda page: _steps(page, "changed")),
        by_step(f"Score so far: {score}", score, lambda page: _steps(page, "score")),
        by_step("Rows with q_halt > 0", "share", lambda page: _steps(page, "halts")),
        distribution(
            "From where on the answer stays",
            {name: [page["settling"]["settled_at"] for page in found] for name, found in pages.items()},
        ),
        _reliability(pages),
    ]
    strata = dict.fromkeys(name for found in pages.values() for page in found for name in page["strata"])
    return [panel for panel in (*drawn, *(_stratum(pages, name, score) for name in strata)) if panel.series]


def _steps(page: Page, name: str) -> list[tuple[float, float]]:
    return [(step, value) for step, value in enumerate(page["by_step"][name], 1) if value is not None]


def _panel(
    pages: Mapping[str, Sequence[Page]],
    x_label: str,
    title: str,
    y_label: str,
    points: Callable[[Page], list[tuple[float, float]]],
) -> Panel:
    """The means over an arm's runs at the places that all of them have."""
    series = []
    for number, (name, found) in enumerate(pages.items()):
        by_place = [dict(points(page)) for page in found]
        places = sorted(set.intersection(*map(set, by_place)))
        means = [fmean(one[place] for one in by_place) for place in places]
        series += [Series(name, places, means, style="joined", color=number)] * bool(places)
    return Panel(title, x_label, y_label, tuple(series))


def _reliability(pages: Mapping[str, Sequence[Page]]) -> Panel:
    """Of each bin, numbered by its rank, the means over an arm's runs."""
    series = [Series("as it should be", (0, 1), (0, 1), style="dashed", color=6)]
    for number, (name, found) in enumerate(pages.items()):
        bins = list(zip(*(page["calibration"].get("bins", []) for page in found), strict=False))
        x, y = ([fmean(one[what] for one in same) for same in bins] for what in ("q", "exact"))
        series += [Series(name, x, y, style="joined", color=number)] * bool(bins)
    return Panel("Calibration of q", "mean sigmoid(q_halt) of a bin", "share exact", tuple(series))


def _stratum(pages: Mapping[str, Sequence[Page]], name: str, score: str) -> Panel:
    """The score by a property of puzzles, over the parts of the first run that has it."""
    parts = [_span(one) for found in pages.values() for page in found for one in page["strata"].get(name, [])]
    places = {span: place for place, span in enumerate(dict.fromkeys(parts))}
    places = dict(zip(sorted(places), range(len(places)), strict=True))

    def points(page: Page) -> Iterable[tuple[float, float]]:
        return [(places[_span(one)], one["score"]) for one in page["strata"].get(name, [])]

    panel = _panel(pages, name, f"Score by {name}", score, points)
    return panel._replace(ticks=tuple((place, _span_words(span)) for span, place in places.items()))


def _span(part: Mapping[str, Any]) -> tuple[float, float]:
    return part["from"], part["to"]


def _span_words(span: tuple[float, float]) -> str:
    low, high = map(compact, span)
    return low if low == high else f"{low}-{high}"
