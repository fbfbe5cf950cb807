"""Conversations as a model was trained to read them: its chat template, rendered in a sandbox."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from trm_jax.errors import InputError
from trm_jax.language.tokenizer import Tokenizer


def render(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    add_generation_prompt: bool = True,
    template: str = "default",
    **variables: Any,
) -> str:
    """The text of messages [{"role": "user", "content": "Hi"}, ...] by the tokenizer's chat template of that name.

    add_generation_prompt: it ends where the answer begins. variables: what else the template asks for (tools,
    enable_thinking, ...). Raises InputError where there is no template, and where the template refuses.
    """
    if not tokenizer.templates:
        raise InputError("the model has no chat template, so it may be a base model; ask it without one")
    if template not in tokenizer.templates:
        raise InputError(f"no chat template {template!r}; choose one of {', '.join(map(str, tokenizer.templates))}")
    asked = {"tools": None, "documents": None, **tokenizer.named, **variables}
    compiled = _compiled(tokenizer.templates[template])
    try:
        return compiled.render(messages=messages, add_generation_prompt=add_generation_prompt, **asked)
    except Exception as error:  # a template is a program of the model's authors and may raise anything
        raise InputError(f"the chat template refuses these messages: {error or type(error).__name__}") from None


def encode(
    tokenizer: Tokenizer,
    messages: Sequence[Mapping[str, Any]],
    *,
    literal: bool = False,
    **options: Any,
) -> list[int]:
    """The ids of messages, rendered as by `render` with the same options.

    The template writes every special token, the first one too, so the tokenizer adds none. literal: special tokens
    that are spelled out in the messages are text, as in `Tokenizer.encode`; those of the template stay what they are.
    """
    spelled = re.compile("|".join(map(re.escape, sorted(tokenizer.special, key=len, reverse=True))) or r"(?!)")
    written: list[str] = []
    _each_text(messages, lambda text: written.append(text) or text)
    if not literal or not any(map(spelled.search, written)):
        return tokenizer.encode(render(tokenizer, messages, **options), special=False)
    # Each becomes a letter that no message has, which the template passes on, and is spelled out again behind it.
    known = set().union(*written)
    free = (letter for letter in map(chr, range(0xF0000, 0xFFFFE)) if letter not in known)
    letters = dict(zip(tokenizer.special, free, strict=False))
    hidden = _each_text(messages, lambda text: spelled.sub(lambda found: letters[found[0]], text))
    restored = str.maketrans({letter: text for text, letter in letters.items()})
    ids, place = [], 0
    text = render(tokenizer, hidden, **options)
    for found in spelled.finditer(text):
        ids += tokenizer.encode(text[place : found.start()].translate(restored), special=False, literal=True)
        ids.append(tokenizer.special[found[0]])
        place = found.end()
    return ids + tokenizer.encode(text[place:].translate(restored), special=False, literal=True)


def _each_text(tree: Any, change: Callable[[str], str]) -> Any:
    """Lists and mappings as they are, with every text in them changed."""
    if isinstance(tree, str):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: _each_text(value, change) for key, value in tree.items()}
    return [_each_text(value, change) for value in tree] if isinstance(tree, (list, tuple)) else tree


@lru_cache(maxsize=16)
def _compiled(template: str):
    try:
        import jinja2
        from jinja2.ext import Extension
        from jinja2.sandbox import ImmutableSandboxedEnvironment
    except ImportError:
        raise InputError("chat templates need jinja2: pip install 'trm_jax[language]'") from None

    def raise_exception(message: str):
        raise jinja2.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False) -> str:
        """Without jinja's own escapes for HTML, which no model was trained on."""
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    class Generation(Extension):
        """{% generation %}: marks for training what an assistant says; a block like any other."""

        tags = {"generation"}  # noqa: RUF012 - read by jinja2

        def parse(self, parser):
            line = next(parser.stream).lineno
            return jinja2.nodes.Scope(parser.parse_statements(("name:endgeneration",), drop_needle=True), lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols", Generation]
    )
    environment.filters["tojson"] = tojson
    environment.globals |= {
        "raise_exception": raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    try:
        return environment.from_string(template)
    except (jinja2.TemplateError, TypeError) as error:
        raise InputError(f"the chat template cannot be read: {error}") from None
