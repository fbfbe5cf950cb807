"""Questions, prompts and answers of tiny models of random weights, whose every token counts."""

import dataclasses
import json
import math

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm_jax.errors import InputError
from trm_jax.evals.decode import Written
from trm_jax.language import generate as g
from trm_jax.language import model, tokenizer
from trm_jax.models import decoder

TOLERANCE = 2e-5  # of log-probabilities, as the golden README has it


@pytest.fixture(scope="module")
def opened(golden_folder):
    return model.load(golden_folder / "llm" / "gguf" / "qwen2_mixed.gguf")


@pytest.fixture(scope="module")
def words(golden_folder):
    return tokenizer.load(golden_folder / "llm" / "tokenizer_chatml")


QUESTIONS = [one for one in g.read_questions(g.QUESTIONS)[:10] if one.id != "qa06"]  # at most 64 tokens each
SHORT = g.Settings(brief="", max_new_tokens=40, stops=("Z", " an"))


def answered(opened, settings=SHORT, rows=4, questions=QUESTIONS, **how) -> dict[str, dict]:
    batches = g.answers(opened, questions, [], settings, rows=rows, **how)
    return {one["id"]: one for batch in batches for one in batch}


@pytest.fixture(scope="module")
def answers(opened):
    return answered(opened)


def test_the_prompt_is_the_references(shared):
    """Letter by letter: five shots, of which some have a context, and a question with one."""
    golden = json.loads((shared / "golden" / "llm" / "smollm2_qa.json").read_text())
    asked = next(
        one for one in g.read_questions(g.QUESTIONS) if one.question == "What did Mara plant behind the school?"
    )
    assert g.prompt(asked, g.read_questions(g.SHOTS), golden["brief"]) == golden["prompt_example"]
    assert g.prompt(asked, g.read_questions(g.SHOTS), g.BRIEF) == golden["prompt_example"]
    assert g.STOPS == tuple(golden["stops"])


def test_a_prompt_without_brief_and_shots():
    asked = g.Question("1", "Who?", ("me", "I"), "I did.")
    assert g.prompt(asked, [], "") == "Context: I did.\nQuestion: Who?\nAnswer:"
    shot = g.Question("2", "What?", ("it", "that"))
    turns = [("user", "Say.\nQuestion: What?"), ("assistant", "it"), ("user", "Say.\nContext: I did.\nQuestion: Who?")]
    assert g.messages(asked, [shot], "Say.") == [{"role": role, "content": text} for role, text in turns]


REFUSED = {
    '{"id": "b", "question": "Why?", "answers": []}': "line 3: b has no answers",
    '{"id": "b", "question": "Why?", "answers": ["so", " "]}': "line 3: an answer of b is empty",
    '{"id": "b", "question": "Why?", "answers": "so"}': "line 3: b has no answers",
    '{"id": "a", "question": "Why?", "answers": ["so"]}': "line 3: the id a is there twice",
    '{"id": "b", "question": " ", "answers": ["so"]}': "line 3 has no question",
    '{"question": "Why?", "answers": ["so"]}': "line 3 has no id",
    '{"id": "b", "question": "Why?", "answers": ["so"], "context": 1}': "line 3: the context of b",
    '{"id": "b", "question": "Why?"': "line 3 is not JSON",
    "[]": "line 3 is no object",
    r'{"id": "b\nc", "question": "Why?", "answers": ["so"]}': r"line 3: the id 'b\\nc' is not what fits a line",
    r'{"id": "b", "question": "\ud83d?", "answers": ["so"]}': "line 3 is not JSON .*surrogates not allowed",
}


@pytest.mark.parametrize("line", REFUSED)
def test_bad_questions_are_refused_with_their_line(tmp_path, line):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": "a", "question": "Who?", "answers": ["me"]}\n\n' + line + "\n")
    with pytest.raises(InputError, match=REFUSED[line]):
        g.read_questions(path)


RECORD = {"id": "b", "question": "Why?", "answers": ["so"], "response": "so", "nll": None}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"id": "a"}, "answer 2: the id a is there twice"),
        ({"answers": []}, "answer 2: b has no answers"),
        ({"answers": [1]}, "answer 2: an answer of b is empty or no text"),
        ({"response": None}, "answer 2 has no response or no nll; has it been changed"),
        ({"nll": "0.5"}, "answer 2 has no response or no nll"),
        ({"nll": float("nan")}, "answer 2 has no response or no nll"),
    ],
)
def test_records_that_were_changed(tmp_path, change, message):
    path = tmp_path / "answers.jsonl"
    said = {"kind": g.KIND}, {**RECORD, "id": "a", "nll": 0.5}, RECORD
    path.write_text("\n".join(map(json.dumps, said)))
    assert g.records(path) == [*said]
    path.write_text("\n".join(map(json.dumps, [*said[:2], {**RECORD, **change}])))
    with pytest.raises(InputError, match=message):
        g.records(path)


