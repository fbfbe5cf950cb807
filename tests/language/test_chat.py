"""Chat templates: the texts of transformers, a sandbox, and messages that imitate the template."""

import json
import shutil

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trm_jax.errors import InputError
from trm_jax.language import chat
from trm_jax.language import tokenizer as T

pytest.importorskip("tokenizers")
pytest.importorskip("jinja2")
NAMES = ("tokenizer_bos", "tokenizer_chatml")
HELLO = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module", params=NAMES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def tokenizer(golden_folder, name):
    return T.load(golden_folder / "llm" / name)


def with_template(template: str, **named: str) -> T.Tokenizer:
    return T.Tokenizer(None, named, {"default": template})


def test_messages_are_rendered_and_encoded_as_by_transformers(golden_folder, name, tokenizer):
    """Whose template begins with <s> gets no second one."""
    for case in json.loads((golden_folder / "llm" / name / "golden.json").read_text())["chat"]:
        asked = {"add_generation_prompt": case["add_generation_prompt"]}
        if "error" in case:
            with pytest.raises(InputError, match=f"refuses these messages: {case['error']}$"):
                chat.render(tokenizer, case["messages"], **asked)
            continue
        assert chat.render(tokenizer, case["messages"], **asked) == case["text"]
        assert chat.encode(tokenizer, case["messages"], **asked) == case["ids"]


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


@given(said=st.lists(WORDS | st.sampled_from(["<|im_end|>", "</s>", "<s>", "<|im_start|>system\n"]), max_size=5))
def test_a_message_cannot_end_its_turn(tokenizer, name, said):
    content = "".join(said)
    ids = chat.encode(tokenizer, [{"role": "user", "content": content}], literal=True)
    honest = chat.encode(tokenizer, [{"role": "user", "content": "x"}])
    marks = set(tokenizer.special.values())
    assert [token for token in ids if token in marks] == [token for token in honest if token in marks]
    # Nothing of the message is lost: special tokens aside, it reads as it would have, in the tokenizer's normal form.
    normal = tokenizer.backend.normalizer
    text = chat.render(tokenizer, [{"role": "user", "content": content}])
    assert tokenizer.decode(ids, special=True) == (normal.normalize_str(text) if normal else text)


def test_honest_messages_are_the_same_literally(tokenizer):
    messages = [{"role": "user", "content": "12 a\n\n b"}, {"role": "assistant", "content": "é"}]
    assert chat.encode(tokenizer, messages, literal=True) == chat.encode(tokenizer, messages)


def test_blocks_are_trimmed_and_loops_controlled():
    lines = [
        "{% for m in messages %}",
        "  {% if m.content == 'stop' %}",
        "{% break %}",
        "  {% endif %}",
        "{{ m.content }}",
    ]
    template = "\n".join([*lines, "{% endfor %}"])
    messages = [{"content": word} for word in ("a", "stop", "b")]
    assert chat.render(with_template(template), messages) == "a\n"


def test_what_an_assistant_says_may_be_marked_for_training():
    """As transformers renders it: a block with names of its own."""
    inside = "{% generation %}{% set name = m.content %}{{ name }}{% endgeneration %}{{ name is defined }}"
    tokenizer = with_template("{% for m in messages %}" + inside + "{% endfor %}")
    assert chat.render(tokenizer, [{"content": "a"}, {"content": "b"}]) == "aFalsebFalse"


def test_what_templates_may_call(monkeypatch):
    class Then(chat.datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2024, 7, 26)

    monkeypatch.setattr(chat, "datetime", Then)
    template = "{{ strftime_now('%d %b %Y') }} {{ messages[0] | tojson }} {{ bos_token }}{{ style }}{{ tools is none }}"
    messages = [{"content": "<é> & '"}]
    text = chat.render(with_template(template, bos_token="<s>"), messages, style="x")
    assert text == '26 Jul 2024 {"content": "<é> & \'"} <s>xTrue'


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ messages.append(1) }}", "refuses these messages: access to attribute 'append' of 'list' object is unsafe"),
        ("{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"),
        ("{% for x in range(10**9) %}{% endfor %}", "Range too big"),
        ("{{ messages[0].none + 'a' }}", "has no attribute 'none'"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{% if %}", "the chat template cannot be read: Expected an expression"),
    ],
)
def test_faulty_templates_are_told_in_a_line(template, message):
    with pytest.raises(InputError, match=message) as error:
        chat.render(with_template(template), HELLO)
    assert "\n" not in str(error.value)


def test_templates_by_name(golden_folder, tmp_path):
    """tokenizer_config.json may list several; chat_template.jinja stands above its default, and a folder has others."""
    folder = shutil.copytree(golden_folder / "llm" / "tokenizer_bos", tmp_path / "m", copy_function=shutil.copyfile)
    listed = [{"name": "default", "template": "plain"}, {"name": "tool_use", "template": "tools"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": listed}))
    tokenizer = T.load(folder)
    assert [chat.render(tokenizer, HELLO, template=name) for name in ("default", "tool_use")] == ["plain", "tools"]
    with pytest.raises(InputError, match="no chat template 'rag'; choose one of default, tool_use"):
        chat.render(tokenizer, HELLO, template="rag")
    (folder / "chat_template.jinja").write_text("file")
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "rag.jinja").write_text("documents")
    tokenizer = T.load(folder)
    found = [chat.render(tokenizer, HELLO, template=name) for name in ("default", "tool_use", "rag")]
    assert found == ["file", "tools", "documents"]


def test_a_base_model_has_no_template(golden_folder, tmp_path):
    shutil.copyfile(golden_folder / "llm" / "tokenizer_bos" / "tokenizer.json", tmp_path / "tokenizer.json")
    with pytest.raises(InputError, match="has no chat template"):
        chat.encode(T.load(tmp_path), HELLO)
