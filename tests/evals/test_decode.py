"""Decoding against the author's code, alone and in batches, against the same answers read at once, and drawn."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_arc_transformer import config
from trm_jax.evals.decode import CHUNK, Decoder, collate, common
from trm_jax.models import arc_transformer
from trm_jax.models import decoder as language_model
from trm_jax.models.convert.arc_transformer import import_state_dict
from trm_jax.tasks.pairs import tokens as tok


@pytest.fixture(scope="module")
def golden(golden_folder):
    return np.load(golden_folder / "arc_transformer" / "decoding.npz")


@pytest.fixture(scope="module")
def model(golden):
    weights = import_state_dict({name[8:]: golden[name] for name in golden.files if name.startswith("weights/")})
    return config(json.loads(str(golden["config"])), 2048), {"weights": weights}


def prompts_of(golden, numbers) -> list[dict]:
    found = []
    for n in numbers:
        tokens = golden[f"prompt{n}/tokens"].astype(np.int32)
        found.append(
            {
                "inputs": tokens,
                "places": places_of(tokens),
                "puzzle_ids": np.full(len(tokens), golden[f"prompt{n}/task_id"], np.int32),
                "dihedrals": np.full(len(tokens), golden[f"prompt{n}/dihedral_id"], np.int32),
            }
        )
    return found


def written(decoder, params, prompts, most, on_batch=None):
    """All answers, one after another."""
    sizes = np.array([len(prompt["inputs"]) for prompt in prompts])
    return itertools.chain.from_iterable(decoder(params, prompts.__getitem__, sizes, int(most), on_batch))


def places_of(tokens: np.ndarray) -> np.ndarray:
    """Of a prompt: start, rows, separator."""
    lines = np.flatnonzero(tokens == tok.NEXT_LINE)
    width = lines[0] - 1
    grid = tokens[1:-1].reshape(len(lines), width + 1)[:, :width]
    return tok.encode(grid.astype(np.uint8), np.zeros((1, 1), np.uint8))[1][: len(tokens)]


@pytest.mark.parametrize("rows", [3, *(pytest.param(rows, marks=pytest.mark.slow) for rows in (1, 8))])
def test_answers_are_the_authors(golden, model, rows):
    """Of seven prompts, some unseen, one that never ends; log-probabilities to 2e-5, over 931 tokens."""
    cfg, params = model
    decoder = Decoder(arc_transformer, cfg, rows, tok.END)
    numbers = range(6 if rows == 1 else 7)
    found = {one.prompt: one for one in written(decoder, params, prompts_of(golden, numbers), golden["max_new_tokens"])}
    assert sorted(found) == list(numbers)
    for n, one in found.items():
        np.testing.assert_array_equal(one.tokens, golden[f"prompt{n}/generated"])
        np.testing.assert_allclose(one.log_probs, golden[f"prompt{n}/log_probs"], atol=2e-5)
        assert one.ended == bool(golden[f"prompt{n}/ended"])
        wanted = json.loads(str(golden[f"prompt{n}/grid"]))
        grid = tok.parse(one.tokens)
        if grid is not None:
            assert grid.tolist() == wanted


def test_writing_is_what_reading_says(golden, model):
    """At each token of an answer, read at once without a cache, the likeliest token is the one that was written."""
    cfg, params = model
    decoder = Decoder(arc_transformer, cfg, 2, tok.END)
    prompts = prompts_of(golden, [1, 4])
    for one in written(decoder, params, prompts, CHUNK * 2):
        prompt = prompts[one.prompt]
        answer = tok.parse(one.tokens)
        size = len(prompt["inputs"])
        grid = prompt["inputs"][1:-1].reshape(-1, np.flatnonzero(prompt["inputs"] == tok.NEXT_LINE)[0])[:, :-1]
        tokens, places = tok.encode(grid.astype(np.uint8), answer)
        batch = {"inputs": tokens[None], "places": places[None], "segments": np.zeros_like(tokens)[None]}
        batch |= {name: np.full_like(tokens, prompt[name][0])[None] for name in ("puzzle_ids", "dihedrals")}
        read = np.asarray(arc_transformer.think(params, cfg, batch)[0])[0, 0]
        np.testing.assert_array_equal(read[size - 1 : size - 1 + len(one.tokens)], one.tokens)


def test_drafts_right_half_right_wrong_and_none(golden, model):
    """Give what is written without; a right one is read at once, of a wrong one the first part."""
    cfg, params = model
    numbers, most = [0, 1, 2, 3], int(golden["max_new_tokens"])
    prompts = prompts_of(golden, numbers)
    plain = {one.prompt: one for one in written(Decoder(arc_transformer, cfg, 3, tok.END), params, prompts, most)}
    written_on = []

    class Counting(Decoder):
        def _batch(self, params, begun, *rest):
            written_on.extend((one.number, len(one.tokens)) for one in begun)
            return super()._batch(params, begun, *rest)

    def drafted(number: int):
        """0: right; 1: wrong from some cell on; 2: another shape; 3: none."""
        if number == 3:
            return None
        prompt, answer = prompts[number], tok.parse(plain[number].tokens)
        grid = prompt["inputs"][1:-1].reshape(-1, np.flatnonzero(prompt["inputs"] == tok.NEXT_LINE)[0])[:, :-1]
        if number == 1:
            answer = answer.copy()
            answer[-1, -1] = (answer[-1, -1] + 1) % 10
        tokens, places = tok.encode(grid.astype(np.uint8), answer.T[:1] if number == 2 else answer)
        same = {name: np.full(len(tokens), prompt[name][0], np.int32) for name in ("puzzle_ids", "dihedrals")}
        return {"inputs": tokens, "places": places, **same}

    sizes = np.array([len(prompt["inputs"]) for prompt in prompts])
    batches = Counting(arc_transformer, cfg, 3, tok.END)(params, prompts.__getitem__, sizes, most, None, drafted)
    found = {one.prompt: one for one in itertools.chain.from_iterable(batches)}
    assert sorted(found) == numbers
    for number, one in found.items():
        np.testing.assert_array_equal(one.tokens, plain[number].tokens)
        np.testing.assert_allclose(one.log_probs, plain[number].log_probs, atol=2e-5)
        assert one.ended == plain[number].ended
    begun = dict(written_on)
    assert 0 not in begun and begun[3] == 0
    assert begun[1] == len(plain[1].tokens) - 3, "all but the last cell, its line and the end"


def test_places_of_whatever_is_written(golden_folder):
    """Rows and columns stop at the edge; a separator begins anew; start and end stand at the origin."""
    known = np.load(golden_folder / "arc_transformer" / "tokens.npz")
    cursor = jnp.zeros((1, 2), jnp.int32)
    step = jax.jit(arc_transformer._place_of)
    for token, wanted in zip(known["generated/tokens"], known["generated/positions"], strict=True):
        place, cursor = step(cursor, jnp.asarray([token], jnp.int32))
        np.testing.assert_array_equal(place[0], wanted)


def test_grids_of_whatever_is_written(golden_folder):
    known = json.loads(str(np.load(golden_folder / "arc_transformer" / "tokens.npz")["parse"]))
    for case in known.values():
        grid = tok.parse(np.array(case["generated"]))
        assert (None if grid is None else grid.tolist()) == (case["grid"] if case["rectangular"] else None)
    assert tok.parse(np.array([1] * 31)) is None


def test_an_evaluation_that_is_told_to_stop(golden, model):
    cfg, params = model
    decoder = Decoder(arc_transformer, cfg, 2, tok.END)
    asked = []

    def on_batch(done, total):
        asked.append((done, total))
        return done == 2

    found = list(written(decoder, params, prompts_of(golden, range(6)), CHUNK, on_batch))
    assert asked == [(0, 6), (2, 6)] and len(found) == 2


@pytest.fixture(scope="module")
def tiny():
    """A language model of random weights, so loud that it prefers some of its 20 tokens, and six prompts."""
    cfg = language_model.Config(
        vocab_size=20, hidden_size=16, layers=2, heads=2, kv_heads=1, head_dim=8, inner_size=24, rope_theta=1e4
    )
    params = jax.jit(language_model.init, static_argnums=1)(jax.random.key(3), cfg)
    params = {**params, "head": params["head"] * 40}
    rng = np.random.default_rng(0)
    return cfg, params, [{"inputs": rng.integers(0, 20, n).astype(np.int32)} for n in (3, 9, 4, 4, 70, 12)]


read = jax.jit(language_model.read, static_argnums=1)
MOST = 40
SEEDS = np.array([7, 1, 2**32 - 1, 40, 41, 0], np.uint32)


def all_written(tiny, order=range(6), rows=6, ends=(), most=MOST, stop=None, asked=None, **how) -> dict:
    """The answers by their prompts' numbers; `order`: in which the prompts are given."""
    cfg, params, prompts = tiny
    order = list(order)
    sizes = np.array([len(prompts[n]["inputs"]) for n in order])
    stopped = stop and (lambda n, tokens: stop(order[n], tokens))
    asked = {"stop": stopped, "seeds": SEEDS[order], **(asked or {})}
    decoder = Decoder(language_model, cfg, rows, ends, **how)
    batches = decoder(params, lambda n: prompts[order[n]], sizes, most, **asked)
    return {order[one.prompt]: one for batch in batches for one in batch}


