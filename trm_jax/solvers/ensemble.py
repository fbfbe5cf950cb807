"""Ensembles: several members' candidates for each test pair become one ranking, and scores say what it is worth.

S(g) = sum over members m of w_m p_m(g), where p_m are a member's weights divided by their sum and w the weights of the
members that speak, divided by theirs. Ties, of S rounded to 9 decimals, do not depend on the order of the members: more
members for a grid, its better rank with one of them, its larger single contribution, fewer rows, fewer columns, smaller
cells. The rule and the file are ours: no public code has them.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from trm_jax.errors import InputError
from trm_jax.solvers.marc import vote as marc
from trm_jax.solvers.nvarc import select
from trm_jax.tasks.arc.files import Tasks
from trm_jax.tasks.arc.vote import Ballot, Candidate, Key, Scores, score, unknown

_DECIMALS = 9
_FORWARD = 3  # grids that a member puts forward where they are counted
_SPLITS = 1000  # weights that are tried, about


@dataclass(frozen=True, eq=False)
class Placed:
    """A grid and where it stands in a vote."""

    grid: np.ndarray  # [H, W] uint8
    score: float  # S
    members: tuple[int, ...]  # that name it
    best_rank: int  # with one of them, from 1; what a member has as equals share a rank


@dataclass(frozen=True)
class Voter:
    """A member of an ensemble."""

    name: str
    ballot: Ballot


# How a test pair is decided: (which one, candidates of each member, weights) -> grids, best first.
Rule = Callable[[Key, Sequence[Sequence[Candidate]], Sequence[float]], list[Placed]]


def check_weights(weights: Sequence[float], names: Sequence[str]) -> None:
    """Raise InputError unless there is a weight for each member, from 0 on, and one above it."""
    if len(weights) != len(names):
        raise InputError(f"{len(weights)} weights for {len(names)} members; give one each, or none")
    for name, weight in zip(names, weights, strict=True):
        if not 0 <= weight <= 1e300:
            raise InputError(f"the weight of {name} is {weight:g}; give a number from 0 to 1e300")
    if not any(weights):
        raise InputError("all weights are 0; give a member that is to count a weight above it")


def _divided(weights: Sequence[float]) -> list[float]:
    total = math.fsum(weights)
    return [weight / total for weight in weights]


def _speaks(candidates: Iterable[Candidate]) -> bool:
    return any(one.weight for one in candidates)


def weighted(members: Sequence[Sequence[Candidate]], weights: Sequence[float]) -> list[Placed]:
    """The weighted vote on a test pair. Members of weight 0, and those whose candidates all weigh 0, are absent."""
    speaking = [number for number, weight in enumerate(weights) if weight and _speaks(members[number])]
    if not speaking:
        return []
    grids: dict[tuple, np.ndarray] = {}
    said: dict[tuple, list[tuple[int, int, float]]] = {}  # member, rank with it, contribution
    for number, weight in zip(speaking, _divided([weights[number] for number in speaking]), strict=True):
        candidates = members[number]
        shares = _divided([one.weight for one in candidates])
        marks = [(_near(one.weight), _near(one.q)) for one in candidates]  # a rank parts what is tiny in S
        ranks: dict[tuple, int] = {}
        for place, mark in enumerate(sorted(marks, reverse=True), 1):
            ranks.setdefault(mark, place)
        for one, share, mark in zip(candidates, shares, marks, strict=True):
            identity = _identity(one.grid)
            grids[identity] = one.grid
            said.setdefault(identity, []).append((number, ranks[mark], weight * share))

    def order(identity: tuple) -> tuple:
        names, ranks, parts = zip(*said[identity], strict=True)
        return (-round(math.fsum(parts), _DECIMALS), -len(names), min(ranks), -_near(max(parts)), *identity)

    return [
        Placed(grids[identity], math.fsum(part for *_, part in said[identity]), names, min(ranks))
        for identity in sorted(said, key=order)
        for names, ranks, _ in [tuple(zip(*said[identity], strict=True))]
    ]


def _near(value: float) -> float:
    """A number without its last digits: sums in another order are equal."""
    return float(f"{value:.12g}")


def _identity(grid: np.ndarray) -> tuple:
    return *grid.shape, grid.tobytes()


def counted(members: Sequence[Sequence[Candidate]], weights: Sequence[float]) -> list[Placed]:
    """MARC's hierarchical vote with a member in place of a view: each puts its three best grids forward, with 3, 2 and
    1 votes; weights count as 0 or not. Its order is S, as 1 / place. Rows of several grids may make up one more.
    """
    outputs, named = [], {}
    for number, weight in enumerate(weights):
        alone = weighted([members[number]], [weight])
        for one in alone:
            named.setdefault(_identity(one.grid), []).append((number, one.best_rank))
        for votes, one in zip(range(_FORWARD, 0, -1), alone, strict=False):
            outputs += [(str(number), one.grid)] * votes
    grids = {_identity(grid): grid for grid in marc.vote(outputs)}
    placed = []
    for place, (identity, grid) in enumerate(grids.items(), 1):
        said = named.get(identity, [])
        placed.append(Placed(grid, 1 / place, tuple(n for n, _ in said), min((rank for _, rank in said), default=0)))
    return placed


def rescored(costs: Mapping[Key, Sequence[select.Candidate]]) -> Rule:
    """NVARC's order of the grids that a language model has scored: how many members name one, less its mean cost; a
    test pair of which none is scored is decided by the weighted vote. S are shares by exp(score)."""

    def rule(key: Key, members: Sequence[Sequence[Candidate]], weights: Sequence[float]) -> list[Placed]:
        placed = {_identity(one.grid): one for one in weighted(members, weights)}
        found = [(placed[_identity(one.grid)], one) for one in costs.get(key, ()) if _identity(one.grid) in placed]
        if not found:
            return [*placed.values()]
        # Of the finds their number alone counts.
        ranked = select.rank([dataclasses.replace(one, finds=[0.0] * len(there.members)) for there, one in found])
        shares = _divided([math.exp(value - ranked[0][0]) for value, _ in ranked])
        return [
            dataclasses.replace(placed[_identity(one.grid)], score=share)
            for share, (_, one) in zip(shares, ranked, strict=True)
        ]

    return rule


RULES: Mapping[str, Rule] = {
    "weighted": lambda key, members, weights: weighted(members, weights),
    "count": lambda key, members, weights: counted(members, weights),
}


@dataclass(frozen=True)
class Ensemble:
    """Members, their weights, and what is done about one that says nothing of a test pair.

    missing: "renormalise" shares its weight among the others, "zero" lets S be that much smaller, which changes no
    order, "error" refuses.
    """

    voters: tuple[Voter, ...]
    weights: tuple[float, ...]
    rule: Rule = RULES["weighted"]
    missing: str = "renormalise"

    def __post_init__(self):
        check_weights(self.weights, [one.name for one in self.voters])

    def vote(self, tasks: Tasks) -> Iterator[tuple[Key, list[list[Candidate]], list[Placed]]]:
        """(test pair, candidates of each member, what was decided) of all test pairs of `tasks`."""
        for task in tasks.values():
            said = [one.ballot.of(task.id) for one in self.voters]
            for test in range(len(task.test)):
                members = [tests.get(test, []) for tests in said]
                yield (task.id, test), members, self._decide((task.id, test), members)

    def _decide(self, key: Key, members: list[list[Candidate]]) -> list[Placed]:
        silent = silences(members, self.weights)
        if silent and self.missing == "error":
            name = self.voters[silent[0]].name
            raise InputError(f"{name} says nothing of task {key[0]}, test {key[1]}; --missing renormalise goes on")
        placed = self.rule(key, members, self.weights)
        if silent and self.missing == "zero":
            spoken = 1 - math.fsum(_divided(self.weights)[number] for number in silent)
            return [dataclasses.replace(one, score=spoken * one.score) for one in placed]
        return placed


def silences(members: Sequence[Sequence[Candidate]], weights: Sequence[float]) -> list[int]:
    """The members that would count and say nothing."""
    return [number for number, weight in enumerate(weights) if weight and not _speaks(members[number])]


def measure(ensemble: Ensemble, tasks: Tasks) -> dict:
    """What members, ensemble and oracle score on `tasks`, how far members agree, and what each adds: plain values.

    Scores are None where an answer is not known. A member by itself ranks its grids by the rule of a vote of one.
    """
    voters, weights = ensemble.voters, ensemble.weights
    names = [one.name for one in voters]
    known = all(unknown(task) is None for task in tasks.values())
    alone: list[dict[Key, list[np.ndarray]]] = [{} for _ in voters]
    without: list[dict[Key, list[np.ndarray]]] = [{} for _ in voters]
    pools: list[dict[Key, list[np.ndarray]]] = [{} for _ in voters]
    together, every, missing, empty = {}, {}, [0] * len(voters), 0
    for key, members, placed in ensemble.vote(tasks):
        empty += not placed
        together[key] = [one.grid for one in placed[:2]]
        answer = tasks[key[0]].test[key[1]].output
        for number, candidates in enumerate(members):
            missing[number] += not _speaks(candidates)
            alone[number][key] = [one.grid for one in weighted([candidates], [1.0])[:2]]
            others = [weight if other != number else 0.0 for other, weight in enumerate(weights)]
            without[number][key] = [one.grid for one in ensemble.rule(key, members, others)[:2]]
            pools[number][key] = [one.grid for one in candidates if np.array_equal(one.grid, answer)]
        right = [pool[key] for number, pool in enumerate(pools) if weights[number]]
        every[key] = [grid for found in right for grid in found][:1]

    def scored(ranked: Mapping[Key, list[np.ndarray]]) -> dict | None:
        return _plain(score(ranked.items(), tasks)) if known else None

    def solved(ranked: Mapping[Key, list[np.ndarray]]) -> set[Key]:
        return {key for key, grids in ranked.items() if any(_right(grid, key, tasks) for grid in grids)}

    by_member = [solved(ranked) for ranked in alone]
    total = {"tasks": len(tasks), "pairs": len(together), "unanswered": empty}
    said = []
    for number, name in enumerate(names):
        others = set().union(*(one for other, one in enumerate(by_member) if other != number))
        said.append(
            {
                "name": name,
                "weight": weights[number],
                "silent": missing[number],
                "scores": scored(alone[number]),
                "any_candidate": scored(pools[number]),
                "solved_by_no_other": len(by_member[number] - others) if known else None,
                "ensemble_without": scored(without[number]) if any(weights[:number] + weights[number + 1 :]) else None,
            }
        )
    agreement = [[_agreement(one, other) for other in alone] for one in alone]
    found = {**total, "members": said, "ensemble": scored(together), "oracle": scored(every), "agreement": agreement}
    return {**found, "verdict": _verdict(found) if known else None}


def _right(grid: np.ndarray, key: Key, tasks: Tasks) -> bool:
    return np.array_equal(grid, tasks[key[0]].test[key[1]].output)


def _plain(found: Scores) -> dict:
    return {
        "mean_over_tasks": {f"pass@{k}": found.mean_over_tasks[k] for k in (1, 2)},
        "mean_over_pairs": {f"pass@{k}": found.mean_over_pairs[k] for k in (1, 2)},
        "all_pairs_right": {f"pass@{k}": found.all_pairs_right[k] for k in (1, 2)},
    }


def pass2(scores: Mapping) -> float:
    """ARC Prize's score."""
    return scores["mean_over_tasks"]["pass@2"]


