"""Questions, the prompts that ask them, and a model's answers with the likelihood of every token.

An answers file is JSON lines: a header, then a record for each question in their order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

import numpy as np

from trm_jax.errors import InputError
from trm_jax.evals.decode import Decoder, Written, common
from trm_jax.language import chat, lines
from trm_jax.language.metrics import likelihood
from trm_jax.language.model import Model
from trm_jax.language.tokenizer import Tokenizer
from trm_jax.models import decoder
from trm_jax.settings import check, check_seed, number
from trm_jax.storage.paths import AnyPath

BUILT_IN = Path(__file__).parent / "questions"
QUESTIONS, SHOTS = BUILT_IN / "qa_small.jsonl", BUILT_IN / "qa_small_shots.jsonl"
BRIEF = "Answer the following question with a few words."
STOPS = ("\n\n", "Question:", "Context:", "Answer:")
KIND = "lm-answers-1"
CHUNK = 16  # tokens between two looks for a stop string


@dataclass(frozen=True)
class Question:
    id: str
    question: str
    answers: tuple[str, ...]  # those that are accepted, the first one for a shot
    context: str | None = None


@dataclass(frozen=True)
class Settings:
    """What decides the answers, besides the model, the questions and the shots."""

    brief: str = BRIEF
    max_new_tokens: int = number(150, low=1)
    temperature: float = number(0.0)  # 0: the likeliest token
    seed: int = 0
    stops: tuple[str, ...] = STOPS
    chat: bool = False  # by the model's chat template
    truncate_left: bool = False  # of a prompt that is too long for the model the beginning is left away

    def __post_init__(self):
        check(self)
        check_seed("seed", self.seed)
        for one in self.stops:
            # Else how the answer ends would hang on how many tokens are written between two looks.
            if inner := next((other for other in self.stops if other != one and other in one), ""):
                raise InputError(f"the stop string {one!r} has {inner!r} in it, so it is never met; leave it away")
        if "" in self.stops:
            raise InputError("a stop string is empty; leave it away")


def read_questions(path: AnyPath) -> list[Question]:
    """The questions of a file of JSON lines {"id", "question", "answers": [...], and maybe "context"}.

    Raises InputError that names the line for what is no such question, without an accepted answer, or there twice.
    """
    found: dict[str, Question] = {}
    for count, line in lines.numbered(path):
        where = f"{path}, line {count}"
        try:
            said = json.loads(line)
        except ValueError as error:
            raise InputError(f"{where} is not JSON ({error})") from None
        if not isinstance(said, dict):
            raise InputError(f'{where} is no object; write {{"id": ..., "question": ..., "answers": [...]}}')
        for name in ("id", "question"):
            if not isinstance(said.get(name), str) or not said[name].strip():
                raise InputError(f"{where} has no {name}, or it is no text")
        answers, context = said.get("answers"), said.get("context")
        if not isinstance(answers, list) or not answers:
            raise InputError(f"{where}: {said['id']} has no answers; list those that are accepted")
        if not all(isinstance(one, str) and one.strip() for one in answers):
            raise InputError(f"{where}: an answer of {said['id']} is empty or no text")
        if not isinstance(context, str | None):
            raise InputError(f"{where}: the context of {said['id']} is no text")
        if said["id"] in found:
            raise InputError(f"{where}: the id {said['id']} is there twice; each question needs its own")
        found[said["id"]] = Question(said["id"], said["question"], tuple(answers), context)
    if not found:
        raise InputError(f"{path} holds no question")
    return list(found.values())


def _asked(question: Question, brief: str) -> str:
    first = [brief.rstrip("\n")] if brief else []
    first += [f"Context: {question.context}"] if question.context else []
    return "\n".join([*first, f"Question: {question.question}"])


def prompt(question: Question, shots: Sequence[Question], brief: str) -> str:
    """The text behind which a model writes its answer: the shots with theirs, then the question."""
    examples = [f"{_asked(shot, brief)}\nAnswer: {shot.answers[0]}\n\n" for shot in shots]
    return "".join(examples) + f"{_asked(question, brief)}\nAnswer:"


def messages(question: Question, shots: Sequence[Question], brief: str) -> list[dict[str, str]]:
    """The same as a conversation, of which each shot is a turn of both."""
    turns = []
    for shot in shots:
        turns += [{"role": "user", "content": _asked(shot, brief)}, {"role": "assistant", "content": shot.answers[0]}]
    return [*turns, {"role": "user", "content": _asked(question, brief)}]


def encode(
    words: Tokenizer, context: int, question: Question, shots: Sequence[Question], settings: Settings
) -> tuple[list[int], int]:
    """(the ids of a question's prompt, how many were left away in front); context: the model's tokens, 0 if unknown.

    What stands in questions and answers is text, also where it spells a special token. Raises InputError for a prompt
    that leaves no room for the answer, unless it may be truncated: then the first token of a text stays in front.
    """
    if settings.chat:
        turns, lead = messages(question, shots, settings.brief), []
        ids = chat.encode(words, turns, literal=True, enable_thinking=False)
    else:
        ids, lead = words.encode(prompt(question, shots, settings.brief), literal=True), words.encode("")
    room = context - settings.max_new_tokens
    if not context or len(ids) <= room:
        return ids, 0
    if settings.truncate_left and room > len(lead):
        kept = [*lead, *ids[len(ids) - room + len(lead) :]]
        return kept, len(ids) - len(kept)
    raise InputError(
        f"question {question.id}: its prompt has {len(ids)} tokens, and with {settings.max_new_tokens} new ones it is "
        f"longer than the model's {context}; give fewer shots, fewer new tokens, or --truncate-left"
    )


def finish(words: Tokenizer, one: Written, stops: Sequence[str]) -> dict:
    """What a record says of an answer: {"response", "tokens", "log_probs", "nll", "stop"}.

    It ends before the first stop string. The tokens are those that begin before that, and the one that ended the text
    where it was such a one. Without any the nll is None. log_probs: natural logarithms, of raw logits.
    """
    body = one.tokens[:-1] if one.ended else one.tokens
    text, count, why = words.decode(body), len(one.tokens), "eos" if one.ended else "length"
    if cuts := [(text.find(stop), stop) for stop in stops if stop in text]:
        place, stop = min(cuts)
        # Where a token begins in the text: in the midst of a letter it begins with the letter.
        begins = (len(os.path.commonprefix([words.decode(body[:i]), text])) for i in range(len(body)))
        count, why, text = sum(1 for _ in takewhile(lambda begin: begin < place, begins)), name_of(stop), text[:place]
    log_probs = [float(str(x)) for x in one.log_probs[:count]]  # the shortest that gives the same float32
    said = likelihood(log_probs)
    tokens = one.tokens[:count].tolist()
    nll = round(said.nll, 6) if said.valid else None
    return {"response": text.strip(), "tokens": tokens, "log_probs": log_probs, "nll": nll, "stop": why}


def name_of(stop: str) -> str:
    """What a record calls a stop string."""
    return "blank line" if stop == "\n\n" else stop


def header(
    model: str, digest: str, name: str, questions: Sequence[Question], shots: Sequence[Question], settings: Settings
) -> dict:
    """The first line of an answers file: what the answers are of, and what decided them."""
    how = {**dataclasses.asdict(settings), "shots": len(shots), "shots_sha256": _sha256(shots)}
    named = {"kind": KIND, "model": model, "digest": digest, "settings": how}
    # As it will be read again: tuples are lists.
    return json.loads(json.dumps({**named, "questions": name, "sha256": _sha256(questions)}))


def _sha256(questions: Sequence[Question]) -> str:
    return hashlib.sha256(json.dumps([dataclasses.asdict(one) for one in questions]).encode()).hexdigest()


def answers(
    model: Model,
    questions: Sequence[Question],
    shots: Sequence[Question],
    settings: Settings,
    *,
    rows: int,
    done: Collection[str] = (),
    stopping: Callable[[], bool] = lambda: False,
    chunk: int = CHUNK,
) -> Iterator[list[dict]]:
    """Records of the questions, a batch of `rows` at a time, those of about one length together.

    done: ids that are answered. What is left out is whole batches of them alone, so that an answer comes of the same
    batch, and is the same to the last bit, whenever it is written. stopping: asked after every chunk of tokens; True
    leaves the batch that is under way unfinished. Raises InputError for a prompt that does not fit, before anything is
    written.
    """
    encoded = [encode(model.words, model.cfg.context, one, shots, settings) for one in questions]
    sizes = np.array([len(ids) for ids, _ in encoded])
    there = [number for number, one in enumerate(questions) if one.id in done]
    seeds = np.array([_seed(settings.seed, one.id) for one in questions], np.uint32)
    write = Decoder(decoder, model.cfg, rows, model.eos, chunk=chunk, temperature=settings.temperature)

    def stop(n: int, tokens: np.ndarray) -> bool:
        if stopping():
            raise _Stopped
        text = model.words.decode(tokens)
        return any(one in text for one in settings.stops)

    def ids_of(n: int) -> dict[str, np.ndarray]:
        return {"inputs": np.array(encoded[n][0], np.int32)}

    how = {"stop": stop, "seeds": seeds, "written": there, "shared": common([ids for ids, _ in encoded])}
    batches = write(model.params, ids_of, sizes, settings.max_new_tokens, **how)
    try:
        for batch in batches:
            found = []
            for one in sorted(batch, key=lambda one: one.prompt):
                question, truncated = questions[one.prompt], encoded[one.prompt][1]
                asked = {"id": question.id, "question": question.question, "answers": list(question.answers)}
                cut = {"truncated": truncated} if truncated else {}
                found.append(asked | finish(model.words, one, settings.stops) | cut)
            yield found
            if stopping():
                return
    except _Stopped:
        return


class _Stopped(Exception):
    """Told to stop in the midst of a batch."""


def _seed(seed: int, name: str) -> int:
    """Of a question: the same wherever it stands in the file."""
    return int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:4], "big")


def records(path: AnyPath) -> list[dict]:
    """The header of an answers file and its records. Raises InputError for another kind of file, and one cut off."""
    return lines.read(path, KIND, "no file of answers; trm lm generate writes one")
