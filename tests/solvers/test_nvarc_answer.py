"""An answer from search to ranking, by an automaton whose probabilities are known."""

import sys

import numpy as np
import pytest

from tests.solvers import toy
from trm_jax.errors import InputError
from trm_jax.solvers import Question, generator
from trm_jax.solvers.nvarc import select, text
from trm_jax.solvers.nvarc.answer import Answerer, Settings
from trm_jax.tasks.arc.grids import Pair

TOY = sys.modules[toy.__name__]
TRAIN = [Pair(np.full((1, n), n, np.uint8), np.full((n, 1), n, np.uint8)) for n in (1, 2, 3)]
QUESTION = Question("task", tuple(TRAIN), (np.array([[4, 5]], np.uint8),))


@pytest.fixture(scope="module")
def params():
    """Replies with one cell, 1 (0.6) or 2 (0.35), and ends (0.9), whatever the prompt was."""
    elsewhere = [1 / 16] * 16
    begins, goes_on = np.full(16, 0.05 / 14), np.full(16, 0.1 / 15)
    begins[1], begins[2], goes_on[text.END] = 0.6, 0.35, 0.9
    plain = [1 if token == text.ASSISTANT else 0 for token in range(16)]
    behind_role = [2 if token == text.NEWLINE else 0 for token in range(16)]
    in_reply = [0 if token == text.START else 3 for token in range(16)]
    return toy.params_of(
        {
            "probabilities": [elsewhere, elsewhere, begins.tolist(), goes_on.tolist()],
            "next": [plain, behind_role, in_reply, in_reply],
        }
    )


@pytest.fixture(scope="module")
def answered(params):
    answer = Answerer(TOY, None, 8)

    def run(others=(), **settings):
        return answer(params, QUESTION, 0, Settings(reply=20, **settings), others)

    return run


def cost(color: int) -> float:
    return -np.log({1: 0.6, 2: 0.35}.get(color, 0.05 / 14) * 0.9)


def test_finds_and_scores_are_those_of_the_views(answered):
    """Each view finds its 1 and its 2, undoes its colours, and every candidate is asked about under the same views."""
    seven = np.array([[7]], np.uint8)
    answer = answered([seven, np.array([[8, 8]], np.uint8)])
    assert answer.complete and not answer.greedy
    searched, scored = (
        text.views(generator(0, "task", f"{what} 0"), 3, each) for what, each in (("search", 2), ("score", 1))
    )
    assert len(searched) == 16 and len(scored) == 8
    seen = set()
    for score, one in answer.ranked:
        if one.grid.size == 2:
            assert not one.finds
            continue
        color = int(one.grid[0, 0])
        seen.add(color)
        found = [cost(int(view.colors[color])) for view in searched if view.colors[color] in (1, 2)]
        np.testing.assert_allclose(one.finds, found, atol=1e-5)
        np.testing.assert_allclose(one.view_nll, [cost(int(view.colors[color])) for view in scored], atol=1e-4)
        assert score == pytest.approx(len(found) - np.mean(one.view_nll))
    assert seen == {int(np.argsort(view.colors)[color]) for view in searched for color in (1, 2)} | {7}
    assert [score for score, _ in answer.ranked] == sorted((score for score, _ in answer.ranked), reverse=True)


def test_views_whose_prompts_are_too_long_are_not_asked(answered):
    """Upright the test input has an end of a line more: of eight symmetries four are left, to search and score."""
    answer = answered(limit=20 + 9)
    assert answer.complete and sum(len(one.finds) for _, one in answer.ranked) == 2 * 8
    assert {len(one.view_nll) for _, one in answer.ranked} == {4}
    with pytest.raises(InputError, match="tokens, more than the 8 that are allowed"):
        answered(limit=20 + 8)


def test_where_the_search_finds_nothing_it_is_greedy_and_says_so(answered):
    answer = answered(probability=0.7)
    assert answer.greedy and answer.complete
    finds = [nll for _, one in answer.ranked for nll in one.finds]
    np.testing.assert_allclose(finds, [cost(1)] * 16, atol=1e-5)


def test_a_budget_shows_in_the_answer(answered):
    answer = answered(budget=1)
    assert not answer.complete and answer.greedy  # no completion has one token


def test_a_seed_draws_its_own_views(answered):
    def of(seed):
        return [(score, one.grid.tolist()) for score, one in answered(seed=seed).ranked]

    assert of(1) == of(1) != of(2)


@pytest.mark.parametrize("selector", select.SELECTORS)
def test_settings_choose_the_selector(answered, selector):
    answer = answered(selector=selector, middle="median")
    for score, one in answer.ranked:
        assert score == select.SELECTORS[selector](one, select.MIDDLES["median"])
