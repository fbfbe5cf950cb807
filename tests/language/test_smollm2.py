"""A real model, SmolLM2-135M-Instruct, against transformers' numbers; skipped where its package is not installed."""

import json

import jax
import numpy as np
import pytest

from trm_jax.language import generate, model, weights
from trm_jax.language.metrics import exact_match, f1
from trm_jax.models import decoder, quant
from trm_jax.models.params import count

pytest.importorskip("gguf")
pytest.importorskip("tokenizers")
TOLERANCE = 2e-4  # of logits, by the golden README: float64 differs by 2e-5


@pytest.fixture(scope="module")
def golden(golden_folder) -> dict:
    return json.loads((golden_folder / "llm" / "smollm2.json").read_text())


@pytest.fixture(scope="module")
def loaded(smollm2):
    """(the model, what was said); kernels stay the file's blocks."""
    said = []
    return model.load(smollm2, say=said.append), said


def test_its_tokenizer(loaded, golden):
    (found, said), tokenizer = loaded, loaded[0].words
    assert found.eos == (tokenizer.special["<|im_end|>"],)
    assert len(said) == 1 and "lacks 21 of 256 bytes" in said[0]
    for case in golden["tokenizer"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert tokenizer.decode(case["ids"], special=True) == case["decoded"]
    for case in golden["items"] + golden["nll"]:
        assert tokenizer.encode(case["text"]) == case["ids"]
    for case in golden["items"]:
        assert tokenizer.decode(case["greedy24"], special=True) == case["greedy24_text"]


def test_its_weights(loaded, golden):
    """Shapes, sums and samples of twenty tensors, kernels out of blocks of four bits."""
    cfg, params = loaded[0].cfg, loaded[0].params
    assert count(decoder.specs(cfg)) == golden["parameters"]
    assert sum(leaf is quant.Q4_1 for leaf in map(type, params["layers"].values())) == len(quant.LINEARS)
    arrays = {"embed": params["embed"], "norm": params["norm"], **params["layers"]}
    places = {
        name: (array, layer)
        for ours, array in arrays.items()
        for layer, name in enumerate(weights.names_of(ours, cfg.layers))
    }
    for name, held in golden["weights"].items():
        array, layer = places[name]
        if ".layers." in name:
            array = jax.tree.map(lambda x, layer=layer: x[layer], array)
        array = np.asarray(array.rows() if quant.is_quantised(array) else array)
        assert list(array.shape) == held["shape"]
        np.testing.assert_array_equal(array.ravel()[held["flat_index"]], np.float32(held["values"]))
        for found, expected in ((array, held["sum"]), (np.abs(array), held["abs_sum"])):
            np.testing.assert_allclose(np.sum(found, dtype=np.float64), expected, rtol=1e-12)


def test_its_numbers(loaded, golden):
    """Eight prompts with the 24 tokens that follow and two texts, in one batch: logits, hidden states, likelihoods."""
    cfg, params = loaded[0].cfg, loaded[0].params
    items, texts = golden["items"], golden["nll"]
    rows = [[*item["ids"], *item["greedy24"]] for item in items] + [text["ids"] for text in texts]
    size = max(map(len, rows))
    tokens = np.array([row + [0] * (size - len(row)) for row in rows])
    segments = np.array([[0] * len(row) + [-1] * (size - len(row)) for row in rows])

    @jax.jit
    def read(params):
        logits, hidden = decoder.forward(params, cfg, tokens, segments, hidden=True)
        return logits, jax.nn.log_softmax(logits), hidden[-1]

    logits, log_p, hidden = map(np.asarray, read(params))
    for row, item in enumerate(items):
        last = len(item["ids"]) - 1
        here, state = logits[row, last], hidden[row, last]
        assert np.argsort(-here)[:10].tolist() == item["top10_ids"]
        np.testing.assert_allclose(here[item["top10_ids"]], item["top10_logits"], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(jax.nn.logsumexp(here), item["logsumexp"], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(state[:16], item["hidden_last_first16"], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(np.linalg.norm(state), item["hidden_last_norm"], rtol=0, atol=TOLERANCE)
        behind = slice(last, last + 24)
        assert logits[row, behind].argmax(-1).tolist() == item["greedy24"]
        said = log_p[row, np.arange(last, last + 24), item["greedy24"]]
        np.testing.assert_allclose(said, item["greedy24_logprobs"], rtol=0, atol=TOLERANCE)
    for row, text in enumerate(texts, len(items)):
        ids = text["ids"]
        nll = -log_p[row, np.arange(len(ids) - 1), ids[1:]]
        assert len(nll) == text["counted"]
        np.testing.assert_allclose(nll[:5], text["first5"], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(nll.mean(), text["mean_nll"], rtol=0, atol=TOLERANCE)
        np.testing.assert_allclose(nll.sum(), text["sum_nll"], rtol=0, atol=TOLERANCE * len(nll))


@pytest.mark.slow
def test_its_answers(loaded, golden_folder):
    """The forty built-in questions behind five shots: what transformers writes, token by token."""
    golden = json.loads((golden_folder / "llm" / "smollm2_qa.json").read_text())
    questions, shots = generate.read_questions(generate.QUESTIONS), generate.read_questions(generate.SHOTS)
    settings = generate.Settings(max_new_tokens=golden["max_new_tokens"], stops=tuple(golden["stops"]))
    prompts = [generate.prompt(one, shots, settings.brief) for one in questions]
    assert golden["brief"].rstrip("\n") == settings.brief and golden["prompt_example"] in prompts
    found = {
        one["id"]: one for batch in generate.answers(loaded[0], questions, shots, settings, rows=8) for one in batch
    }
    for question, text, item in zip(questions, prompts, golden["items"], strict=True):
        one = found[item["id"]]
        assert question.id == item["id"] and len(loaded[0].words.encode(text)) == item["n_prompt_tokens"]
        assert (one["response"], one["tokens"]) == (item["response"], item["token_ids"])
        np.testing.assert_allclose(one["log_probs"], item["token_logprobs"], rtol=0, atol=TOLERANCE)
        assert one["nll"] == pytest.approx(item["nll"], abs=TOLERANCE * len(one["tokens"]))
        assert item["stop_reason"] == "stop" and one["stop"] in ("blank line", *settings.stops[1:])
        assert exact_match(one["response"], question.answers) == item["em"]
        assert f1(one["response"], question.answers) == pytest.approx(item["f1"])
    assert len(found) == len(questions)
