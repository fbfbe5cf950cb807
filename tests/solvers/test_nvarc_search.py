"""Threshold search against enumeration: on the golden automata, on drawn ones, and on tiny decoders."""

import itertools
import sys

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.solvers import toy
from trm_jax.errors import InputError
from trm_jax.evals.decode import Decoder
from trm_jax.models import decoder
from trm_jax.solvers.nvarc.search import Scorer, Search

TOY = sys.modules[toy.__name__]
NLL = 1e-5  # what the golden README calls fair


def prompt(*tokens) -> dict:
    return {"inputs": np.array(tokens, np.int32)}


@pytest.fixture(scope="module")
def searched():
    """searched(distribution, starts, probability, most): what follows each of the states."""
    search = Search(TOY, None, 3, 3, range(4))  # all automata end with 3 and allow what is below

    def run(distribution, starts, probability, most, **how):
        prompts = [prompt(toy.VOCABULARY + start) for start in starts]
        return search(toy.params_of(distribution), prompts, probability, most, **how)

    return run


def test_the_golden_sets(golden, searched):
    said = golden("threshold_search")
    distributions = {one["name"]: one for one in said["distributions"]}
    for (name, p, most), cases in itertools.groupby(
        said["cases"], lambda case: (case["distribution"], case["min_probability"], case["max_length"])
    ):
        cases = list(cases)
        found = searched(distributions[name], [case["start"] for case in cases], p, most)
        for case, one in zip(cases, found, strict=True):
            assert one.complete
            assert [list(tokens) for tokens, _ in one.completions] == [x["tokens"] for x in case["completions"]]
            wanted = [x["nll"] for x in case["completions"]]
            np.testing.assert_allclose([nll for _, nll in one.completions], wanted, atol=NLL)


def test_the_golden_costs_of_answers(golden):
    said = golden("nvarc_selection")
    cases = said["answer_scores"]
    prompts = [[toy.VOCABULARY + case["start"], *case["prompt"]] for case in cases]
    costs = Scorer(TOY, None, 3)(toy.params_of(said["distribution"]), prompts, [case["answer"] for case in cases])
    np.testing.assert_allclose(costs, [case["nll"] for case in cases], atol=NLL)


@st.composite
def distributions(draw):
    """Automata of 1 to 4 states over 5 tokens, one of them forbidden; the end is 3."""
    states = draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    table = rng.dirichlet(np.full(5, draw(st.sampled_from([0.1, 0.5, 2.0]))), size=states)
    following = rng.integers(0, states, (states, 5)).tolist()
    return {"probabilities": table.tolist(), "next": following, "allowed": [0, 1, 2, 3]}


@settings(max_examples=15)
@given(distributions(), st.sampled_from([0.2, 0.1, 0.05, 0.02]), st.integers(1, 6))
def test_it_finds_what_enumeration_finds(searched, distribution, probability, most):
    starts = range(len(distribution["next"]))
    for start, found in zip(starts, searched(distribution, starts, probability, most), strict=True):
        wanted = toy.enumerate_all(distribution, start, probability, most, 3)
        got = dict(found.completions)
        close = {key for key, nll in wanted.items() if abs(nll + np.log(probability)) < 1e-4}  # float32 may differ
        assert found.complete and got.keys() - close == wanted.keys() - close
        np.testing.assert_allclose([got[key] for key in sorted(got)], [wanted[key] for key in sorted(got)], atol=1e-4)


def test_a_budget_is_told(golden, searched):
    """Each budget finds part of the set; the search is complete from the number of prefixes on that there are."""
    said = golden("threshold_search")
    (case,) = (x for x in said["cases"] if x["min_probability"] == 0.01 and x["start"] == 0)
    distribution = said["distributions"][0]
    whole = [tuple(x["tokens"]) for x in case["completions"]]
    prefixes = 1 + sum(case["alive_prefixes_by_length"].values())  # the empty one too
    for budget in (0, 1, 4, prefixes - 1, prefixes):
        # Beside a prompt that is done early, and has budget left.
        one, other = searched(distribution, [0, 2], 0.01, 6, budget=budget)
        found = {tokens for tokens, _ in one.completions}
        assert one.complete == (budget >= prefixes) == (found == set(whole)) and found <= set(whole)
        assert other.complete == (budget >= 6)
    stopped = searched(distribution, [0, 1], 0.01, 6, stop=lambda: True)
    assert [one.complete for one in stopped] == [False, False]


