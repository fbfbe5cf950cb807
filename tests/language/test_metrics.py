"""Scores of answers, held against tests/golden/llm/metrics.json, and laws that hold whatever the input."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm_jax.language import metrics


@pytest.fixture(scope="module")
def golden(golden_folder):
    return json.loads((golden_folder / "llm" / "metrics.json").read_text())


def test_replies_of_a_judge(golden):
    assert len(golden["judge"]) == 30
    for case in golden["judge"]:
        assert metrics.verdict(case["reply"]) == case["klass"], case


def test_squad(golden):
    for case in golden["squad"]:
        answer, accepted = case["prediction"], case["references"]
        assert metrics.normalised(answer) == case["normalized"], case
        assert metrics.f1(answer, accepted) == pytest.approx(case["f1"], abs=1e-9), case
        assert metrics.exact_match(answer, accepted) == case["em"], case
        assert (metrics.f1(answer, accepted) >= metrics.CORRECT_F1) == case["correct"], case


def test_likelihoods(golden):
    for case in golden["nll"]:
        found = metrics.likelihood(case["token_logprobs"])
        names = ("nll", "sequence_prob", "length_normalised", "perplexity")
        for value, name in zip(found, names, strict=True):
            assert value == (None if case[name] is None else pytest.approx(case[name], rel=1e-8)), (name, case)
        assert found.valid == case["valid"]
    assert metrics.likelihood([-1e6]).perplexity == math.inf


@given(st.text(), st.text())
def test_f1_is_symmetric_and_one_for_equal_bags(a, b):
    assert metrics.f1(a, [b]) == metrics.f1(b, [a]) <= 1
    assert metrics.f1(a, [a]) == 1 and metrics.exact_match(a, [a])
    if metrics.exact_match(a, [b]):
        assert metrics.f1(a, [b]) == 1