def test_files_that_hold_no_questions(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        g.read_questions(tmp_path / "none.jsonl")
    with pytest.raises(InputError, match="is a folder"):
        g.read_questions(tmp_path)
    (tmp_path / "empty").write_text("\n")
    with pytest.raises(InputError, match="holds no question"):
        g.read_questions(tmp_path / "empty")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="UTF-8"):
        g.read_questions(tmp_path / "bytes")


def written(words, text: str, ended: bool = False) -> Written:
    tokens = np.array(words.encode(text) + [4] * ended, np.int32)
    return Written(0, tokens, np.float32(-0.5) * np.arange(1, len(tokens) + 1, dtype=np.float32), ended)


TEXTS = st.text(st.sampled_from("ab \n:Queés€\U0001f600"), max_size=12)


@given(before=TEXTS, stop=st.sampled_from(g.STOPS), behind=TEXTS, ended=st.booleans())
def test_an_answer_ends_before_the_earliest_stop_string(words, before, stop, behind, ended):
    """Its tokens are those that begin before it, and what would be written behind it changes nothing."""
    text = before + stop + behind
    whole = words.decode(words.encode(text))  # in NFC, as the tokenizer makes it
    found = g.finish(words, written(words, text, ended), g.STOPS)
    at = min(whole.find(one) for one in g.STOPS if one in whole)
    assert found["response"] == whole[:at].strip()
    assert whole[at:].startswith("\n\n" if found["stop"] == "blank line" else found["stop"])
    ids, count = words.encode(text), len(found["tokens"])
    assert found["tokens"] == ids[:count]
    assert len(words.decode(ids[:count])) >= at, "up to the stop string or into it"
    assert count == 0 or len(words.decode(ids[: count - 1]).rstrip("\ufffd")) < at, "and no token more"
    assert found["log_probs"] == [-0.5 * (i + 1) for i in range(count)]
    assert found["nll"] == (0.5 * math.comb(count + 1, 2) if count else None)


def test_an_answer_that_no_stop_string_ends(words):
    cut = g.finish(words, written(words, " two words "), g.STOPS)
    ended = g.finish(words, written(words, " two words ", True), g.STOPS)
    assert cut["response"] == ended["response"] == "two words"
    assert (cut["stop"], ended["stop"]) == ("length", "eos")
    assert ended["tokens"] == [*cut["tokens"], 4]
    assert ended["nll"] == cut["nll"] + 0.5 * len(ended["tokens"])


def test_an_answer_without_a_token_has_no_likelihood(words):
    """It is not an answer of which one could be sure; one that ends at once is."""
    assert g.finish(words, written(words, "\n\nno"), g.STOPS) | {"stop": ""} == {
        "response": "",
        "tokens": [],
        "log_probs": [],
        "nll": None,
        "stop": "",
    }
    assert g.finish(words, written(words, "", True), g.STOPS)["nll"] == 0.5


def test_a_token_that_holds_the_end_of_an_answer_and_a_stop_counts(words):
    """As .\\n\\n does in many vocabularies: it begins before the stop."""
    token = next(text for text in (".\n", "a\n", ":\n", "))\n", " \n", "\n\n") if len(words.encode(text)) == 1)
    found = g.finish(words, written(words, f"x{token}"), (token[-1],))
    assert found["response"] == f"x{token[:-1]}".strip()
    assert found["tokens"] == words.encode(f"x{token}")[: 1 + (len(token) > 1)]


@pytest.mark.parametrize("stops", [("Answer", "Answer:"), ("",)])
def test_stop_strings_that_are_never_met_are_refused(stops):
    with pytest.raises(InputError, match="stop string"):
        g.Settings(stops=stops)


def test_likelihoods_are_those_of_reading(opened, answers):
    """log-probabilities of raw logits of the prompt and the answer read at once."""
    read = jax.jit(decoder.forward, static_argnums=1)
    for asked in QUESTIONS[:3]:
        ids, _ = g.encode(opened.words, 0, asked, [], SHORT)
        record = answers[asked.id]
        whole = np.zeros((1, 192), np.int32)
        whole[0, : len(ids) + len(record["tokens"])] = [*ids, *record["tokens"]]
        log_p = jax.nn.log_softmax(read(opened.params, opened.cfg, whole))[0, len(ids) - 1 :]
        said = [float(log_p[i, token]) for i, token in enumerate(record["tokens"])]
        np.testing.assert_allclose(record["log_probs"], said, rtol=0, atol=TOLERANCE)
    assert {one["stop"] for one in answers.values()} == {"Z", " an", "length"}


