"""What answers of a language model and a judge's rulings on them say: figures, and a report with pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from trm_jax.language.metrics import CORRECT_F1
from trm_jax.reports.content import Panel, Report, Section, Series, Table
from trm_jax.reports.statistics import auroc

Records = Sequence[Mapping[str, Any]]
BY_F1 = f"F1 >= {CORRECT_F1}"
LEAST_AUROC = 0.6  # of controls; a judge that stays below cannot tell right from wrong
VERDICTS = ("yes", "no", "unparsable")
SHOWN = 100  # answers in the table of a report


class Figures(NamedTuple):
    """Of N answers. AUROCs are None where there are no two kinds to tell apart."""

    n: int
    invalid: int  # answers without a token, which have no likelihood
    truncated: int  # behind a prompt that was too long
    exact: float
    f1: float  # the mean
    likelihood: dict[str, float | None]  # what counts as right -> AUROC of -NLL
    verdicts: dict[str, Counter]  # "", "right", "wrong" (control) -> counts of VERDICTS; empty without a judge
    p_yes: float | None  # AUROC of P(yes) against BY_F1
    mass: float | None  # mean of what first tokens give to yes and no
    told_apart: float | None  # AUROC of P(yes) of right and wrong controls
    controls_right: float | None  # share of controls on the right side of P(yes) = 0.5

    @property
    def warnings(self) -> tuple[str, ...]:
        if self.told_apart is None or self.told_apart >= LEAST_AUROC:
            return ()
        said = f"AUROC {self.told_apart:.2f} on answers that are known to be right or wrong"
        return (f"this judge cannot tell right from wrong ({said}); its verdicts mean little",)


def leaning(record: Mapping[str, Any]) -> float:
    """How much a judge leans to yes, from 0 to 1: P(yes), or its verdict where that is not known."""
    known = record["p_yes"]
    return {"yes": 1.0, "no": 0.0, "unparsable": 0.5}[record["verdict"]] if known is None else known


def _of(judged: Records, control: str = "") -> Records:
    """The rulings on the model's answers, or on controls of a kind."""
    return [record for record in judged if record.get("control", "") == control]


def _right(answered: Records) -> dict[str, list[bool]]:
    """What counts as right -> which answers are."""
    right = {
        "exact": [record["em"] for record in answered],
        BY_F1: [record["f1"] >= CORRECT_F1 for record in answered],
    }
    if "verdict" in answered[0]:
        right["judge's yes"] = [record["verdict"] == "yes" for record in answered]
    return right


def _controls(judged: Records) -> tuple[np.ndarray, np.ndarray]:
    """(how much the judge leans to yes, whether that is right) of all controls."""
    found = [(leaning(one), kind == "right") for kind in ("right", "wrong") for one in _of(judged, kind)]
    return np.array([lean for lean, _ in found]), np.array([right for _, right in found], bool)


def _valid(answers: Records) -> tuple[np.ndarray, np.ndarray]:
    """(numbers of the answers that have a likelihood, their NLL)."""
    at = [number for number, record in enumerate(answers) if record["nll"] is not None]
    return np.array(at, int), np.array([answers[number]["nll"] for number in at], float)


def figures(answers: Records, judged: Records) -> Figures:
    """Of the records of an answers file, at least one, and those of a judged file, in the same order."""
    scored, (valid, nll), (lean, known) = _of(judged), _valid(answers), _controls(judged)
    right = _right(scored)
    asked = "verdict" in scored[0]
    kinds = [kind for kind in ("", "right", "wrong") if asked and _of(judged, kind)]
    masses = [record["mass"] for record in judged if record.get("mass") is not None]
    return Figures(
        n=len(answers),
        invalid=len(answers) - len(valid),
        truncated=sum("truncated" in record for record in answers),
        exact=float(np.mean(right["exact"])),
        f1=float(np.mean([record["f1"] for record in scored])),
        likelihood={name: auroc(-nll, np.array(values, float)[valid]) for name, values in right.items()},
        verdicts={kind: Counter(record["verdict"] for record in _of(judged, kind)) for kind in kinds},
        p_yes=auroc([leaning(record) for record in scored], np.array(right[BY_F1], float)) if asked else None,
        mass=float(np.mean(masses)) if masses else None,
        told_apart=auroc(lean, known.astype(float)),
        controls_right=float(np.mean((lean > 0.5) == known)) if len(lean) else None,
    )


