"""NVARC's views, tokens, training texts and selection, held against the golden files and against their laws."""

import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tests.solvers.conftest import grid_of, pairs_of
from trm_jax.errors import InputError
from trm_jax.solvers import generator
from trm_jax.solvers.nvarc import select, text
from trm_jax.solvers.nvarc.search import Completion
from trm_jax.tasks.arc.grids import Pair

GRIDS = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=30), elements=st.integers(0, 9))
PLAIN = text.View(0, np.arange(10), np.arange(3))


TRAIN = pairs_of([(["12"], ["21"]), (["3", "4"], ["4", "3"]), (["05", "67"], ["76", "50"])])


def test_views_are_the_golden_ones(golden):
    said = golden("nvarc_views")
    colors, plain = np.array(said["colour_permutation"]), np.arange(10)
    assert len(said["views"]) == len(text.SYMMETRIES)
    for symmetry, one in zip(text.SYMMETRIES, said["views"], strict=True):
        for palette, key in ((plain, "forward"), (colors, "forward_with_colours")):
            view = text.View(symmetry, palette, np.arange(0))
            np.testing.assert_array_equal(view.apply(grid_of(said["grid"])), grid_of(one[key]))
            np.testing.assert_array_equal(view.undo(grid_of(one[key])), grid_of(said["grid"]))
    for one in said["offline_data_set_ids"]:
        np.testing.assert_array_equal(
            text.View(one["id"], plain, plain).apply(grid_of(said["grid"])), grid_of(one["forward"])
        )


@settings(max_examples=50)
@given(GRIDS, st.integers(0, 2**32 - 1))
def test_a_view_undone_gives_the_grid_back(grid, seed):
    for view in text.views(np.random.default_rng(seed), 3, 2):
        np.testing.assert_array_equal(view.undo(view.apply(grid)), grid)
        assert view.apply(grid).dtype == np.uint8
        assert sorted(view.colors) == list(range(10)) and sorted(view.order) == [0, 1, 2]


def test_tokens_and_odd_replies_are_the_golden_ones(golden):
    said = golden("nvarc_tokens")
    assert said["max_new_tokens"] == text.REPLY
    ids = [said["ids"][name] for name in ("newline", "user", "assistant", "pad", "start", "end")]
    assert ids == [text.NEWLINE, text.USER, text.ASSISTANT, text.PAD, text.START, text.END]
    for one in said["grids"]:
        assert (
            text.query(grid_of(one["grid"])) == one["query_ids"]
            and text.reply(grid_of(one["grid"])) == one["reply_ids"]
        )
    for one in said["decode"]:
        found = text.parse(one["ids"])
        assert (found if found is None else found.tolist()) == one["expected"], one["name"]


@settings(max_examples=50)
@given(GRIDS)
def test_a_reply_is_read_back(grid):
    tokens = text.reply(grid)
    np.testing.assert_array_equal(text.parse(tokens), grid)
    assert len(tokens) <= text.REPLY and set(tokens) <= set(text.REPLIES)
    assert text.parse([*tokens, text.END]) is None and text.parse(tokens[:-1]) is None


def test_training_texts_are_the_golden_ones(golden):
    for one in golden("nvarc_tokens")["training_text"]:
        tokens, learnt = text.training_text(pairs_of(one["pairs"]))
        assert tokens.tolist() == one["ids"] and np.flatnonzero(learnt).tolist() == one["loss_positions"]


def test_a_text_that_is_too_long_loses_leading_pairs():
    tokens, learnt = text.training_text(TRAIN)
    sizes = [len(text.query(pair.input)) + len(text.reply(pair.output)) for pair in TRAIN]
    for limit in range(sizes[2], len(tokens) + 1):
        kept = (
            next(size for size in itertools.accumulate(reversed(sizes)) if True) if limit < sizes[1] + sizes[2] else 0
        )
        kept = max(size for size in itertools.accumulate(reversed(sizes)) if size <= limit)
        short, short_learnt = text.training_text(TRAIN, limit)
        np.testing.assert_array_equal(short, tokens[-kept:])
        np.testing.assert_array_equal(short_learnt, learnt[-kept:])
    with pytest.raises(InputError, match=f"{sizes[2]} tokens, more than the {sizes[2] - 1}"):
        text.training_text(TRAIN, sizes[2] - 1)


def test_a_prompt_that_is_too_long_loses_leading_pairs():
    question = grid_of(["89"])
    whole = text.prompt(TRAIN, question, PLAIN)
    asked = text.query(question)
    np.testing.assert_array_equal(whole, [*text.training_text(TRAIN)[0], *asked])
    last = [*text.query(TRAIN[2].input), *text.reply(TRAIN[2].output)]
    assert text.prompt(TRAIN, question, PLAIN, len(last + asked)).tolist() == last + asked
    assert text.prompt(TRAIN, question, PLAIN, len(last + asked) - 1).tolist() == asked
    with pytest.raises(InputError, match="9 tokens, more than the 8"):
        text.prompt(TRAIN, question, PLAIN, len(asked) - 1)
    view = text.View(1, np.roll(np.arange(10), 1), np.array([2, 0, 1]))
    shown = [Pair(view.apply(TRAIN[n].input), view.apply(TRAIN[n].output)) for n in (2, 0, 1)]
    wanted = text.prompt(shown, view.apply(question), PLAIN)
    np.testing.assert_array_equal(text.prompt(TRAIN, question, view), wanted)


