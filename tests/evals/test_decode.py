"""Decoding against the author's code, alone and in batches, and against the same answers read at once."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_arc_transformer import config
from trm_jax.evals.decode import CHUNK, Decoder
from trm_jax.models import arc_transformer
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