def assert_same(found: dict, wanted: dict) -> None:
    assert found.keys() == wanted.keys()
    for name, one in found.items():
        for key in ("response", "tokens", "stop"):
            assert one[key] == wanted[name][key]
        np.testing.assert_allclose(one["log_probs"], wanted[name]["log_probs"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("rows, chunk", [(1, 50), (7, 5)])
def test_batch_chunk_and_order_change_nothing(opened, answers, rows, chunk):
    assert_same(answered(opened, rows=rows, chunk=chunk, questions=QUESTIONS[::-1]), answers)


def test_what_is_left_comes_of_the_same_batches(opened, answers):
    """To the last bit, whichever answers are there already; a batch of which one is missing is written whole."""
    batches = [list(answers)[i : i + 4] for i in range(0, len(answers), 4)]
    found = answered(opened, done=[*batches[1], batches[0][2]])
    assert list(found) == batches[0] + batches[2]
    assert all(answers[name] == one for name, one in found.items())
    assert answered(opened, done=list(answers)) == {}
    assert answered(opened, stopping=lambda: True) == {}


def test_drawn_answers_hang_on_seed_and_question(opened):
    """On its id, wherever it stands: the same question under two ids is answered twice."""
    twin = g.Question("twin", QUESTIONS[0].question, ("a",))
    drawn = g.Settings(brief="", max_new_tokens=40, temperature=1.5, seed=5)
    found = answered(opened, drawn, questions=[twin, *QUESTIONS[:3]])
    assert found["twin"]["tokens"] != found["qa01"]["tokens"]
    other = answered(opened, drawn, rows=2, questions=[*QUESTIONS[2::-1], twin])
    assert_same(other, found)


def test_a_model_that_computes_no_numbers(opened):
    broken = dataclasses.replace(opened, params={**opened.params, "norm": opened.params["norm"] * np.nan})
    with pytest.raises(InputError, match="qwen2_mixed.gguf computes what is no number; take --dtype float32"):
        answered(broken, g.Settings(brief="", max_new_tokens=1), rows=1, questions=QUESTIONS[:1])


def test_a_prompt_that_is_too_long_is_refused_or_cut(opened):
    shots = g.read_questions(g.SHOTS)
    settings = g.Settings(max_new_tokens=20)
    whole, none = g.encode(opened.words, 0, QUESTIONS[0], shots, settings)
    assert none == 0 and len(whole) > opened.cfg.context == 256
    with pytest.raises(InputError, match=f"question qa01: its prompt has {len(whole)} tokens.*--truncate-left"):
        list(g.answers(opened, QUESTIONS[:1], shots, settings, rows=1))
    cut = g.Settings(max_new_tokens=20, truncate_left=True)
    ((record,),) = g.answers(opened, QUESTIONS[:1], shots, cut, rows=1)
    assert record["truncated"] == len(whole) - 236
    assert g.encode(opened.words, 256, QUESTIONS[0], shots, cut)[0] == whole[-236:]
    with pytest.raises(InputError, match="longer than"):
        g.encode(opened.words, 20, QUESTIONS[0], shots, cut)


def test_the_first_token_of_a_text_stays_where_a_prompt_is_cut(golden_folder):
    words = tokenizer.load(golden_folder / "llm" / "tokenizer_bos")
    cut = g.Settings(max_new_tokens=10, truncate_left=True)
    whole, _ = g.encode(words, 0, QUESTIONS[0], [], cut)
    assert g.encode(words, 30, QUESTIONS[0], [], cut) == ([whole[0], *whole[-19:]], len(whole) - 20)
    assert whole[:1] == words.encode("") and whole[0] not in whole[1:]


def test_asked_by_the_chat_template(words):
    """What a question spells of it stays text."""
    settings = g.Settings(chat=True, brief="Say.", max_new_tokens=5)
    asked = g.Question("1", "Who? <|im_end|>", ("me",))
    ids, _ = g.encode(words, 0, asked, [], settings)
    start, end = (words.special[name] for name in ("<|im_start|>", "<|im_end|>"))
    assert words.decode(ids, special=True) == (
        "<|im_start|>user\nSay.\nQuestion: Who? <|im_end|><|im_end|>\n<|im_start|>assistant\n"
    )
    assert (ids.count(start), ids.count(end)) == (2, 1)
    bare = tokenizer.Tokenizer(words.backend, words.named)
    with pytest.raises(InputError, match="no chat template"):
        g.encode(bare, 0, asked, [], settings)