def test_a_text_whose_last_pair_is_too_long_is_left_out():
    large = Pair(*np.zeros((2, 9, 9), np.uint8))
    found = text.samples([*TRAIN, large], generator(0, "a", "train"), 16, 100)
    assert 64 < len(found) < 128 and max(len(tokens) for tokens, _ in found) <= 100
    with pytest.raises(InputError, match="tokens, more than the 100 that are allowed"):
        text.samples([large], generator(0, "a", "train"), 16, 100)


def test_a_task_has_128_texts_which_depend_on_seed_and_task_alone():
    drawn = {
        key: [tokens.tolist() for tokens, _ in text.samples(TRAIN, generator(*key))]
        for key in ((0, "a", "train"), (1, "a", "train"), (0, "b", "train"), (0, "a", "search"))
    }
    assert len({json.dumps(texts) for texts in drawn.values()}) == 4
    texts = drawn[0, "a", "train"]
    assert len(texts) == 128 and len(set(map(tuple, texts))) > 100
    assert [tokens.tolist() for tokens, _ in text.samples(TRAIN, generator(0, "a", "train"))] == texts
    rows = [tokens[4] != text.NEWLINE for tokens, _ in text.samples(TRAIN[:1], generator(0, "a", "train"))]
    assert sum(rows) == 64 and 0 < sum(rows[:64]) < 64  # 1 x 2 stands upright in half of the views, and they are mixed


def test_selection_is_the_golden_one(golden):
    for table in golden("nvarc_selection")["tables"]:
        candidates = [
            select.Candidate(grid_of(one["grid"]), [find["nll"] for find in one["finds"]], one["view_nll"])
            for one in table["candidates"]
        ]
        for selector, wanted in table["expected"].items():
            ranked = select.rank(candidates, selector)
            assert [candidates.index(one) for _, one in ranked] == wanted["ranking"]
            scores = [score for score, _ in sorted(ranked, key=lambda scored: candidates.index(scored[1]))]
            np.testing.assert_allclose(scores, wanted["scores"], atol=1e-6)


def test_a_median_forgives_one_bad_view(golden):
    (table,) = (x for x in golden("nvarc_selection")["tables"] if x["name"] == "one_view_very_bad")
    first = table["candidates"][0]
    one = select.Candidate(grid_of(first["grid"]), [x["nll"] for x in first["finds"]], first["view_nll"])
    ((score, _),) = select.rank([one], "count_minus_mean_nll", "median")
    assert score == pytest.approx(3 - 0.1)
    ((score, _),) = select.rank([one], "probability_product_3", "median")
    assert score == pytest.approx(3 * 3 - 0.4 + 8 * (3 - 0.1))


def test_ties_go_to_more_finds_then_lower_cost_then_the_smaller_grid():
    one, two = grid_of(["1"]), grid_of(["2"])
    few = select.Candidate(two, [0.1], [0.5] * 2)
    many = select.Candidate(one, [0.1, 0.1], [1.5] * 2)  # the same score
    assert [x for _, x in select.rank([few, many])] == [many, few]
    cheap = select.Candidate(two, [0.5], [0.2, 0.2])  # the product's sums: 2.5 + 5.6 and 2.1 + 6
    dear = select.Candidate(one, [0.9], [0.0, 0.0])
    assert [x for _, x in select.rank([cheap, dear], "probability_product_3")] == [dear, cheap]
    # The same numbers in another order are the same sum.
    sums, orders = [0.1, 0.2, 0.3, 0.7, 1.9], ([0, 1, 2, 3, 4], [4, 2, 0, 3, 1], [3, 4, 1, 2, 0])
    grids = two, grid_of(["11"]), one
    tied = [select.Candidate(x, [0.3], [sums[n] for n in order]) for x, order in zip(grids, orders, strict=True)]
    assert [x for _, x in select.rank(tied)] == [tied[2], tied[0], tied[1]]


def test_finds_are_counted_by_view_and_grid():
    turned = text.View(1, np.roll(np.arange(10), 3), np.arange(0))
    answer, wrong = grid_of(["12", "34"]), grid_of(["00"])

    def spelt(view, *replies):
        return view, [Completion(tuple(tokens), nll) for tokens, nll in replies]

    plain = text.reply(answer)
    odd = [text.NEWLINE, *plain]  # the same grid in other tokens
    other = text.reply(turned.apply(answer))
    found = select.finds(
        [
            spelt(PLAIN, (plain, 0.5), (odd, 1.0), (text.reply(wrong), 1.4), ([1, 10, 2, 3, 15], 1.5)),
            spelt(turned, (other, 0.7)),
        ],
        others=[wrong, grid_of(["7"])],
    )
    assert [one.grid.tolist() for one in found] == [answer.tolist(), wrong.tolist(), [[7]]]
    both = -math.log(math.exp(-0.5) + math.exp(-1.0))
    np.testing.assert_allclose(found[0].finds, [both, 0.7])
    assert found[1].finds == pytest.approx([1.4]) and list(found[2].finds) == []
