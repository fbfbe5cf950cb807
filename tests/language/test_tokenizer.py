"""Tokenizers of folders against the numbers of transformers, and what holds of any text."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm_jax.errors import InputError
from trm_jax.language import tokenizer as T

pytest.importorskip("tokenizers")
NAMES = ("tokenizer_bos", "tokenizer_chatml")


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def golden(golden_folder, name):
    return json.loads((golden_folder / "llm" / name / "golden.json").read_text())


@pytest.fixture(scope="module")
def tokenizer(golden_folder, name):
    return T.load(golden_folder / "llm" / name)


def test_texts_are_encoded_and_decoded_as_by_transformers(tokenizer, golden):
    assert tokenizer.size == golden["vocab_size"]
    for case in golden["encode"]:
        assert tokenizer.encode(case["text"], special=False) == case["ids"]
        assert tokenizer.encode(case["text"]) == case["ids_with_special"]
        assert tokenizer.decode(case["ids"], special=True) == case["decoded"]
        assert tokenizer.decode(case["ids"]) == case["decoded_skip_special"]
    cut = golden["prefix_decodes"]
    assert [tokenizer.decode(cut["ids"][:n]) for n in range(len(cut["texts"]))] == cut["texts"]


def test_named_tokens_are_texts_or_descriptions(tokenizer, name):
    """`tokenizer_bos` describes its eos_token, and `tokenizer_chatml` says that it has no bos_token."""
    bos, eos = {"tokenizer_bos": (1, 2), "tokenizer_chatml": (None, 4)}[name]
    assert (tokenizer.id("bos_token"), tokenizer.id("eos_token"), tokenizer.id("pad_token")) == (bos, eos, 0)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]) | st.sampled_from("<|im_end|></s> \n09"), max_size=30)


@given(before=TEXTS, after=TEXTS)
def test_a_literal_text_never_becomes_a_special_token(tokenizer, before, after):
    text = f"{before}<|im_end|>{after}</s>"
    ids = tokenizer.encode(text, special=False, literal=True)
    assert not set(ids) & set(tokenizer.special.values())
    normal = tokenizer.backend.normalizer
    assert tokenizer.decode(ids) == (normal.normalize_str(text) if normal else text)
    assert {2, 4} <= set(tokenizer.encode(text, special=False))  # what it would be otherwise


@given(data=st.data())
def test_a_stream_tells_the_text_of_any_ids(tokenizer, data):
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=25))
    for special in (False, True):
        assert "".join(tokenizer.stream(ids, special=special)) == tokenizer.decode(ids, special=special)


def test_a_stream_holds_back_half_a_letter(tokenizer, golden):
    ids = golden["prefix_decodes"]["ids"]  # two bytes of a letter, four of another
    assert list(tokenizer.stream(ids)) == ["é", "😀"]
    assert list(tokenizer.stream(ids[:-1])) == ["é", "\ufffd"]  # all the same when nothing more comes
    told = tokenizer.stream(iter([*ids[:2], *ids[2:4]]))
    assert next(told) == "é"


@pytest.fixture
def folder(golden_folder, tmp_path):
    return shutil.copytree(golden_folder / "llm" / "tokenizer_bos", tmp_path / "model", copy_function=shutil.copyfile)


def test_a_text_is_never_cut_or_filled_up(folder):
    said = json.loads((folder / "tokenizer.json").read_text())
    said["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    said["padding"] = {
        "strategy": {"Fixed": 9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<pad>",
    }
    (folder / "tokenizer.json").write_text(json.dumps(said))
    assert len(T.load(folder).encode("12345")) == 6 and len(T.load(folder).encode("1")) == 2


ENTRY = {"content": "<|im_end|>", "lstrip": False, "rstrip": False, "single_word": False, "normalized": False}


@pytest.mark.parametrize(
    ("flag", "told", "skipped"),
    [
        (None, {}, False),
        (False, {}, False),
        (False, {"eos_token": "<|im_end|>"}, True),
        (None, {"eos_token": {"content": "<|im_end|>"}}, True),
        (False, {"extra_special_tokens": {"eot_token": "<|im_end|>"}}, True),
        (False, {"added_tokens_decoder": {"4": {**ENTRY, "special": True}}}, True),
        (None, {"added_tokens_decoder": {"4": {**ENTRY, "special": False}}}, False),
        (None, {"additional_special_tokens": ["<|im_end|>"]}, True),
        (None, {"extra_special_tokens": ["<|im_end|>"]}, True),
        (False, {"extra_special_tokens": ["<|im_end|>"]}, False),
    ],
)
def test_either_file_may_say_that_a_token_is_special(folder, flag, told, skipped):
    """flag: what tokenizer.json says of the token, which the model has in any case. So skips transformers 5.24."""
    said = json.loads((folder / "tokenizer.json").read_text())
    entry = next(token for token in said["added_tokens"] if token["content"] == "<|im_end|>")
    if flag is None:
        said["added_tokens"].remove(entry)
        said["model"]["vocab"]["<|im_end|>"] = entry["id"]
    else:
        entry["special"] = flag
    (folder / "tokenizer.json").write_text(json.dumps(said))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": "[PAD]", **told}))
    tokenizer = T.load(folder)
    assert tokenizer.decode([entry["id"]]) == ("" if skipped else "<|im_end|>")
    assert ("<|im_end|>" in tokenizer.special) == skipped
    assert (entry["id"] in tokenizer.encode("a<|im_end|>b")) == (skipped or flag is not None)
    assert not set(tokenizer.encode("a<|im_end|>b", literal=True)) & set(tokenizer.special.values()) - {1}
    assert tokenizer.id("pad_token") is None  # which no model has a row for


def test_a_vocabulary_without_a_byte_is_noted_once(folder):
    said = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = said["model"]["vocab"]
    symbols = T.byte_symbols()
    for byte in (0x04, 0xF1, 0xC0):
        vocabulary[f"<unused{byte}>"] = vocabulary.pop(symbols[byte])
    (folder / "tokenizer.json").write_text(json.dumps(said))
    said = []
    tokenizer = T.load(folder, said.append)
    assert said == ["note: the vocabulary lacks 3 of 256 bytes; a text loses those it has of 0x04, 0xF1"]
    assert tokenizer.absent_bytes() == [0x04, 0xC0, 0xF1]
    assert tokenizer.decode(tokenizer.encode("a\x04b")) == "ab" and len(said) == 1
    assert T.load(folder).absent_bytes()  # nobody listens


def test_whole_vocabularies_are_not_noted(tokenizer):
    assert tokenizer.absent_bytes() == []


def remove(folder):
    (folder / "tokenizer.json").unlink()


def cut(folder):
    path = folder / "tokenizer.json"
    path.write_text(path.read_text()[:900])


def no_json(folder):
    (folder / "tokenizer_config.json").write_text("{")


def a_list(folder):
    (folder / "tokenizer_config.json").write_text("[]")


def settings(**odd):
    return lambda folder: (folder / "tokenizer_config.json").write_text(json.dumps(odd))


def no_letters(folder):
    (folder / "chat_template.jinja").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (settings(chat_template=5), "is not as transformers writes it: TypeError"),
        (settings(chat_template=["x"]), "is not as transformers writes it: TypeError"),
        (settings(added_tokens_decoder={"1": {"special": True}}), "is not as transformers writes it: KeyError"),
        (no_letters, "a chat template beside it, is not as transformers writes it: UnicodeDecodeError"),
        (remove, "has no tokenizer.json"),
        (cut, r"tokenizer.json is no tokenizer: EOF while parsing"),
        (no_json, "tokenizer_config.json is not JSON"),
        (a_list, "tokenizer_config.json holds a list"),
    ],
)
def test_broken_folders_are_told_in_a_line(folder, change, message):
    change(folder)
    with pytest.raises(InputError, match=message) as error:
        T.load(folder)
    assert "\n" not in str(error.value)


def test_half_a_surrogate_pair_is_no_text(tokenizer):
    with pytest.raises(InputError, match="half a surrogate pair"):
        tokenizer.encode("a\ud83d")
