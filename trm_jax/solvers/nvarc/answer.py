"""Answering a test input with one model: search in several views, and a score of every candidate under others."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from trm_jax.errors import InputError
from trm_jax.settings import check, check_seed, number, option
from trm_jax.solvers import Question, generator
from trm_jax.solvers.nvarc import select, text
from trm_jax.solvers.nvarc.search import UNLIMITED, Scorer, Search


@dataclass(frozen=True)
class Settings:
    """What decides the answers besides the model and the recipe."""

    seed: int = 0
    permutations: int = number(16)  # of each of the eight symmetries, to train on; 0: no training
    limit: int = number(text.LIMIT, low=1)  # tokens of a training text, and of a prompt with its reply
    reply: int = number(text.REPLY, low=1)  # tokens of a reply
    probability: float = number(0.2, low=1e-4, below=1)  # completions above it are found
    views: int = number(2, low=1)  # of each symmetry, to search in
    scoring: int = number(1, low=1)  # of each, to score in
    selector: str = option("count_minus_mean_nll", *select.SELECTORS)
    middle: str = option("mean", *select.MIDDLES)  # of a candidate's costs under the scoring views
    budget: int = number(UNLIMITED)  # prefixes of a view that are asked what follows

    def __post_init__(self):
        check(self)
        check_seed("seed", self.seed)


@dataclass(frozen=True)
class Answer:
    """What is known of a test input."""

    ranked: list[tuple[float, select.Candidate]]  # (score, candidate), best first
    complete: bool  # no budget cut a search short
    greedy: bool  # the search found no grid: the likeliest reply of each view stands for it


class Answerer:
    """Search and scores with models of one shape, compiled once for each size of prompts."""

    def __init__(self, family, cfg, rows: int):
        """rows: prompts at a time."""
        self._search = Search(family, cfg, rows, text.END, text.REPLIES)
        self._score = Scorer(family, cfg, rows)

    def __call__(
        self,
        params,
        question: Question,
        test: int,
        how: Settings,
        others: Iterable[np.ndarray] = (),
        stop: Callable[[], bool] = lambda: False,
    ) -> Answer:
        """The answer to a test input, by its number. others: grids from elsewhere, which no view counts for, but which
        are scored alike. stop: as for `Search`."""
        searched, prompts = _asked(question, test, how, "search", how.views)
        asked = [{"inputs": tokens} for tokens in prompts]
        found = self._search(params, asked, how.probability, how.reply, how.budget, stop)
        candidates = select.finds(zip(searched, (one.completions for one in found), strict=True), others)
        greedy = not any(one.finds for one in candidates)
        if greedy:
            likeliest = self._search.greedy(params, asked, how.reply, stop)
            candidates = select.finds(zip(searched, (one.completions for one in likeliest), strict=True), others)
        candidates = self.scored(params, question, test, how, candidates)
        return Answer(select.rank(candidates, how.selector, how.middle), all(one.complete for one in found), greedy)

    def scored(
        self, params, question: Question, test: int, how: Settings, candidates: Sequence[select.Candidate]
    ) -> list[select.Candidate]:
        """Candidates for a test input with what they cost the model under the scoring views."""
        views, behind = _asked(question, test, how, "score", how.scoring)
        pairs = [
            (tokens, text.reply(view.apply(one.grid)))
            for one in candidates
            for tokens, view in zip(behind, views, strict=True)
        ]
        costs = self._score(params, *zip(*pairs, strict=True)).reshape(len(candidates), -1) if pairs else ()
        if not np.isfinite(costs).all():
            raise InputError("the model computes what is no number; take --dtype float32")
        return [dataclasses.replace(one, view_nll=nll.tolist()) for one, nll in zip(candidates, costs, strict=True)]


def _asked(
    question: Question, test: int, how: Settings, what: str, each: int
) -> tuple[list[text.View], list[np.ndarray]]:
    """The views of a test input whose prompts are short enough, and these. Raises InputError where none is."""
    asked, limit = question.inputs[test], how.limit - how.reply
    views = text.views(generator(how.seed, question.id, f"{what} {test}"), len(question.demonstrations), each)
    found = text.those_that_fit(lambda view: (view, text.prompt(question.demonstrations, asked, view, limit)), views)
    return [view for view, _ in found], [tokens for _, tokens in found]
