"""The vote of several members: golden cases, and laws that hold for any; weights that are tuned."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_jax.errors import InputError
from trm_jax.solvers import ensemble
from trm_jax.tasks.arc.grids import ArcTask, Pair
from trm_jax.tasks.arc.predictions import Header, Line, Member, read_ballot, writing
from trm_jax.tasks.arc.vote import Ballot, Candidate


def array(rows) -> np.ndarray:
    return np.array([[int(cell) for cell in row] for row in rows], np.uint8)


CASES = json.loads((Path(__file__).parents[1] / "golden" / "ensemble" / "weighted_vote.json").read_text())


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: case["name"])
def test_golden_votes(case, tmp_path):
    """Through files, as members write them: S to 1e-9, which is what the golden values are given to."""
    voters = []
    for number, member in enumerate(case["members"]):
        kind = next((key for one in member["candidates"] for key in ("weight", "nll") if key in one), "rank")
        path = tmp_path / f"{number}.jsonl"
        with writing(path, Header(Member(member["name"], "external"), "mine", "0" * 64, kind)) as writer:
            for one in member["candidates"]:
                writer.line(Line("t", 0, array(one["grid"]), weight=one.get("weight"), nll=one.get("nll")))
        voters.append(ensemble.Voter(member["name"], read_ballot(path)))
    tasks = {"t": task("t", ["0"])}
    ((_, members, placed),) = ensemble.Ensemble(tuple(voters), tuple(case["weights"]), missing=case["missing"]).vote(
        tasks
    )
    expected = case["expected"]
    assert ensemble.silences(members, case["weights"]) == expected["missing_members"]
    assert [one.grid.tolist() for one in placed] == [array(one["grid"]).tolist() for one in expected["scores"]]
    assert [one.score for one in placed] == pytest.approx([one["S"] for one in expected["scores"]], abs=1e-9)
    assert [len(one.members) for one in placed] == [one["members"] for one in expected["scores"]]
    assert [one.best_rank for one in placed] == [one["best_rank"] for one in expected["scores"]]


def task(name: str, *answers) -> ArcTask:
    one = Pair(array(["0"]), array(["1"]))
    return ArcTask(name, (one,), tuple(Pair(array(["0"]), array(rows)) for rows in answers))


# Few grids and few weights, so that ties of every kind come about.
CANDIDATES = st.dictionaries(
    st.sampled_from(["1", "2", "3", "12", "21"]), st.sampled_from([0, 1, 2, 3, 0.1, 0.7]), max_size=4
)
MEMBERS = st.lists(st.tuples(CANDIDATES, st.sampled_from([0, 1, 2, 0.1, 0.3])), min_size=1, max_size=4).filter(
    lambda members: any(weight for _, weight in members)
)


def ballot_of(said: dict) -> Ballot:
    """Votes on the first test input of t: {row: weight}."""
    ballot = Ballot()
    for place, (row, weight) in enumerate(said.items()):
        ballot.add("t", 0, array([row]), place, weight=weight)
    return ballot


def candidates(said: dict) -> list[Candidate]:
    return ballot_of(said).of("t").get(0, [])


def told(placed) -> list:
    return [(one.grid.tolist(), round(one.score, 9), len(one.members), one.best_rank) for one in placed]


@settings(max_examples=150)
@given(MEMBERS, st.randoms(use_true_random=False), st.sampled_from([*ensemble.RULES]))
def test_the_order_of_members_changes_nothing(members, random, mode):
    shuffled = random.sample(members, len(members))
    rule = ensemble.RULES[mode]
    one, other = (
        rule(("t", 0), [candidates(said) for said, _ in some], [weight for _, weight in some])
        for some in (members, shuffled)
    )
    assert told(one) == told(other)


@settings(max_examples=100)
@given(MEMBERS, st.integers(1, 3), st.sampled_from([0.5, 3, 7]))
def test_shares_and_absent_members(members, silent, factor):
    """S adds up to 1; members that are silent or weigh nothing, and a common factor, change nothing; what counts a
    silent member as zero changes S by one factor and no order."""
    said, weights = [candidates(one) for one, _ in members], [weight for _, weight in members]
    placed = ensemble.weighted(said, weights)
    assert not placed or math.fsum(one.score for one in placed) == pytest.approx(1, abs=1e-12)
    more = ensemble.weighted(
        [*said, *[[]] * silent, candidates({"9": 1})], [*(factor * one for one in weights), *[1] * silent, 0]
    )
    assert told(more) == told(placed)
    ballots = tuple(ensemble.Voter(str(n), ballot_of(one)) for n, (one, _) in enumerate(members))
    for _, _, zero in ensemble.Ensemble(ballots, tuple(weights), missing="zero").vote({"t": task("t", ["0"])}):
        assert [one.grid.tolist() for one in zero] == [one.grid.tolist() for one in placed]
        spoken = sum(weight for one, weight in zip(said, weights, strict=True) if any(c.weight for c in one))
        share = spoken / sum(weights)
        assert [one.score for one in zero] == pytest.approx([share * one.score for one in placed], abs=1e-12)


@settings(max_examples=100)
@given(st.lists(CANDIDATES, min_size=3, max_size=3))
def test_one_weight_is_that_member(members):
    said = [candidates(one) for one in members]
    assert told(ensemble.weighted(said, [1, 0, 0])) == told(ensemble.weighted(said[:1], [1]))
    assert [one.score for one in ensemble.weighted(said, [1, 0, 0])] == pytest.approx(
        sorted((weight / sum(members[0].values()) for weight in members[0].values()), reverse=True)
        if any(members[0].values())
        else []
    )


def test_q_decides_between_equals_of_a_member():
    """As in the member's own ranking; what it has as equals in both shares a rank."""
    ballot = Ballot()
    for place, (row, q) in enumerate([("1", 0.2), ("2", 0.9), ("3", 0.2)]):
        ballot.add("t", 0, array([row]), place, q)
    placed = ensemble.weighted([ballot.of("t")[0]], [1])
    assert [(one.grid.item(), one.best_rank) for one in placed] == [(2, 1), (1, 2), (3, 2)]


