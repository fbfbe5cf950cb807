"""How answers are scored: SQuAD's exact match and F1, a judge's reply, likelihoods of what was written."""

from __future__ import annotations

import math
import re
import string
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

CORRECT_F1 = 0.5  # from which F1 on an answer counts as correct
LARGEST_LOG = math.log(sys.float_info.max)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case without ASCII punctuation and the words a, an, the; single blanks. Source: SQuAD 1.1."""
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(answer: str, accepted: Iterable[str]) -> bool:
    """Whether an answer is one of those accepted, both normalised."""
    return normalised(answer) in map(normalised, accepted)


def f1(answer: str, accepted: Iterable[str]) -> float:
    """F1 over the bags of words of the accepted answer that fits best; without words only nothing fits nothing."""
    return max(_f1(normalised(answer).split(), normalised(one).split()) for one in accepted)


def _f1(words: list[str], others: list[str]) -> float:
    if not words or not others:
        return float(words == others)
    return 2 * (Counter(words) & Counter(others)).total() / (len(words) + len(others))


def verdict(reply: str) -> Literal["yes", "no", "unparsable"]:
    """What a judge's reply begins with, whatever case and punctuation."""
    found = re.match(r"\W*(yes|no)\b", reply, re.IGNORECASE)
    return found[1].lower() if found else "unparsable"


class Likelihood(NamedTuple):
    """Of a sequence of tokens, in nats; without a token it is not valid and has no mean."""

    nll: float
    probability: float
    mean_nll: float | None  # by its length
    perplexity: float | None

    @property
    def valid(self) -> bool:
        return self.mean_nll is not None


def likelihood(log_probs: Sequence[float]) -> Likelihood:
    """From the natural logarithm of each token's probability [T]."""
    nll = math.fsum(-x for x in log_probs)
    if not len(log_probs):
        return Likelihood(nll, 1.0, None, None)
    mean = nll / len(log_probs)
    return Likelihood(nll, math.exp(-nll), mean, math.exp(mean) if mean < LARGEST_LOG else math.inf)
