"""Whether answers are right, by a model that is asked: in its own words, and by the chance that it begins with yes.

The judge is controlled: it is asked about an answer to each question that is known to be right, and about one that is
known to be wrong. One that cannot tell them apart says nothing about others.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from trm_jax.errors import InputError
from trm_jax.evals.decode import Decoder, common
from trm_jax.language import chat, generate, lines, metrics, remote
from trm_jax.language.model import Model
from trm_jax.language.tokenizer import Tokenizer
from trm_jax.models import decoder
from trm_jax.storage.paths import AnyPath, json_lines

KIND = "lm-judged-1"
HOW = ("shots", "chat")  # with graded examples in front, or by the rules alone as a conversation
SYSTEM = (
    "You grade answers to questions. Compare the proposed answer with the accepted answers. Small differences in "
    "wording do not matter, facts do. If the proposed answer is wrong, incomplete or nonsense, say no. Reply with one "
    "word: yes or no."
)
REPLY_TOKENS = 10
BEHIND = "\n\n"  # what ends a verdict among graded examples: behind it a model grades answers of its own
TOP = 20  # likeliest first tokens that a server is asked for, the most that servers tell


class Case(NamedTuple):
    """An answer on which the judge rules."""

    id: str
    question: str
    answers: tuple[str, ...]  # accepted ones
    proposed: str
    control: str = ""  # "right" or "wrong", which it is known to be

    @property
    def key(self) -> tuple[str, str]:
        """What tells it from the other cases of a file."""
        return self.id, self.control


class Ruling(NamedTuple):
    """What a judge says of a case. mass: the chance that it begins with yes or no; p_yes: the share of yes in that.

    Both None where a server does not tell them, p_yes also where there is no mass.
    """

    reply: str
    p_yes: float | None
    mass: float | None


def cases(answers: Sequence[Mapping[str, Any]], control: bool = True) -> list[Case]:
    """A case for each record of an answers file; with control, each followed by a right answer and a wrong one.

    The right one is the first that is accepted; the wrong one is that of the next question that is wrong here. Raises
    InputError for what is no such record.
    """
    found = []
    for at, record in enumerate(answers):
        if lacking := [name for name in ("id", "question", "answers", "response", "nll") if name not in record]:
            raise InputError(f"answer {at + 1} of the file has no {' or '.join(lacking)}; has it been changed?")
        accepted = tuple(record["answers"])
        said = {"": record["response"]}
        if control:
            said["right"] = accepted[0]
            others = (answers[(at + step) % len(answers)]["answers"][0] for step in range(1, len(answers)))
            wrong = next((other for other in others if metrics.f1(other, accepted) < metrics.CORRECT_F1), None)
            said |= {} if wrong is None else {"wrong": wrong}
        found += [Case(record["id"], record["question"], accepted, text, kind) for kind, text in said.items()]
    return found


def exam(case: Case) -> str:
    """What a judge has to compare; each text is one line, so that an answer cannot go on with a verdict of its own."""
    said = {"Question": case.question, "Accepted answers": "; ".join(case.answers), "Proposed answer": case.proposed}
    return "".join(f"{name}: {' '.join(text.split())}\n" for name, text in said.items())


@cache
def shots() -> tuple[Case, ...]:
    """The graded examples that are built in; `control` is their verdict."""
    told = (said for _, said in json_lines(generate.BUILT_IN / "qa_small_judge_shots.jsonl"))
    return tuple(Case(*map(said.get, ("id", "question", "answers", "proposed", "verdict"))) for said in told)


def plain(case: Case) -> str:
    """The text that a judge goes on with yes or no, behind the graded examples."""
    asked = "Is the proposed answer correct (yes or no)?"
    graded = "".join(f"{exam(shot)}{asked} {shot.control}{BEHIND}" for shot in shots())
    return f"{graded}{exam(case)}{asked}"


def messages(case: Case, *, graded: bool) -> list[dict[str, str]]:
    """The conversation that a judge goes on with yes or no; graded: the examples are earlier turns."""
    asked = "Is the proposed answer correct?"
    said = [("system", SYSTEM)]
    for shot in shots() if graded else ():
        said += [("user", exam(shot) + asked), ("assistant", shot.control)]
    return [{"role": role, "content": content} for role, content in (*said, ("user", exam(case) + asked))]


def encode(words: Tokenizer, case: Case, how: str) -> list[int]:
    """The ids of a prompt. A special token that is spelled out in an answer is text."""
    if how == "chat":
        return chat.encode(words, messages(case, graded=False), literal=True, enable_thinking=False)
    return words.encode(plain(case), literal=True)


def reading(words: Tokenizer, word: str) -> list[int]:
    """The ids of all tokens that read `word`, whatever case and blanks."""
    texts = words.backend.decode_batch([[token] for token in range(words.size)])
    return [token for token, text in enumerate(texts) if text.strip().lower() == word]


def by_model(
    model: Model,
    asked: Sequence[Case],
    how: str,
    *,
    rows: int,
    done: Collection[int] = (),
    stopping: Callable[[], bool] = lambda: False,
) -> Iterator[list[tuple[int, Ruling]]]:
    """Rulings of a model on this machine, with the numbers of their cases: a batch of `rows` at a time.

    done: cases that are left out, where all of their batch are. stopping: asked before each batch. Raises InputError
    where the model has no chat template but `how` is chat, and for a prompt that is too long for it.
    """
    if how == "chat" and not model.words.templates:
        raise InputError(f"{model.name} has no chat template, so it may be a base model; ask it by --how shots")
    prompts = [np.array(encode(model.words, case, how), np.int32) for case in asked]
    for case, prompt in zip(asked, prompts, strict=True):
        if 0 < model.cfg.context < len(prompt) + REPLY_TOKENS:
            said = f"question {case.id}: the judge's prompt has {len(prompt)} tokens, which with its reply is longer"
            raise InputError(f"{said} than the {model.cfg.context} of {model.name}; take another judge")
    groups = [np.array(reading(model.words, word), np.int32) for word in ("yes", "no")]

    def masses(logits):
        shares = jax.nn.softmax(logits, axis=-1)
        return jnp.stack([shares[:, group].sum(-1) for group in groups], axis=-1)

    def graded(_, tokens) -> bool:
        return how == "shots" and BEHIND in model.words.decode(tokens).lstrip()

    write = Decoder(decoder, model.cfg, rows, model.eos, chunk=2, look=masses)
    batches = write(
        model.params,
        lambda number: {"inputs": prompts[number]},
        np.array([len(prompt) for prompt in prompts]),
        REPLY_TOKENS,
        on_batch=lambda *_: stopping(),
        stop=graded,
        written=done,
        shared=common(prompts),
    )
    for batch in batches:
        found = []
        for one in batch:
            reply = model.words.decode(one.tokens).strip()
            reply = reply.partition(BEHIND)[0] if how == "shots" else reply
            found.append((one.prompt, ruling(reply, *map(float, one.seen))))
        yield found


def by_server(
    address: str,
    name: str,
    asked: Sequence[Case],
    how: str,
    *,
    done: Collection[int] = (),
    key: remote.Key | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Iterator[list[tuple[int, Ruling]]]:
    """The same of the model `name` behind an address, one at a time; raises what `remote.ask` does."""
    top, repeated = TOP, 0
    for number in sorted({*range(len(asked))} - {*done}):
        said = messages(asked[number], graded=how == "shots")
        how_to = {"max_tokens": REPLY_TOKENS, "key": key, "say": say}
        try:
            found = remote.ask(address, name, said, top=top, **how_to)
        except remote.Refused as error:
            if not top or error.status not in (400, 422):
                raise
            top = 0
            found = remote.ask(address, name, said, **how_to)
            say(f"note: {error}; it is asked without log-probabilities, so there is no P(yes)")
        first = [(text.strip().lower(), math.exp(log_p)) for text, log_p in found.first or ()]
        masses = (math.fsum(share for text, share in first if text == word) for word in ("yes", "no"))
        repeated += found.repeated
        yield [(number, ruling(found.text.strip(), *(masses if first else (None, None))))]
    if repeated:
        say(f"note: {repeated} requests were made again")


def ruling(reply: str, yes: float | None, no: float | None) -> Ruling:
    """From the masses of yes and no, None where they are not known; six digits of what is made of them."""
    if yes is None or no is None:
        return Ruling(reply, None, None)
    return Ruling(reply, float(f"{yes / (yes + no):.6g}") if yes + no else None, float(f"{yes + no:.6g}"))


def record(case: Case, said: Ruling | None) -> dict:
    """A line of a judged file; said: None without a judge."""
    found = {"id": case.id, "response": case.proposed}
    found["em"] = metrics.exact_match(case.proposed, case.answers)
    found["f1"] = metrics.f1(case.proposed, case.answers)
    if said:
        found |= {"reply": said.reply, "verdict": metrics.verdict(said.reply), "p_yes": said.p_yes, "mass": said.mass}
    return found | ({"control": case.control} if case.control else {})


def rulings(answers: Sequence[Mapping[str, Any]]) -> list[dict]:
    """The records of a judged file without a judge."""
    return [record(case, None) for case in cases(answers, control=False)]


def header(answers: AnyPath, judge: str | None, digest: str | None, how: str, control: bool) -> dict:
    """The first line of a judged file: of which answers, and what decided the rulings."""
    asked = {"judge": judge, "digest": digest, "settings": {"how": how, "control": control} if judge else {}}
    return {"kind": KIND, **asked, "answers": answers.name, "sha256": hashlib.sha256(answers.read_bytes()).hexdigest()}


def records(path: AnyPath) -> list[dict]:
    """The header of a judged file and its records. Raises InputError for another kind of file, and one cut off."""
    return lines.read(path, KIND, "no file of rulings; trm lm judge writes one")
