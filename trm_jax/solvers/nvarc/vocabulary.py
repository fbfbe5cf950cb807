"""A decoder cut to NVARC's 16 tokens: their rows of embedding and head, and a tokenizer of no others."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp

from trm_jax.errors import InputError
from trm_jax.language import config, weights
from trm_jax.language.tokenizer import Tokenizer, require_tokenizers
from trm_jax.models import decoder, quant
from trm_jax.solvers.grid_text import require_digits
from trm_jax.solvers.nvarc import text
from trm_jax.storage.paths import write_whole

SIZE = 16
# As Qwen writes the last three; other models' named tokens stand for them.
TEXTS = (*map(str, range(10)), "\n", "user", "assistant", "<|endoftext|>", "<|im_start|>", "<|im_end|>")
_STAND_INS = {text.PAD: ("pad_token", "eos_token"), text.START: ("bos_token", "eos_token"), text.END: ("eos_token",)}


def sources(words: Tokenizer) -> list[list[int]]:
    """For each of the 16 tokens, those of a tokenizer that it is made of: one, or the parts of a word.

    Raises InputError where a digit or the end of a line is not a single token.
    """
    require_digits(words)
    found = []
    for token, said in enumerate(TEXTS):
        if token in _STAND_INS and words.backend.token_to_id(said) is None:
            named = [words.id(name) for name in _STAND_INS[token] if words.id(name) is not None]
            if not named:
                raise InputError(f"the tokenizer has no {said} and names no {_STAND_INS[token][-1]}; it cannot be cut")
            found.append(named[:1])
            continue
        parts = words.encode(said, special=False)
        if len(parts) != 1 and token <= text.NEWLINE:
            raise InputError(
                f"the tokenizer makes {len(parts)} tokens of {said!r}; digits and the end of a line must be one each: "
                "take another model, as those of the Llama 3 and Qwen families"
            )
        found.append(parts)
    return found


def cut(cfg: decoder.Config, params: dict, words: Tokenizer | None) -> tuple[decoder.Config, dict]:
    """(config, parameters) of a decoder with 16 tokens; one that has no others stays as it is and needs no `words`.

    A word of several tokens begins as their mean. Everything but embedding and head is shared with what was given.
    """
    if cfg.vocab_size == SIZE:
        return cfg, params
    if set(params.get("lora", ({},))[0]) & {"embed", "head"}:
        raise InputError("the adapter changes embedding or head, whose rows are cut; merge it into the model first")
    made_of = sources(words)

    def rows(x: jax.Array) -> jax.Array:
        return jnp.stack([x[jnp.array(parts)].mean(0) for parts in made_of]).astype(x.dtype)

    found = {**params, "embed": rows(params["embed"])}
    if not cfg.tied:
        head = params["head"]
        found["head"] = rows((quant.dequantise(head).astype(cfg.dtype) if quant.is_quantised(head) else head).T).T
    return dataclasses.replace(cfg, vocab_size=SIZE), found


def write(folder: Path, cfg: decoder.Config, params: dict) -> None:
    """Write a decoder with 16 tokens as a folder in Hugging Face's format."""
    weights.save(folder, cfg, params)
    write_whole(folder / "tokenizer.json", tokenizer().to_str().encode())
    named = {"eos_token": TEXTS[text.END], "pad_token": TEXTS[text.PAD]}
    said = {"tokenizer_class": "PreTrainedTokenizerFast", **named}  # or transformers takes that of the architecture
    write_whole(folder / "tokenizer_config.json", (json.dumps(said, indent=1) + "\n").encode())
    config.write(folder, cfg, config.Ids(None, (text.END,), text.PAD))  # last: with it the folder is a model


def tokenizer():
    """The `tokenizers.Tokenizer` of the 16 tokens."""
    library = require_tokenizers()
    made = library.Tokenizer(library.models.WordLevel({said: token for token, said in enumerate(TEXTS)}, "0"))
    made.add_special_tokens(list(TEXTS[text.PAD :]))
    made.pre_tokenizer = library.pre_tokenizers.Split(library.Regex(r"\d|\n|user|assistant"), "isolated")
    made.decoder = library.decoders.Fuse()
    return made