@pytest.fixture(scope="module")
def likeliest(tiny):
    return all_written(tiny)


@pytest.fixture(scope="module")
def drawn(tiny):
    return all_written(tiny, temperature=0.8)


def assert_same(found: dict, wanted: dict) -> None:
    """Log-probabilities to 1e-5: batches of other shapes add up in another order."""
    assert found.keys() == wanted.keys()
    for n, one in found.items():
        np.testing.assert_array_equal(one.tokens, wanted[n].tokens)
        np.testing.assert_allclose(one.log_probs, wanted[n].log_probs, atol=1e-5)
        assert one.ended == wanted[n].ended


@pytest.mark.parametrize("rows, chunk, temperature", [(1, 96, 0.8), (3, 7, 0.0)])
def test_batch_chunk_and_order_change_nothing(tiny, likeliest, drawn, rows, chunk, temperature):
    order = np.random.default_rng(rows).permutation(6).tolist()
    found = all_written(tiny, order, rows, chunk=chunk, temperature=temperature)
    assert_same(found, drawn if temperature else likeliest)


def test_what_is_drawn_is_not_the_likeliest(likeliest, drawn):
    assert all((likeliest[n].tokens != drawn[n].tokens).any() for n in range(6))


def test_log_probabilities_are_of_raw_logits(tiny, drawn):
    """Whatever the temperature: those that reading the whole gives."""
    cfg, params, prompts = tiny
    whole = [{"inputs": np.concatenate([prompts[n]["inputs"], drawn[n].tokens])} for n in range(6)]
    log_p = jax.nn.log_softmax(read(params, cfg, collate(whole, 128)))
    for n, one in drawn.items():
        np.testing.assert_allclose(one.log_probs, log_p[n, -1 - MOST : -1][np.arange(MOST), one.tokens], atol=1e-5)