def test_what_is_tiny_in_s_goes_by_rank():
    """S of all but the first are equal to 9 decimals; the member's own order remains, as for one member alone."""
    placed = ensemble.weighted([candidates({"4": 1, "1": 1e-14, "3": 1e-12, "2": 1e-13})], [1])
    assert [one.grid.item() for one in placed] == [4, 3, 2, 1]


def test_the_last_digits_of_sums_decide_nothing():
    """0.1 + 0.2 is 0.3: both grids are first, and the smaller one stands before the other. What is larger is so,
    though S is equal to nine decimals."""
    ballot = Ballot()
    for place, (row, weight) in enumerate([("5", 0.1), ("5", 0.2), ("1", 0.3)]):
        ballot.add("t", 0, array([row]), place, weight=weight)
    placed = ensemble.weighted([ballot.of("t")[0]], [1])
    assert [(one.grid.item(), one.best_rank) for one in placed] == [(1, 1), (5, 1)]
    members = [candidates({row: 1}) for row in "912"]
    assert [one.grid.item() for one in ensemble.weighted(members, [1, 1e-10, 2e-10])] == [9, 2, 1]


def test_counting():
    """Each member puts three grids forward, however sure it is; MARC's vote decides."""
    sure, others = candidates({"1": 1000, "2": 1}), candidates({"2": 3, "3": 2})
    placed = ensemble.counted([sure, others, others], [1, 1, 1])
    assert placed[0].grid.item() == 2 and [one.score for one in placed] == [1, 1 / 2, 1 / 3]
    assert told(placed) == told(ensemble.counted([candidates({"1": 3, "2": 2}), others, others], [5, 1, 1]))
    assert placed[0].members == (0, 1, 2) and placed[0].best_rank == 1
    assert [one.grid.item() for one in ensemble.counted([sure, others, others], [1, 0, 0])][:2] == [1, 2]
    assert ensemble.counted([[], []], [1, 1]) == []


def test_tiny_likelihoods_are_compared(tmp_path):
    """exp(-2000) is 0 in float64; the ratio of two such is not."""
    with writing(tmp_path / "a.jsonl", Header(Member("a", "external"), "mine", "0" * 64, "nll")) as writer:
        for row, nll in (("1", 2001.0), ("2", 2000.0)):
            writer.line(Line("t", 0, array([row]), nll=nll))
    placed = ensemble.weighted([read_ballot(tmp_path / "a.jsonl").of("t")[0]], [1])
    assert [one.score for one in placed] == pytest.approx([1 / (1 + math.exp(-1)), 1 / (1 + math.exp(1))])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0], "1 weights for 2 members"),
        ([1.0, -0.5], "the weight of b is -0.5"),
        ([math.nan, 1.0], "the weight of a is nan"),
        ([1.0, math.inf], "the weight of b is inf"),
        ([0.0, 0.0], "all weights are 0"),
    ],
)
def test_weights_that_are_wrong(weights, message):
    voters = (ensemble.Voter("a", Ballot()), ensemble.Voter("b", Ballot()))
    with pytest.raises(InputError, match=message):
        ensemble.Ensemble(voters, tuple(weights))


