"""Text to token ids and back, by a model's own tokenizer."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from trm_jax.errors import InputError
from trm_jax.storage.paths import AnyPath, as_path


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """A tokenizer, its named tokens and its chat templates.

    backend: a `tokenizers.Tokenizer`. named: texts of tokens as chat templates ask for them, {"bos_token": "<s>", ...}.
    templates: chat templates by name; the usual one is "default".
    """

    backend: Any
    named: Mapping[str, str] = field(default_factory=dict)
    templates: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def special(self) -> dict[str, int]:
        """Texts that mean a special token, and its id."""
        added = self.backend.get_added_tokens_decoder()
        return {token.content: number for number, token in added.items() if token.special}

    @cached_property
    def _literal(self):
        literal = copy.deepcopy(self.backend)
        literal.encode_special_tokens = True
        return literal

    @cached_property
    def _plain(self):
        plain = copy.deepcopy(self.backend)
        plain.post_processor = None  # some leave the space in front of a token out of its place
        return plain

    @property
    def size(self) -> int:
        """Number of tokens, added ones too."""
        return self.backend.get_vocab_size(with_added_tokens=True)

    def id(self, name: str) -> int | None:
        """Id of a named token ("bos_token", "eos_token", "pad_token", ...), None where there is none."""
        return self.backend.token_to_id(self.named[name]) if name in self.named else None

    def encode(self, text: str, *, special: bool = True, literal: bool = False) -> list[int]:
        """The ids of a text.

        special: with what the tokenizer puts around a text, as a model's first token is. literal: a special token that
        is spelled out in the text is text. Ask for it where others wrote the text, lest they end a turn or begin one.
        """
        try:
            return (self._literal if literal else self.backend).encode(text, add_special_tokens=special).ids
        except TypeError:  # of the library, for what UTF-8 cannot hold
            raise InputError(f"{text[:40]!r} holds half a surrogate pair, which is no text; take it out") from None

    def encode_placed(self, text: str) -> tuple[list[int], list[int]]:
        """(the ids of a text without what is put around it, the place in the text where each of them begins)."""
        found = self._plain.encode(text, add_special_tokens=False)
        return found.ids, [begin for begin, _ in found.offsets]

    def decode(self, ids: Sequence[int], *, special: bool = False) -> str:
        """The text of ids, without special tokens unless `special`. What is no whole letter is U+FFFD."""
        return self.backend.decode(list(ids), skip_special_tokens=not special)

    def stream(self, ids: Iterable[int], *, special: bool = False) -> Iterator[str]:
        """The text of ids while they come: pieces that together are `decode`'s text.

        A tail that may be the beginning of a letter is held back until the letter is whole or the ids end.
        """
        # Some tokens decode differently at the beginning, so each piece is read off behind the one before it.
        told, fresh = [], []
        for token in ids:
            fresh.append(token)
            piece = self._behind(told, fresh, special)
            if piece and not piece.endswith("\ufffd"):
                yield piece
                told, fresh = fresh, []
        if piece := self._behind(told, fresh, special):
            yield piece

    def _behind(self, told: list[int], fresh: list[int], special: bool) -> str:
        return self.decode(told + fresh, special=special)[len(self.decode(told, special=special)) :]

    def absent_bytes(self) -> list[int]:
        """Bytes for which the vocabulary has no token. A byte-level tokenizer drops them without a word."""
        library = require_tokenizers()
        if not isinstance(self.backend.decoder, library.decoders.ByteLevel):
            return []
        return [byte for byte, symbol in enumerate(byte_symbols()) if self.backend.token_to_id(symbol) is None]


def require_tokenizers():
    """The library, or an error that says how to get it."""
    try:
        import tokenizers
    except ImportError:
        raise InputError("tokenizers are not installed: pip install 'trm_jax[language]'") from None
    return tokenizers


def byte_symbols() -> list[str]:
    """The letter that stands for each byte in a byte-level vocabulary: itself where it prints, else one from U+0100."""
    prints = {*range(33, 127), *range(161, 173), *range(174, 256)}
    others = iter(range(256, 512))
    return [chr(byte if byte in prints else next(others)) for byte in range(256)]


def note_absent_bytes(tokenizer: Tokenizer, say: Callable[[str], None]) -> None:
    """Say once, when a tokenizer is loaded, which bytes it cannot tell."""
    if absent := tokenizer.absent_bytes():
        # 0xC0, 0xC1 and those from 0xF5 are in no UTF-8.
        used = ", ".join(f"0x{byte:02X}" for byte in absent if byte not in (0xC0, 0xC1) and byte < 0xF5)
        say(f"note: the vocabulary lacks {len(absent)} of 256 bytes; a text loses those it has of {used or 'them'}")


def load(folder: str | AnyPath, say: Callable[[str], None] = lambda line: None) -> Tokenizer:
    """The tokenizer of a Hugging Face folder: tokenizer.json, and what of the other files is there.

    The chat template is chat_template.jinja, or in tokenizer_config.json as a text or a list of named ones. Raises
    InputError for a folder without tokenizer.json and for files that cannot be read.
    """
    library = require_tokenizers()
    folder = as_path(folder)
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise InputError(
            f"{folder} has no tokenizer.json; other kinds of tokenizers are not read: convert it to a fast one"
        )
    try:
        backend = library.Tokenizer.from_str(path.read_text(encoding="utf-8"))
    except Exception as error:  # the library raises nothing narrower
        raise InputError(f"{path} is no tokenizer: {error}; fetch it again") from None
    # What a training script left: a text is never cut or filled up here.
    backend.no_truncation()
    backend.no_padding()
    path = folder / "tokenizer_config.json"
    said = _json_object(path) if path.is_file() else {}
    tokenizer = Tokenizer(backend, _named_tokens(said), _templates(folder, said))
    note_absent_bytes(tokenizer, say)
    return tokenizer


def _json_object(path: AnyPath) -> dict:
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}; fetch it again") from None
    if not isinstance(said, dict):
        raise InputError(f"{path} holds a {type(said).__name__}, not settings by name; fetch it again")
    return said


def _named_tokens(said: dict) -> dict[str, str]:
    """Every NAME_token of tokenizer_config.json, a text or {"content": text, ...}."""
    tokens = {name: value for name, value in said.items() if name.endswith("_token")}
    texts = {name: value.get("content") if isinstance(value, dict) else value for name, value in tokens.items()}
    return {name: text for name, text in texts.items() if isinstance(text, str)}


def _templates(folder: AnyPath, said: dict) -> dict[str, str]:
    found = said.get("chat_template") or {}
    if isinstance(found, str):
        found = {"default": found}
    elif isinstance(found, list):
        found = {entry.get("name"): entry.get("template") for entry in found}
    path = folder / "chat_template.jinja"
    return {**found, "default": path.read_text(encoding="utf-8")} if path.is_file() else found