def _agreement(one: Mapping[Key, list], other: Mapping[Key, list]) -> float | None:
    """The share of test pairs, of those that both answer, with the same first grid."""
    both = [(grids[0], other[key][0]) for key, grids in one.items() if grids and other[key]]
    return sum(np.array_equal(*pair) for pair in both) / len(both) if both else None


def _verdict(found: Mapping) -> str:
    best = max(found["members"], key=lambda one: pass2(one["scores"]))
    ours, theirs = pass2(found["ensemble"]), pass2(best["scores"])
    if ours > theirs:
        return f"gain: {ours - theirs:+.4f} pass@2 over {best['name']}, the best member"
    return f"no gain: {best['name']} alone has pass@2 {theirs:.4f}, the ensemble {ours:.4f}"


def splits(count: int) -> list[tuple[int, ...]]:
    """About a thousand weights of `count` members, as shares of their sums: tenths, or fewer parts for many members."""
    parts = next(n for n in itertools.count(10, -1) if n == 1 or math.comb(n + count - 1, count - 1) <= _SPLITS)
    return list(_compositions(parts, count))


def tune(
    ensemble: Ensemble, tasks: Tasks, tried: Sequence[tuple[int, ...]], tell: Callable[[int], None]
) -> tuple[float, ...]:
    """Those of the `splits` with the best pass@2 on `tasks`, whose answers are used, as weights.

    Ties: the larger sum of S of the right grids, then the nearest to equal weights. tell: how many were tried.
    """
    count = len(ensemble.voters)
    order = sorted(range(count), key=lambda number: ensemble.voters[number].name)  # so that ties go by no order
    pairs = [(key, members) for key, members, _ in ensemble.vote(tasks)]
    found = []
    for number, split in enumerate(tried, 1):
        weights = [0.0] * count
        for place, one in zip(order, split, strict=True):
            weights[place] = one / sum(split)
        ranked = {key: ensemble.rule(key, members, weights) for key, members in pairs}
        value = pass2(_plain(score(((key, [one.grid for one in some]) for key, some in ranked.items()), tasks)))
        sure = [one.score for key, some in ranked.items() for one in some if _right(one.grid, key, tasks)]
        distance = math.fsum((one - 1 / count) ** 2 for one in weights)
        found.append((-round(value, 9), -round(math.fsum(sure), 9), round(distance, 9), split, tuple(weights)))
        tell(number)
    return min(found)[-1]


def _compositions(total: int, count: int) -> Iterator[tuple[int, ...]]:
    """All ways to share `total` among `count`."""
    if count == 1:
        yield (total,)
        return
    for first in range(total + 1):
        for rest in _compositions(total - first, count - 1):
            yield first, *rest