def _area(value: float | None) -> str:
    return "unknown, all are alike" if value is None else f"{value:.4f}"


def tell(found: Figures) -> list[str]:
    """Lines for a terminal."""
    cut = f", behind a truncated prompt {found.truncated:,}" if found.truncated else ""
    lines = {
        "answers": f"{found.n:,}; without a token {found.invalid:,}{cut}",
        "exact match": f"{found.exact:.4f}  ({round(found.exact * found.n):,} of {found.n:,})",
        "mean F1": f"{found.f1:.4f}",
        "AUROC of -NLL": "  ".join(f"{name} {_area(value)}" for name, value in found.likelihood.items()),
    }
    for kind, counts in found.verdicts.items():
        said = "  ".join(f"{verdict} {counts[verdict]:,}" for verdict in VERDICTS)
        lines[f"  on {kind} ones" if kind else "verdicts"] = said
    if found.verdicts:
        mass = "unknown" if found.mass is None else f"{found.mass:.4f} in the mean"
        lines["P(yes)"] = f"AUROC against {BY_F1} {_area(found.p_yes)}; mass of yes and no {mass}"
    if found.controls_right is not None:
        lines["control"] = f"AUROC {_area(found.told_apart)}; {found.controls_right:.0%} right at P(yes) = 0.5"
    return [f"{name:<17}{said}" for name, said in lines.items()]


def report(name: str, about: Mapping[str, str], answers: Records, judged: Records) -> Report:
    """The page on an answers file and its judged file."""
    found = figures(answers, judged)
    said = f"{found.exact:.0%} of {found.n:,} answers match exactly and the mean F1 is {found.f1:.2f}"
    if found.verdicts:
        said += f"; the judge says yes to {found.verdicts['']['yes'] / found.n:.0%}"
    sections = [_likelihood(found, answers, judged)]
    if found.verdicts:
        sections.append(_judge(found, judged))
    sections.append(_answers(answers, judged))
    question = "How many answers are right, and does the model's likelihood tell which?"
    csv = {f"{name}.csv": list(_rows(answers, judged))}
    return Report(name, question, f"{said}.", tuple(about.items()), found.warnings, tuple(sections), csv)


def _likelihood(found: Figures, answers: Records, judged: Records) -> Section:
    valid, nll = _valid(answers)
    right = {name: np.array(values)[valid] for name, values in _right(_of(judged)).items()}
    rows = [
        (name, f"{values.sum():,} of {len(values):,}", _area(found.likelihood[name])) for name, values in right.items()
    ]
    said = found.likelihood[BY_F1]
    sentence = "All answers are alike, so the likelihood has nothing to tell apart."
    if said is not None:
        sentence = f"Of a right and a wrong answer the right one is the likelier with a chance of {said:.2f} ({BY_F1})."
    panels = ()
    if len(valid):
        parts = ((nll[right[BY_F1]], "right"), (nll[~right[BY_F1]], "wrong"))
        panels = (
            _distributions(f"NLL of answers that are right ({BY_F1}) or wrong", "NLL (nats)", parts),
            _rocs("ROC of -NLL", [(name, -nll, values) for name, values in right.items()]),
        )
    caption = "AUROC: the chance that a right answer has a lower NLL than a wrong one; 0.5 is guessing."
    notes = (f"{found.invalid:,} answers without a token have no likelihood and are left out.",) * bool(found.invalid)
    table = Table(("right by", "right", "AUROC of -NLL"), tuple(rows), caption)
    return Section("What the likelihood tells", sentence, table, "likelihood", panels, notes)


