"""Who writes programs: a script, a model on this machine, or one behind an address.

A coder is asked for several replies at once, and says of each what it took.
"""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np

from trm_jax.errors import InputError, OutOfReach
from trm_jax.language import remote
from trm_jax.solvers.run import Stopped
from trm_jax.tasks.arc.files import read_json, task_from
from trm_jax.tasks.arc.grids import ArcTask

FORMAT = "scripted-coder-1"
LETTERS = 4  # of a token, where nobody counts them
TIMEOUT_S = 600.0  # of a try
_BLOCK = re.compile(r"```[ \t]*(?:python3?|py)[ \t]*\r?\n(.*?)```", re.DOTALL | re.IGNORECASE)


class Reply(NamedTuple):
    """text: None where the coder did not answer; refused: it does not take the prompt; lost: what the run ends with
    unless a budget ended it."""

    text: str | None
    tokens: int = 0  # of prompt and reply
    tries: int = 1
    problem: str | None = None
    refused: bool = False
    lost: OutOfReach | None = None


class Coder(Protocol):
    at_once: int  # prompts that are best asked together

    def fits(self, prompt: str) -> bool:
        """Whether a prompt leaves room for a reply."""

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], tries: int, seconds: float) -> list[Reply]:
        """A reply to each prompt, in at most so many tries and about so many seconds in all. Raises `run.Stopped`."""


def estimate(prompt: str, text: str) -> int:
    """Tokens of a prompt and its reply, by their letters."""
    return (len(prompt) + len(text)) // LETTERS


@dataclass
class Script:
    """Replies of a file, one after another, whatever is asked; `given` of them were given before."""

    path: Path
    given: int = 0
    at_once: int = 1

    def __post_init__(self):
        said = read_json(self.path)
        texts = said.get("responses") if isinstance(said, dict) and said.get("format") == FORMAT else None
        if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
            raise InputError(f"{self.path} is no script; it needs format {FORMAT!r} and a list of responses")
        self.texts, self.content = texts, said

    @property
    def task(self) -> ArcTask | None:
        """The task that comes with it, without answers to its test inputs."""
        said = self.content.get("task")
        return task_from(self.path, self.path.stem, said) if isinstance(said, dict) else None

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.texts).encode()).hexdigest()[:16]

    def fits(self, prompt: str) -> bool:
        return True

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], tries: int, seconds: float) -> list[Reply]:
        if self.given + len(prompts) > len(self.texts):
            raise InputError(f"{self.path} has {len(self.texts)} responses, and one more is asked for; add some")
        texts = self.texts[self.given : self.given + len(prompts)]
        self.given += len(prompts)
        return [Reply(text, estimate(prompt, text)) for prompt, text in zip(prompts, texts, strict=True)]


@dataclass
class Remote:
    """The model `name` behind an OpenAI-compatible address, asked one at a time."""

    address: str
    name: str
    most: int  # tokens of a reply
    temperature: float
    key: remote.Key | None = None
    say: Callable[[str], None] = lambda line: None
    answered: bool = False  # whether it has ever done so, in an earlier run too
    at_once: int = 1

    def fits(self, prompt: str) -> bool:
        return True

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], tries: int, seconds: float) -> list[Reply]:
        [prompt] = prompts
        how = {"max_tokens": self.most, "temperature": self.temperature, "key": self.key, "say": self.say}
        how |= {"timeout_s": TIMEOUT_S, "within_s": seconds, "attempts": min(remote.ATTEMPTS, tries)}
        try:
            found = remote.ask(self.address, self.name, [{"role": "user", "content": prompt}], **how)
        except remote.Refused as error:
            # A prompt that is too long or an answer that is garbled ends no run. A server that has never answered is
            # asked a short one first: it may not know the model.
            if error.status not in (200, 400, 413, 422):
                raise
            if first := not self.answered:
                remote.ask(self.address, self.name, [{"role": "user", "content": "Say yes."}], **how)
                self.answered = True
            return [Reply(None, tries=1 + first, problem=str(error), refused=error.status != 200)]
        except remote.Unanswered as error:
            return [Reply(None, tries=error.attempts, problem=str(error), lost=error)]
        self.answered = True
        return [Reply(found.text, found.tokens or estimate(prompt, found.text), 1 + found.repeated)]


class Local:
    """A model on this machine, by its chat template where it has one."""

    def __init__(self, model, most: int, temperature: float, at_once: int, stopping: Callable[[], bool]):
        from trm_jax.evals.decode import Decoder
        from trm_jax.models import decoder

        self.at_once, self._model, self._most, self._stopping = at_once, model, most, stopping
        self._write = Decoder(decoder, model.cfg, at_once, model.eos, temperature=temperature)

    def _ids(self, prompt: str) -> np.ndarray:
        from trm_jax.language import chat

        words = self._model.words
        if not words.templates:
            return np.array(words.encode(prompt, literal=True), np.int32)
        said = [{"role": "user", "content": prompt}]
        return np.array(chat.encode(words, said, literal=True, enable_thinking=False), np.int32)

    def fits(self, prompt: str) -> bool:
        return not self._model.cfg.context or len(self._ids(prompt)) + self._most <= self._model.cfg.context

    def __call__(self, prompts: Sequence[str], seeds: Sequence[int], tries: int, seconds: float) -> list[Reply]:
        ids, until = [self._ids(prompt) for prompt in prompts], time.monotonic() + seconds

        def stop(number: int, tokens: np.ndarray) -> bool:
            if self._stopping():
                raise Stopped
            return time.monotonic() > until or program(self._model.words.decode(tokens)) is not None

        sizes = np.array([len(one) for one in ids])
        batches = self._write(
            self._model.params,
            lambda number: {"inputs": ids[number]},
            sizes,
            self._most,
            stop=stop,
            seeds=np.array(seeds, np.uint32),
        )
        written = {one.prompt: one for batch in batches for one in batch}
        found = []
        for number, one in sorted(written.items()):
            body = one.tokens[:-1] if one.ended else one.tokens
            found.append(Reply(self._model.words.decode(body), int(sizes[number]) + len(one.tokens)))
        return found


def program(reply: str) -> str | None:
    """The first Python block of a reply that is fenced and closed."""
    found = _BLOCK.search(reply)
    return found[1] if found else None