def test_tokens_are_drawn_by_their_probability(tiny):
    """A chi-squared test on the first token of 500 answers at temperature 2; at 1 it must fail."""
    from scipy.stats import chisquare

    cfg, params, prompts = tiny
    n = 500
    decoder = Decoder(language_model, cfg, n, (), chunk=1, temperature=2.0)
    (batch,) = decoder(params, lambda _: prompts[0], np.full(n, 3), 1)
    counts = np.bincount([one.tokens[0] for one in batch], minlength=20)
    logits = np.asarray(read(params, cfg, collate(prompts[:1], 3))[0, -1], np.float64)

    def p_value(temperature: float) -> float:
        shares = np.exp(logits / temperature) / np.exp(logits / temperature).sum()
        return chisquare(counts, n * shares).pvalue

    assert p_value(2.0) > 0.01
    assert p_value(1.0) < 1e-6


def test_any_of_several_tokens_ends_an_answer(tiny, likeliest):
    """The answer is what it was, up to the first of them and with it."""
    ends = tuple(int(likeliest[n].tokens[5 + n]) for n in (0, 1))
    found = all_written(tiny, ends=ends, chunk=16)
    assert any(one.ended for one in found.values())
    for n, one in found.items():
        at = np.flatnonzero(np.isin(likeliest[n].tokens, ends))
        count = at[0] + 1 if len(at) else MOST
        np.testing.assert_array_equal(one.tokens, likeliest[n].tokens[:count])
        assert one.ended == bool(len(at))


def test_an_answer_that_is_told_to_stop(tiny, likeliest):
    """It is asked after every chunk, with the tokens so far; what the others write stays the same."""
    asked = []

    def stop(n, tokens):
        asked.append((n, len(tokens)))
        return n == 2 or len(tokens) >= 32

    found = all_written(tiny, stop=stop, chunk=16)
    assert {n: len(one.tokens) for n, one in found.items()} == {n: 16 if n == 2 else 32 for n in range(6)}
    assert sorted(asked) == sorted([(n, 16) for n in range(6)] + [(n, 32) for n in range(6) if n != 2])
    for n, one in found.items():
        np.testing.assert_array_equal(one.tokens, likeliest[n].tokens[: len(one.tokens)])


def test_what_all_prompts_begin_with_is_read_once(tiny, likeliest):
    """Then each goes on with its own, also behind a text that is not padded to a whole chunk; nothing else changes."""
    cfg, params, prompts = tiny
    head = np.arange(75, dtype=np.int32) % 20
    begun = cfg, params, [{"inputs": np.concatenate([head, one["inputs"]])} for one in prompts]
    alone = all_written(begun, rows=3)
    assert common([one["inputs"] for one in begun[2]]) == 75
    assert_same(all_written(begun, rows=4, asked={"shared": 70}), alone)
    assert any((alone[n].tokens != likeliest[n].tokens).any() for n in range(6))  # what is shared is read


def test_how_much_prompts_share():
    """No prompt is shared to its end, and little is not shared at all."""
    text = list(range(90))
    assert common([text + [1], text + [2, 3]]) == 90
    assert common([text + [1], np.array(text)]) == 89
    assert common([text[:50] + [1], text]) == 0
    assert common([text]) == 89


def test_what_is_looked_at_behind_the_prompts(tiny):
    """Of each prompt: the logits of its first token, whatever is written then; a batch that is written is left out."""
    cfg, params, prompts = tiny
    found = all_written(tiny, rows=3, look=lambda logits: logits[:, :3], most=2, asked={"written": [0, 2, 3]})
    assert sorted(found) == [1, 4, 5]  # the three shortest would have been the first batch
    for n, one in found.items():
        logits = language_model.forward(params, cfg, prompts[n]["inputs"][None])[0, -1, :3]
        np.testing.assert_allclose(one.seen, logits, atol=1e-4)
