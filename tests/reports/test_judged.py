"""Figures of judged answers: those of SmolLM2 as an independent program gives them, and reports of odd ones."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_jax.language import generate, judge
from trm_jax.reports import judged
from trm_jax.reports.pages import html_page, markdown, write_report
from trm_jax.reports.statistics import auroc


@pytest.fixture(scope="module")
def golden(golden_folder):
    return json.loads((golden_folder / "llm" / "smollm2_qa.json").read_text())


@pytest.fixture(scope="module")
def answers(golden):
    questions = {one.id: one for one in generate.read_questions(generate.QUESTIONS)}
    return [
        {"question": questions[item["id"]].question, "answers": list(questions[item["id"]].answers), **item}
        for item in golden["items"]
    ]


def ruled(answers, p_yes, replies=None):
    """Records of a judged file; p_yes: of each answer's item and control."""
    items = {one["id"]: one for one in answers}
    said = [(case, p_yes(items[case.id], case.control)) for case in judge.cases(answers)]
    reply = replies or (lambda item, control: "no")
    return [judge.record(case, judge.Ruling(reply(items[case.id], case.control), p, 0.5)) for case, p in said]


def few_shot(item, control):
    return item["judge_fewshot_p_yes"][{"": "own", "right": "gold", "wrong": "wrong"}[control]]


def test_figures_of_smollm2(golden, answers):
    summary, shots = golden["summary"], golden["judge_fewshot"]
    found = judged.figures(answers, ruled(answers, few_shot))
    assert (found.n, found.invalid, found.truncated) == (40, 0, 0)
    assert found.exact == pytest.approx(summary["exact"]) and found.f1 == pytest.approx(summary["f1_mean"], abs=1e-6)
    assert found.likelihood["exact"] == pytest.approx(summary["auroc_gnll_vs_exact"])
    assert found.likelihood["F1 >= 0.5"] == pytest.approx(summary["auroc_gnll_vs_f1"])
    assert found.p_yes == pytest.approx(shots["auroc_own_vs_f1"])
    assert found.told_apart == pytest.approx(shots["auroc_gold_vs_wrong"])
    assert found.controls_right == shots["accuracy_at_half_gold_vs_wrong"]
    assert found.mass == 0.5 and not found.warnings


def test_a_judge_that_tells_nothing_apart(golden, answers):
    def chat(item, control):
        return item[{"": "judge", "right": "judge_gold", "wrong": "judge_wrong"}[control]]["p_yes"]

    rulings = ruled(answers, chat, lambda item, control: item["judge"]["reply"])
    found = judged.figures(answers, rulings)
    assert found.verdicts[""] == golden["summary"]["judge_own"]
    assert found.p_yes == pytest.approx(golden["summary"]["auroc_pyes_vs_f1"])
    assert found.told_apart == pytest.approx(golden["summary"]["auroc_pyes_gold_vs_wrong"])
    (warning,) = found.warnings
    assert warning.startswith("this judge cannot tell right from wrong (AUROC 0.51")
    assert found.likelihood["judge's yes"] is None and "judge's yes unknown" in "\n".join(judged.tell(found))
    page = judged.report("x", {}, answers, rulings)
    assert page.warnings == (warning,) and "Mind:" in markdown(page)


def test_without_probabilities_verdicts_count():
    assert [judged.leaning({"p_yes": None, "verdict": verdict}) for verdict in judged.VERDICTS] == [1, 0, 0.5]
    assert judged.leaning({"p_yes": 0.0, "verdict": "yes"}) == 0


RECORDS = st.lists(
    st.tuples(st.sampled_from(["cat", "a cat", "dog", ""]), st.none() | st.floats(0, 9), st.none() | st.floats(0, 1)),
    min_size=1,
    max_size=5,
)


@settings(max_examples=25)
@given(RECORDS, st.sampled_from(["none", "answers", "controls"]))
def test_whatever_was_answered_there_is_a_report(found, asked):
    """Also where all are alike, nothing has a likelihood, and nothing has a probability."""
    answers = [
        {"id": str(n), "question": "a | b\x07", "answers": ["cat"] if n % 2 else ["dog"], "response": text, "nll": nll}
        for n, (text, nll, _) in enumerate(found)
    ]
    rulings = {n: judge.Ruling("yes", p, None if p is None else 1.0) for n, (*_, p) in enumerate(found)}
    cases = judge.cases(answers, control=asked == "controls")
    records = [judge.record(case, None if asked == "none" else rulings[int(case.id)]) for case in cases]
    figures = judged.figures(answers, records)
    assert figures.invalid == sum(nll is None for _, nll, _ in found)
    assert judged.tell(figures)
    page = judged.report("x", {"command": "trm"}, answers, records)
    text = markdown(page)
    assert text.replace("\n", "").isprintable()
    assert len(page.csv["x.csv"]) == len(records)
    for panel in (panel for section in page.sections for panel in section.panels):
        for series in panel.series:
            assert len(series.x) == len(series.y) > 0 and np.isfinite([*series.x, *series.y]).all()


@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), min_size=2, max_size=12))
def test_the_area_under_a_roc_is_auroc(items):
    confidence, right = np.array([x for x, _ in items]), np.array([y for _, y in items])
    curves = judged._rocs("", [("a", confidence, right)]).series[1:]
    expected = auroc(confidence, right.astype(float))
    assert len(curves) == (expected is not None)
    for curve in curves:
        assert np.trapezoid(curve.y, curve.x) == pytest.approx(expected)


def test_the_files_of_a_report(answers, tmp_path):
    page = judged.report("report", {"command": "trm lm run"}, answers, ruled(answers, few_shot))
    names = {path.name for path in write_report(page, tmp_path)}
    assert names == {"report.html", "report.md", "report.csv", "report_likelihood.png", "report_judge.png"}
    text = (tmp_path / "report.md").read_text()
    assert "60% of 40 answers match exactly and the mean F1 is 0.62" in text
    assert "with a chance of 0.89; 75% lie on their side" in text
    assert len((tmp_path / "report.csv").read_text().splitlines()) == 121
    assert "data:image/png;base64" in html_page(page, {"report_judge.png": b"x"})
