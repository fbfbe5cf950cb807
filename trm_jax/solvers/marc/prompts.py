"""MARC's texts: a puzzle as a conversation, and which characters and tokens of it are learned.

A grid is written as NumPy prints it, a pair as `IN -> OUT#` and a new line. The system's message is an instruction and
all demonstrations, the user's `IN ->`, the answer `OUT#`.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trm_jax.errors import InputError
from trm_jax.language import chat
from trm_jax.language.tokenizer import Tokenizer
from trm_jax.solvers import grid_text
from trm_jax.solvers.marc.puzzles import Puzzle
from trm_jax.tasks.arc.grids import SIDE

INSTRUCTION = (
    "Each line below shows a grid of digits and, behind the arrow, what one hidden rule makes of it. "
    "Find the rule and apply it to the last grid. Write the grid that comes out, then #."
)
LOSSES = ("after_first", "last", "all")
Span = tuple[int, int]  # half open


@dataclass(frozen=True)
class Conversation:
    """A puzzle as text. answer: empty where it is asked for. outputs: where those of the demonstrations stand in
    `system`, each from the character behind its arrow to the end of its line."""

    system: str
    user: str
    answer: str
    outputs: tuple[Span, ...]

    def learned(self, loss: str) -> tuple[Span, ...]:
        """The spans of `system` that are learned besides the answer; loss: one of `LOSSES`."""
        return {"after_first": self.outputs[1:], "last": (), "all": self.outputs}[loss]


def conversation(puzzle: Puzzle, instruction: str = INSTRUCTION) -> Conversation:
    """A puzzle as text."""
    text, outputs = f"{instruction.strip()}\n".lstrip(), []
    for pair in puzzle.demonstrations:
        text += f"{grid_text.write(pair.input)} ->"
        begin = len(text)
        text += f" {grid_text.write(pair.output)}#\n"
        outputs.append((begin, len(text)))
    system = text.strip()  # as chat templates do
    outputs = [(begin, min(end, len(system))) for begin, end in outputs]
    answer = "" if puzzle.asked.output is None else f"{grid_text.write(puzzle.asked.output)}#"
    return Conversation(system, f"{grid_text.write(puzzle.asked.input)} ->", answer, tuple(outputs))


def parse_answer(text: str) -> np.ndarray | None:
    """The grid [H, W] uint8 of an answer, which goes to its first # or to its end; None where that is none."""
    return grid_text.read(text.partition("#")[0])


_LONGEST = len(grid_text.write(np.zeros((SIDE, SIDE), np.uint8)))


def settled(text: str) -> bool:
    """Whether nothing that may follow changes what `parse_answer` makes of a text: it has a #, or can be no grid."""
    return len(text.strip()) > _LONGEST or bool(re.search(r"[^\[\] \n0-9]", text))


class Format:
    """Conversations as ids: by a model's chat template, or, where there is none, a line after the other."""

    def __init__(self, words: Tokenizer, instruction: str = INSTRUCTION):
        """Raises InputError where the template or the tokenizer cannot write such a conversation."""
        grid_text.require_digits(words)
        self._words, self._instruction = words, instruction
        *self._around, begin, behind = self._pieces()
        # A space goes with the token behind it, so that it is the answer's.
        self._begin = begin.rstrip(" ")
        self._lead = begin[len(self._begin) :]
        special = re.compile("|".join(map(re.escape, sorted(words.special, key=len, reverse=True))) or r"(?!)")
        found = special.search(behind)
        if not found:
            raise InputError("no special token ends an answer, in the chat template or as eos_token; name one")
        self._behind = behind[: found.end()]
        self.end: int = words.special[found[0]]  # the token that ends an answer

    def _pieces(self) -> list[str]:
        """What stands around the three messages."""
        named, marks = self._words.named, ("\ue000", "\ue001", "\ue002")
        if not self._words.templates:
            return [named.get("bos_token", ""), "\n", " ", named.get("eos_token", "")]
        roles = zip(("system", "user", "assistant"), marks, strict=True)
        messages = [{"role": role, "content": mark} for role, mark in roles]
        # Some templates write the day, and the same command must read the same text tomorrow.
        text = chat.render(self._words, messages, add_generation_prompt=False, date_string="26 Jul 2024")
        pieces = re.split("|".join(marks), text)
        if re.findall("|".join(marks), text) != list(marks):
            raise InputError("the chat template does not write messages of system, user and assistant in turn")
        return pieces

    def _ahead(self, said: Conversation) -> str:
        before, middle = self._around
        return f"{before}{said.system}{middle}{said.user}{self._begin}"

    def question(self, puzzle: Puzzle) -> np.ndarray:
        """The ids [T] int32 of a puzzle up to where the answer begins."""
        ahead = self._ahead(conversation(puzzle, self._instruction))
        # Cut as they are where an answer follows; else the last of them could be others.
        ids, starts = self._words.encode_placed(f"{ahead}{self._lead}[[")
        return np.array(ids[: bisect.bisect_left(starts, len(ahead))], np.int32)

    def lesson(self, puzzle: Puzzle, loss: str = "after_first") -> tuple[np.ndarray, np.ndarray]:
        """(ids [T] int32 of a puzzle with its answer, which of them are learned [T] bool).

        Learned are tokens whose first character lies in a span that is, and the one that ends the answer.
        """
        said = conversation(puzzle, self._instruction)
        ahead, shift = self._ahead(said), len(self._around[0])
        whole = f"{ahead}{self._lead}{said.answer}{self._behind}"
        spans = [(begin + shift, end + shift) for begin, end in said.learned(loss)]
        ids, starts = self._words.encode_placed(whole)
        return np.array(ids, np.int32), learned_tokens(starts, [*spans, (len(ahead), len(whole))])


def learned_tokens(starts: Iterable[int], spans: Sequence[Span]) -> np.ndarray:
    """[T] bool: whether each token's first character lies in one of the spans, which come in order and apart."""
    begins = [begin for begin, _ in spans]
    places = ((start, bisect.bisect_right(begins, start) - 1) for start in starts)
    return np.array([place >= 0 and start < spans[place][1] for start, place in places], bool)