def test_time_that_is_up_is_told(searched):
    """A language that has no end: the search is asked after each chunk, and says that it is not complete."""
    endless = {"probabilities": [[0.999, 0.0005, 0.0004, 0.0001]], "next": [[0, 0, 0]], "allowed": [0, 1, 2, 3]}
    asked = []

    def stop():
        asked.append(None)
        return len(asked) > 3  # before the batch, then behind 1, 65 and 129 tokens

    (found,) = searched(endless, [0], 0.2, 931, stop=stop)
    assert not found.complete and len(asked) == 4
    (found,) = searched(endless, [0], 0.2, 150)
    assert found.complete and not found.completions


@pytest.mark.parametrize("p", [0.0, 1.0, 1.5])
def test_an_impossible_threshold_is_refused(searched, p):
    with pytest.raises(InputError, match="between 0 and 1"):
        searched({"probabilities": [[1.0]], "next": [[0]]}, [0], p, 6)


@pytest.fixture(scope="module")
def tiny():
    """A decoder over 16 tokens with sharp opinions."""
    cfg = decoder.Config(16, 32, 2, 4, 2, 8, 64, rope_theta=1e4, qk_norm=True, tied=False)
    params = jax.jit(decoder.init, static_argnums=1)(jax.random.key(0), cfg)
    return cfg, {**params, "head": params["head"] * 80.0}


def by_reading(cfg, params, tokens, probability, allowed, end, most):
    """{completion: NLL} of a decoder: every prefix is read anew, without a cache."""
    read, found, level = jax.jit(decoder.forward, static_argnums=1), {}, {(): 0.0}
    for _ in range(most):
        if not level:
            break
        longer = {}
        for prefix, nll in level.items():
            text = np.zeros((1, 64), np.int32)
            size = len(tokens) + len(prefix)
            text[0, :size] = [*tokens, *prefix]
            log_p = np.asarray(jax.nn.log_softmax(read(params, cfg, text)[0, size - 1]), np.float64)
            for token in allowed:
                if nll - log_p[token] < -np.log(probability):
                    (found if token == end else longer)[*prefix, token] = nll - log_p[token]
        level = longer
    return found


def test_a_decoder_is_searched_like_any_other(tiny):
    """Prompts of unequal length, alone and together, behind a padded cache: what reading every prefix anew finds."""
    cfg, params = tiny
    rng = np.random.default_rng(1)
    texts = [rng.integers(0, 16, n).tolist() for n in (3, 17, 30, 9)]
    allowed, end, p, most = (*range(11), 15), 15, 0.05, 12
    search = Search(decoder, cfg, 4, end, allowed)
    together = search(params, [prompt(*text) for text in texts], p, most)
    assert sum(len(one.completions) for one in together) > 6
    assert max(len(tokens) for one in together for tokens, _ in one.completions) > 7
    for text, one in zip(texts, together, strict=True):
        wanted = by_reading(cfg, params, text, p, allowed, end, most)
        (single,) = search(params, [prompt(*text)], p, most)
        for found in (one, single):
            assert found.complete and {tokens for tokens, _ in found.completions} == wanted.keys()
            np.testing.assert_allclose([x[1] for x in found.completions], sorted(wanted.values()), atol=1e-4)
        replies = [tokens for tokens, _ in one.completions]
        costs = Scorer(decoder, cfg, 2)(params, [text] * len(replies), replies)
        np.testing.assert_allclose(costs, [nll for _, nll in one.completions], atol=1e-4)


def test_greedy_is_the_likeliest_token_at_each_place(tiny):
    """Against evals.decode, on a decoder that may write what is no grid: then they part, for that is left out."""
    cfg, params = tiny
    texts = [np.random.default_rng(seed).integers(0, 16, 5 + seed).astype(np.int32) for seed in range(8)]
    found = Search(decoder, cfg, 8, 15, range(16)).greedy(params, [{"inputs": text} for text in texts], 40)
    write = Decoder(decoder, cfg, 8, 15)
    sizes = np.array([len(text) for text in texts])
    (written,) = write(params, lambda number: {"inputs": texts[number]}, sizes, 40)
    assert sum(one.ended for one in written) > 1
    for one in written:
        wanted = [(tuple(one.tokens.tolist()), -one.log_probs.sum())] if one.ended else []
        assert [tokens for tokens, _ in found[one.prompt].completions] == [tokens for tokens, _ in wanted]
        np.testing.assert_allclose([nll for _, nll in found[one.prompt].completions], [x for _, x in wanted], atol=1e-3)