def made(answers: dict, tasks: dict, weights: tuple) -> ensemble.Ensemble:
    """answers: {member: {task: {row: weight}}}."""
    voters = []
    for name, said in answers.items():
        ballot = Ballot()
        for key, found in said.items():
            for place, (row, weight) in enumerate(found.items()):
                ballot.add(key, 0, array([row]), place, weight=weight)
        voters.append(ensemble.Voter(name, ballot))
    return ensemble.Ensemble(tuple(voters), weights)


TASKS = {name: task(name, [row]) for name, row in (("t1", "1"), ("t2", "2"), ("t3", "3"), ("t4", "4"))}


def test_what_a_member_adds():
    """a solves t1 and t2, b solves t2 and t3; c has t4's answer in third place alone."""
    said = {
        "a": {"t1": {"1": 1}, "t2": {"2": 1}, "t3": {"8": 1}},
        "b": {"t1": {"9": 1}, "t2": {"2": 1}, "t3": {"3": 1}},
        "c": {"t4": {"7": 3, "8": 2, "4": 1}},
    }
    found = ensemble.measure(made(said, TASKS, (0.6, 0.3, 0.1)), TASKS)
    assert [ensemble.pass2(one["scores"]) for one in found["members"]] == [0.5, 0.5, 0]
    assert [one["solved_by_no_other"] for one in found["members"]] == [1, 1, 0]
    assert [one["silent"] for one in found["members"]] == [1, 1, 3]
    assert [ensemble.pass2(one["ensemble_without"]) for one in found["members"]] == [0.5, 0.5, 0.75]
    assert ensemble.pass2(found["ensemble"]) == 0.75 and ensemble.pass2(found["oracle"]) == 1
    assert found["ensemble"]["mean_over_pairs"]["pass@1"] == 0.5
    assert found["agreement"] == [[1, 1 / 3, None], [1 / 3, 1, None], [None, None, 1]]
    assert found["verdict"] == "gain: +0.2500 pass@2 over a, the best member" and found["unanswered"] == 0
    alone = ensemble.measure(made(said, TASKS, (1.0, 0.0, 0.0)), TASKS)
    assert alone["ensemble"] == alone["members"][0]["scores"] and alone["members"][0]["ensemble_without"] is None
    assert alone["verdict"].startswith("no gain: a alone has pass@2 0.5000, the ensemble 0.5000")


def test_answers_that_nobody_knows_are_voted_on_and_not_scored():
    asked = {name: ArcTask(name, one.train, (Pair(one.test[0].input, None),)) for name, one in TASKS.items()}
    found = ensemble.measure(made({"a": {"t1": {"1": 1}}}, asked, (1.0,)), asked)
    assert found["ensemble"] is None and found["verdict"] is None and found["unanswered"] == 3


def test_tuning_finds_who_is_right():
    """b is right alone where a has two other grids; the order of members changes no weight."""
    said = {"a": {name: {"8": 3, "9": 2} for name in TASKS}, "b": {name: {name[1]: 1} for name in TASKS}}
    weights = ensemble.tune(made(said, TASKS, (1.0, 1.0)), TASKS, ensemble.splits(2), lambda done: None)
    assert weights == (0.0, 1.0)
    said = {"b": said["b"], "a": said["a"]}
    assert ensemble.tune(made(said, TASKS, (1.0, 1.0)), TASKS, ensemble.splits(2), lambda done: None) == (1.0, 0.0)
    alike = {name: said["b"] for name in "abc"}
    weights = ensemble.tune(made(alike, TASKS, (1.0,) * 3), TASKS, ensemble.splits(3), lambda done: None)
    assert sorted(weights) == [0.3, 0.3, 0.4]
    assert len(ensemble.splits(3)) == 66 and len(ensemble.splits(1)) == 1 and len(ensemble.splits(9)) <= 1000
