"""Cutting a decoder to 16 tokens: which rows, which logits, and the folder that comes of it."""

import jax
import numpy as np
import pytest

from trm_jax.errors import InputError
from trm_jax.language import config, tokenizer, weights
from trm_jax.models import decoder
from trm_jax.models.lora import Lora
from trm_jax.models.lora import specs as lora_specs
from trm_jax.models.params import init
from trm_jax.solvers.marc.prompts import Format
from trm_jax.solvers.nvarc import text, vocabulary

forward = jax.jit(decoder.forward, static_argnums=1)


@pytest.fixture(scope="module")
def words(golden_folder):
    return tokenizer.load(golden_folder / "llm" / "tokenizer_chatml")


def model(words, tied: bool):
    cfg = decoder.Config(words.size, 16, 1, 2, 1, 8, 32, rope_theta=1e4, tied=tied, context=64)
    return cfg, jax.jit(decoder.init, static_argnums=1)(jax.random.key(0), cfg)


@pytest.mark.parametrize("tied", [True, False])
def test_a_cut_decoder_says_of_its_tokens_what_the_whole_one_says(words, tied):
    cfg, params = model(words, tied)
    made_of = vocabulary.sources(words)
    for token, said in enumerate(vocabulary.TEXTS):
        stands_for = words.named["pad_token"] if token == text.PAD else said
        assert words.decode(made_of[token], special=True) == stands_for
    single = [token for token, parts in enumerate(made_of) if len(parts) == 1]
    assert set(range(11)) | {text.PAD, text.START, text.END} <= set(single)
    small, cut = vocabulary.cut(cfg, params, words)
    assert small.vocab_size == 16 and small.tied == tied and cut["layers"] is params["layers"]
    rng = np.random.default_rng(0)
    tokens = rng.choice(single, (2, 12))
    before = forward(params, cfg, np.array([[made_of[t][0] for t in row] for row in tokens]))
    after = forward(cut, small, tokens)
    np.testing.assert_allclose(after[..., single], before[..., [made_of[t][0] for t in single]], atol=1e-6)
    for token, parts in enumerate(made_of):
        np.testing.assert_allclose(cut["embed"][token], np.mean(params["embed"][np.array(parts)], 0), atol=1e-7)
    assert vocabulary.cut(small, cut, None) == (small, cut)


def test_the_folder_is_a_model(words, tmp_path):
    small, cut = vocabulary.cut(*model(words, False), words)
    vocabulary.write(tmp_path, small, cut)
    assert config.read(tmp_path) == small and config.ids(tmp_path).eos == (text.END,)
    again = weights.load(tmp_path, small)
    jax.tree.map(np.testing.assert_array_equal, again, cut)
    own = tokenizer.load(tmp_path)
    tokens = [*text.query(np.array([[1, 2], [3, 4]], np.uint8)), *text.reply(np.array([[0]], np.uint8))]
    said = own.decode(tokens, special=True)
    assert said == "<|im_start|>user\n12\n34<|im_end|><|im_start|>assistant\n0<|im_end|>"
    assert own.encode(said) == tokens


def test_digits_that_are_not_single_tokens_are_refused(words):
    import tokenizers

    pairs = tokenizers.Tokenizer(tokenizers.models.BPE({"x": 0, "\n": 1}, [], byte_fallback=False))
    with pytest.raises(InputError, match="the tokenizer has no token for 0, 1, 2, 3, 4, 5, 6, 7, 8, 9; take another"):
        vocabulary.sources(tokenizer.Tokenizer(pairs, {"eos_token": "x"}))
    digits = tokenizers.Tokenizer(tokenizers.models.BPE({digit: int(digit) for digit in "0123456789"}, []))
    with pytest.raises(InputError, match=r"0 tokens of '\\n'; digits and the end of a line must be one each"):
        vocabulary.sources(tokenizer.Tokenizer(digits, {"eos_token": "0"}))
    parts = {"<unk>": 0, "x": 1, "\n": 2, **{digit: 3 + int(digit) for digit in "012345679"}}
    unknown = tokenizer.Tokenizer(tokenizers.Tokenizer(tokenizers.models.WordLevel(parts, "<unk>")), {"eos_token": "x"})
    for use in (vocabulary.sources, Format):
        with pytest.raises(InputError, match="the tokenizer has no token for 8; take another"):
            use(unknown)


def test_an_adapter_of_the_rows_that_go_is_refused(words):
    cfg, params = model(words, False)
    lora = Lora(2, 4, ("embed",))
    adapter = init(lora_specs(decoder.specs(cfg), lora), jax.random.key(0))
    with pytest.raises(InputError, match="merge it into the model first"):
        vocabulary.cut(cfg, {**params, "lora": (adapter, lora.scale)}, words)


def test_a_tokenizer_without_an_end_is_refused():
    import tokenizers

    plain = tokenizers.Tokenizer(
        tokenizers.models.WordLevel({said: i for i, said in enumerate(vocabulary.TEXTS[:13])}, "0")
    )
    with pytest.raises(InputError, match=r"has no <\|endoftext\|> and names no eos_token"):
        vocabulary.sources(tokenizer.Tokenizer(plain, {}))