def _judge(found: Figures, judged: Records) -> Section:
    names = {"": "the model's answers", "right": "known to be right", "wrong": "known to be wrong"}
    rows = [(names[kind], *(f"{counts[verdict]:,}" for verdict in VERDICTS)) for kind, counts in found.verdicts.items()]
    table = Table(("asked about", *VERDICTS), tuple(rows), "Unparsable: the reply begins with neither yes nor no.")
    answered = _of(judged)
    own = (
        "answers, right by F1",
        np.array([leaning(record) for record in answered]),
        np.array(_right(answered)[BY_F1]),
    )
    sentence, panels = (
        "The judge was not controlled, so nothing tells what its verdicts are worth.",
        [_rocs("ROC of P(yes)", [own])],
    )
    if found.told_apart is not None:
        sentence = (
            f"Of an answer that is known to be right and one that is known to be wrong the judge leans to the first "
            f"with a chance of {found.told_apart:.2f}; {found.controls_right:.0%} lie on their side of P(yes) = 0.5."
        )
        lean, known = _controls(judged)
        parts = ((lean[known], names["right"]), (lean[~known], names["wrong"]))
        panels = [
            _distributions("P(yes) of controls", "P(yes)", parts),
            _rocs("ROC of P(yes)", [("controls", lean, known), own]),
        ]
    note = "The judge tells no probabilities: yes counts as 1, no as 0, anything else as 0.5."
    if found.mass is not None:
        note = f"P(yes): the share of yes in what first tokens give to yes and no, in the mean {found.mass:.4f} of all."
    return Section("What the judge says", sentence, table, "judge", tuple(panels), (note,))


def _answers(answers: Records, judged: Records) -> Section:
    columns = ("question", "answer", "accepted", "F1", "NLL")
    scored, rows = _of(judged), []
    for answer, record in list(zip(answers, scored, strict=True))[:SHOWN]:
        row = [answer["question"], record["response"], "; ".join(answer["answers"]), f"{record['f1']:.2f}"]
        row.append("" if answer["nll"] is None else f"{answer['nll']:.2f}")
        if "verdict" in record:
            row += [record["verdict"], "" if record["p_yes"] is None else f"{record['p_yes']:.2f}"]
        rows.append(tuple(map(_line, row)))
    wrong = sum(record["f1"] < CORRECT_F1 for record in scored)
    caption = f"All {len(rows):,}." if len(rows) == len(answers) else f"The first {SHOWN}; all are in the CSV file."
    table = Table((*columns, "verdict", "P(yes)")[: len(rows[0])], tuple(rows), caption)
    return Section("The answers", f"{wrong:,} of {len(answers):,} have an F1 below {CORRECT_F1}.", table)


def _line(text: str) -> str:
    """A text in one line, without what does something to a page."""
    return " ".join("".join(letter if letter.isprintable() else " " for letter in text).split())


def _rows(answers: Records, judged: Records) -> Iterator[dict[str, object]]:
    """A line of the CSV file for each ruling."""
    known = {answer["id"]: answer for answer in answers}
    for record in judged:
        answer = known[record["id"]]
        row = {"id": record["id"], "question": answer["question"], "accepted": "; ".join(answer["answers"])}
        row["nll"] = None if "control" in record else answer["nll"]
        keys = ("control", "response", "em", "f1", "reply", "verdict", "p_yes", "mass")
        yield row | {key: record.get(key) for key in keys}


def _distributions(title: str, x_label: str, parts: Sequence[tuple[np.ndarray, str]]) -> Panel:
    """The share of values that are at most x, a staircase for each part."""
    series = []
    for color, (values, label) in enumerate(parts):
        stairs = np.repeat(np.arange(len(values) + 1) / max(len(values), 1), 2)[1:-1]
        series.append(
            Series(f"{label} ({len(values)})", np.repeat(np.sort(values), 2), stairs, style="line", color=color)
        )
    return Panel(title, x_label, "share that is at most this", tuple(one for one in series if len(one.x)))


def _rocs(title: str, curves: Sequence[tuple[str, np.ndarray, np.ndarray]]) -> Panel:
    """The shares of wrong and of right ones that are kept, the most confident first."""
    series = [Series("", (0, 1), (0, 1), style="dashed", color=6)]
    for color, (label, confidence, right) in enumerate(curves):
        if right.any() and not right.all():
            kept = confidence >= np.unique(confidence)[::-1, None]
            x, y = ([0.0, *kept[:, part].mean(axis=1).tolist()] for part in (~right, right))
            series.append(Series(label, x, y, style="line", color=color))
    return Panel(title, "share of the wrong ones that is kept", "share of the right ones that is kept", tuple(series))
