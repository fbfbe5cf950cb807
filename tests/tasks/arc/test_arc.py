"""ARC: encodings, augmentations, sampling and votes against the official ones; files as people bring them."""

import dataclasses
import gzip
import itertools
import json
import math
import random
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.special import expit

from trm_jax.data.puzzles import PuzzleAddressing
from trm_jax.errors import InputError
from trm_jax.tasks.arc import TASK, ArcConfig, augment, files, grids, pictures, predictions, submission, verify, vote
from trm_jax.tasks.arc.files import task_from
from trm_jax.tasks.arc.source import fits, load
from trm_jax.tasks.dihedral import INVERSE, dihedral


def made_task(seed: int, colors: int = 9, pairs: int = 3, side: int = 6) -> grids.ArcTask:
    draw = np.random.default_rng(seed)
    picked = np.concatenate([[0], draw.permutation(np.arange(1, 10))[:colors]])

    def grid():
        return draw.choice(picked, draw.integers(1, side + 1, 2)).astype(np.uint8)

    return grids.ArcTask(f"t{seed}", *(tuple(grids.Pair(grid(), grid()) for _ in range(n)) for n in (pairs, 1)))


def write_task(folder, task: grids.ArcTask) -> None:
    content = {
        side: [{"input": p.input.tolist(), "output": p.output.tolist()} for p in getattr(task, side)]
        for side in ("train", "test")
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{task.id}.json").write_text(json.dumps(content))


def test_encodings_are_the_official_ones(golden):
    cases, arrays = golden("encodings.json"), golden("encodings.npz")
    for number, offset, inputs, labels in zip(
        *(arrays[n] for n in ("case", "offsets", "inputs", "labels")), strict=True
    ):
        for side, tokens in (("input", inputs), ("output", labels)):
            grid = np.array(cases[number][side], np.uint8)
            np.testing.assert_array_equal(grids.encode(grid, *offset), tokens)
            if not offset.any():
                np.testing.assert_array_equal(grids.crop(tokens), grid)


@settings(max_examples=60)
@given(st.integers(0, 999), st.integers(0, 7), st.integers(10, 30))
def test_an_augmentation_is_undone(seed, symmetry, side):
    """put turns and recolours as `dihedral` of the recoloured grid; cropping and going back gives the grid."""
    draw = np.random.default_rng(seed)
    grid = draw.integers(0, 10, draw.integers(1, side + 1, 2)).astype(np.uint8)
    colors = np.concatenate([[0], draw.permutation(np.arange(1, 10))])
    tokens = np.empty(side * side, np.int32)
    grids.put(grid, *grid.shape, symmetry, colors, 0, 0, side, tokens)
    turned = dihedral(colors[grid].astype(np.uint8), symmetry)
    np.testing.assert_array_equal(tokens, grids.encode(turned, side=side))
    back = np.argsort(colors).astype(np.uint8)[dihedral(grids.crop(tokens), INVERSE[symmetry])]
    np.testing.assert_array_equal(back, grid)


def hashes(task: grids.ArcTask, count: int) -> list[str]:
    return [
        grids.puzzle_hash((dihedral(colors[p.input], int(k)), dihedral(colors[p.output], int(k))) for p in task.pairs)
        for k, colors in zip(*augment.augmentations(task, count, 0, 1), strict=True)
    ]


def test_augmentations_are_all_that_the_official_builder_can_find(golden, sets):
    """Six tasks with all their hashes, twenty with their numbers, and the sums over the 960 tasks of ARC-1."""
    places = {"training": "ARC-AGI-1/data/training", "evaluation": "ARC-AGI-1/data/evaluation",
              "concept": "ConceptARC/corpus"}  # fmt: skip
    tasks = {name: files.read_tasks(sets / place) for name, place in places.items()}
    known = golden("augmentations.json")
    for name, case in known["sets"].items():
        kind, task_id = name.split("/")
        found = hashes(tasks[kind][task_id], 1000)
        assert sorted(h[:16] for h in found) == case["hashes"] and found[0][:16] == case["original"]
    for name, case in known["counts"].items():
        kind, task_id = name.split("/")
        assert augment.orbit_size(tasks[kind][task_id]) == case["distinct"]
    for name, changes in (
        ("arc1", {}),
        ("arc2", {"train_sets": "training2,evaluation2,concept", "test_set": "evaluation2"}),
    ):
        train, test = load(ArcConfig(path=str(sets / "combined"), **changes))
        totals = known["totals"][name]
        assert train.info.groups == totals["tasks"]
        assert train.info.num_puzzle_ids == totals["enumerated_train_puzzles"] + 1
        assert int((np.diff(train.data.puzzles) * train.lengths).sum()) == totals["enumerated_train_examples"]
        assert len(test) == totals["enumerated_test_examples"]
        cfg = ArcConfig(**changes)
        assert TASK.info(cfg) == train.info and TASK.eval_size(cfg) == len(test), "known without the files"


@pytest.mark.parametrize(("seed", "colors"), [(0, 9), (1, 4), (2, 1)])
def test_augmentations_are_different_and_the_first_is_the_task(seed, colors):
    task = made_task(seed, colors)
    found = hashes(task, 200)
    assert len(set(found)) == len(found) == min(201, augment.orbit_size(task))
    assert found[0] == grids.puzzle_hash((p.input, p.output) for p in task.pairs)


def test_a_symmetric_task_has_fewer():
    """A grid of one colour, alike under all eight symmetries; by brute force."""
    square = np.full((3, 3), 4, np.uint8)
    task = grids.ArcTask("s", (grids.Pair(square, square),), (grids.Pair(square, square),))
    assert augment.orbit_size(task) == 9 == len(set(hashes(task, 1000)))
    task = made_task(3, colors=2, pairs=1, side=2)
    every = set()
    for k, new in itertools.product(range(8), itertools.permutations(range(1, 10), 2)):
        colors = np.zeros(10, np.uint8)
        colors[augment.present(task)] = new[: len(augment.present(task))]
        every.add(grids.puzzle_hash((dihedral(colors[p.input], k), dihedral(colors[p.output], k)) for p in task.pairs))
    assert augment.orbit_size(task) == len(every)


def slow_batches(seed, lengths, batch_size, steps, order_of, interval):
    """The official way: visit after visit, a batch at a time."""
    found, visit, ends = [], 0, (interval or 0) * len(lengths)
    while len(found) < steps:
        batch, first = [], visit
        while len(batch) < batch_size:
            if ends and visit > first and visit % ends == 0:
                batch, first = [], visit
            group = order_of(visit)
            batch += [(visit, group, place) for place in range(lengths[group])]
            visit += 1
        found.append(batch[:batch_size])
    return found


@pytest.mark.parametrize("interval", [None, 3])
@pytest.mark.parametrize("batch_size", [7, 40])
def test_batches_are_filled_puzzle_by_puzzle(interval, batch_size):
    from trm_jax.data.addressing import order_of

    lengths = np.array([3, 1, 5, 2, 4])
    ours = PuzzleAddressing(5, batch_size, lengths, interval)
    wanted = slow_batches(5, lengths, batch_size, 30, lambda v: order_of(5, v // 5, 5)[v % 5], interval)
    seen = {}
    for step in random.Random(0).sample(range(30), 30):  # in any order
        groups, variants, examples = ours.lookup(step, np.arange(batch_size), np.full(5, 9))
        assert groups.tolist() == [group for _, group, _ in wanted[step]]
        for (visit, group, _), variant, example in zip(wanted[step], variants, examples, strict=True):
            seen.setdefault((visit, group), []).append((variant, example))
        part = ours.lookup(step, np.array([2, 5]), np.full(5, 9))
        np.testing.assert_array_equal(part, np.stack([groups, variants, examples])[:, [2, 5]])
    for (_, group), drawn in seen.items():
        assert len({variant for variant, _ in drawn}) == 1, "a visit draws one puzzle"
        assert len({example for _, example in drawn}) == len(drawn) <= lengths[group], "and no example twice"


def test_the_sampler_loses_as_much_as_the_official_one(golden):
    """Batches in an interval, over 40 seeds: within the official range, and the mean by four standard errors."""
    known = golden("sampling.json")
    lengths = np.array(known["train"]["pairs_per_group"])
    for case in known["sampler"]:
        counts = []
        for seed in range(40):
            ours = PuzzleAddressing(seed, case["batch"], lengths, case["epochs_in_the_interval"])
            ends = case["epochs_in_the_interval"] * len(lengths)
            counts.append(sum(ours.start(step) < ends for step in range(case["upper_bound_batches"] + 1)))
        official = case["batches"]
        assert official["min"] - 1 <= min(counts) and max(counts) <= official["max"] + 1
        assert abs(np.mean(counts) - official["mean"]) < 4 * max(np.std(counts), 0.3) / 40**0.5 + 0.1


@pytest.fixture
def small(tmp_path):
    """Three tasks, of which one is tested."""
    for number in range(3):
        write_task(tmp_path / ("tested" if number == 2 else "others"), made_task(number))
    return ArcConfig(path=str(tmp_path), train_sets="others,tested", test_set="tested", augmentations=20, side=20)


def test_training_examples_are_augmented_pairs(small):
    train, test = load(small)
    assert train.info.num_puzzle_ids == 3 * 21 + 1 and train.lengths.tolist() == [4, 4, 3] and len(test) == 21
    shown = {step: train.batch(step, np.arange(16), seed=1, batch_size=16) for step in (0, 1, 9)}
    again = train.batch(9, np.array([3, 4]), seed=1, batch_size=16)
    np.testing.assert_array_equal(again["inputs"], shown[9]["inputs"][[3, 4]])
    at_zero = []
    for batch in shown.values():
        for inputs, labels, number in zip(batch["inputs"], batch["labels"], batch["puzzle_ids"], strict=True):
            group = int(np.searchsorted(train.data.puzzles, number - 1, side="right")) - 1
            task = list(train.data.tasks.values())[group]
            colors = train.data.colors[number - 1].astype(np.uint8)
            symmetry = int(train.data.symmetries[number - 1])
            top, left = np.argwhere(inputs.reshape(20, 20) > 1).min(0)
            at_zero.append(top == left == 0)
            seen = inputs, np.where(labels < 0, 0, labels)
            turned = [
                [dihedral(colors[g], symmetry) for g in (pair.input, pair.output)]
                for pair in task.pairs[: train.lengths[group]]
            ]
            made = (
                [grids.encode(grid, top, left, 20) for grid in pair]
                for pair in turned
                if all(top + g.shape[0] <= 20 and left + g.shape[1] <= 20 for g in pair)
            )
            assert any(all((a == b).all() for a, b in zip(seen, pair, strict=True)) for pair in made)
    assert any(at_zero) and not all(at_zero)


def test_a_run_says_which_test_pairs_it_is_trained_on(tmp_path, small):
    """A tested pair, turned, stands in another task: one line names it, for a score and for pairs as sequences."""
    assert load(small)[1].notes() == ()
    path = tmp_path / "tested" / "t2.json"
    content = json.loads(path.read_text())
    turned = {side: np.rot90(np.array(grid)).tolist() for side, grid in content["test"][0].items()}
    other = json.loads((tmp_path / "others" / "t0.json").read_text())
    other["train"].append(turned)
    (tmp_path / "others" / "t0.json").write_text(json.dumps(other))
    [said] = load(dataclasses.replace(small, seed=1))[1].notes()
    assert said.startswith("1 of 1 test pairs of tested are trained on, turned or recoloured (t2 test 0)")


def test_an_interval_that_fills_no_batch():
    with pytest.raises(InputError, match="2 epochs of 4 examples do not fill one batch of 9"):
        PuzzleAddressing(0, 9, np.array([3, 1]), 2)


def test_an_evaluation_of_some_examples_scores_the_tasks_that_it_came_to(tmp_path):
    for number in range(3):
        write_task(tmp_path / "all", made_task(number))
    cfg = ArcConfig(path=str(tmp_path), train_sets="all", test_set="all", augmentations=9, side=20)
    _, test = load(cfg)
    ballot, few = test.ballot(), np.arange(15)
    labels = test.rows(few)["labels"]
    ballot.add(few, np.where(labels < 0, 0, labels), np.zeros(15))
    assert ballot.scores()["tasks"] == 2 and ballot.scores()["pass@1"] == 1.0
    ballot.write(tmp_path / "p.jsonl", "me", "trm eval", {"checkpoints": [4]})
    head, lines = predictions.read(tmp_path / "p.jsonl")
    assert head.member.trained_on == ["all:demonstrations"]
    assert [(line.task, line.status) for line in lines if line.status] == [
        ("t0", "ok"), ("t1", "partial"), ("t2", "partial"),
    ]  # fmt: skip


def test_right_answers_are_right_and_do_not_depend_on_hosts(small):
    train, test = load(small)
    rows = test.rows(np.arange(len(test)))
    answers = np.where(rows["labels"] < 0, 0, rows["labels"])
    ballots = [test.ballot() for _ in range(2)]
    ballots[0].add(np.arange(len(test)), answers, np.zeros(len(test)))
    for part in np.array_split(np.random.default_rng(0).permutation(len(test)), 5):
        ballots[1].add(part, answers[part], np.zeros(len(part)))
    scores = ballots[0].scores()
    assert scores == ballots[1].scores() and all(value == 1.0 for name, value in scores.items() if name != "tasks")
    ((_, candidates),) = ballots[0].votes.ranked()
    assert len(candidates) == 1 and candidates[0].weight == 21


def official_ballot(golden, tasks, which, order) -> vote.Ballot:
    """The golden predictions, votes of several evaluations added."""
    arrays, known, ballot = golden("evaluator.npz"), golden("evaluator.json"), vote.Ballot()
    for number, row in itertools.product(range(len(which)), order):
        name, *how = known["identifiers"][arrays["puzzle_identifiers"][row]].split("|||")
        symmetry, colors = (int(how[0][1:]), np.array(list(map(int, how[1])))) if how else (0, np.arange(10))
        back = np.argsort(colors).astype(np.uint8)

        def undo(tokens, symmetry=symmetry, back=back):
            grid = grids.crop(tokens)
            return back[dihedral(grid, INVERSE[symmetry])] if grid.size else grid

        asked = undo(arrays["inputs"][row])
        test = next(n for n, pair in enumerate(tasks[name].test) if np.array_equal(pair.input, asked))
        answer, q = arrays["preds"][which[number]][row], arrays["q_halt_logits"][which[number]][row]
        ballot.add(name, test, undo(answer), position=number * 60 + row, q=expit(np.float64(q)))
    return ballot


@pytest.mark.parametrize(("scenario", "which"), [("one_evaluation", [0]), ("two_evaluations_added", [0, 1])])
@pytest.mark.parametrize("shuffled", [False, True])
def test_votes_scores_and_submission_are_the_official_ones(golden, scenario, which, shuffled):
    """In whatever order the rows come: the official score of two processes differs from that of one, ours does not."""
    known = golden("evaluator.json")
    tasks = {name: task_from("golden", name, task) for name, task in known["test_puzzles"].items()}
    order = random.Random(1).sample(range(60), 60) if shuffled else range(60)
    ranked = dict(official_ballot(golden, tasks, which, order).ranked())
    wanted = known["scenarios"][scenario]
    for key, ranking in wanted["ranking"].items():
        name, _, test = key.partition("/")
        ours = ranked[name, int(test)]
        assert [grids.grid_hash(one.grid)[:16] for one in ours] == [one["hash"] for one in ranking]
        assert [one.weight for one in ours] == [one["votes"] for one in ranking]
        assert [one.q for one in ours] == pytest.approx([one["q"] for one in ranking], rel=1e-12)
    only = {key: [one.grid for one in found] for key, found in ranked.items()}
    scores = vote.score(only.items(), tasks)
    for rule, values in wanted["scores"].items():
        assert {str(k): v for k, v in getattr(scores, rule).items()} == pytest.approx(values)
    assert submission.submission(only, tasks) == wanted["submission"]


def test_a_pair_without_predictions_has_an_entry_and_no_score(golden, tmp_path):
    known = golden("evaluator.json")
    tasks = {name: task_from("golden", name, task) for name, task in known["test_puzzles"].items()}
    ranked = {k: [c.grid for c in v] for k, v in official_ballot(golden, tasks, [0], range(60)).ranked()}
    gone = next(key for key in ranked if key[1] == 1)
    del ranked[gone]
    made = submission.submission(ranked, tasks)
    assert made[gone[0]][1] == {"attempt_1": [[0, 0], [0, 0]], "attempt_2": [[0, 0], [0, 0]]}
    assert sum(map(len, made.values())) == 10
    wanted = known["scenarios"]["one_pair_without_predictions"]["official"]
    ours = vote.score(ranked.items(), tasks)
    if next(iter(wanted)).startswith("ARC"):
        assert {f"ARC/pass@{k}": v for k, v in ours.mean_over_tasks.items()}.keys() == wanted.keys()
    submission.write_submission(tmp_path / "submission.json", made)
    again = submission.read_submission(tmp_path / "submission.json")
    assert all(np.array_equal(again[key][0], grids_[0]) for key, grids_ in ranked.items())


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_voting_is_the_obvious_rule(seed):
    """Against sums in a dictionary and one sort, whatever the order of the votes."""
    draw = random.Random(seed)
    pool = [np.array(g, np.uint8) for g in ([[1]], [[2]], [[1, 1]], [[0, 0], [0, 0]])] + [np.zeros((0, 0), np.uint8)]
    votes = [(n, draw.randrange(len(pool)), draw.choice([0.25, 0.5, 0.5, 1.0])) for n in range(draw.randrange(1, 12))]
    table = {}
    for position, which, q in votes:
        count, total, first = table.get(which, (0, 0.0, position))
        table[which] = count + 1, total + q, min(first, position)
    wanted = sorted(table, key=lambda w: (-table[w][0], -table[w][1] / table[w][0], table[w][2]))
    ballot = vote.Ballot()
    for position, which, q in draw.sample(votes, len(votes)):
        ballot.add("a", 0, pool[which], position, q)
    found = dict(ballot.ranked())["a", 0]
    assert [next(n for n, g in enumerate(pool) if np.array_equal(g, one.grid)) for one in found] == wanted


def header(kind="weight", **more) -> predictions.Header:
    return predictions.Header(predictions.Member("me", "external", **more), "mine", "0" * 64, kind)


def test_a_predictions_file_comes_back(tmp_path):
    path = tmp_path / "p.jsonl"
    lines = [
        predictions.Line("a", 0, np.array([[1, 2]], np.uint8), weight=2.0, q=0.5, view="t1"),
        predictions.Line("a", 1, np.array([[3]], np.uint8), weight=1.0),
        predictions.Line("a", status="ok", seconds=1.5),
    ]
    with predictions.writing(path, header(trained_on=("x:all",))) as writer:
        for line in lines:
            writer.line(line)
        writer.candidates(("b", 0), [vote.Candidate(np.zeros((0, 0), np.uint8), 3.0)])
    found, again = predictions.read(path)
    assert found == header(trained_on=["x:all"])
    for line, other in zip(lines, again, strict=True):
        assert {k: v for k, v in vars(line).items() if k != "grid"} == {
            k: v for k, v in vars(other).items() if k != "grid"
        }
        np.testing.assert_array_equal(line.grid, other.grid)


def test_the_example_of_the_format(shared):
    """The reference's own example, by rank of its probabilities."""
    found, lines = predictions.read(shared / "golden" / "ensemble" / "predictions.example.jsonl")
    assert found.score_kind == "nll" and len(list(lines)) == 5
    ranked = dict(predictions.ranked([shared / "golden" / "ensemble" / "predictions.example.jsonl"]))
    first, second = (one.weight for one in ranked["aaaaaaaa", 0])
    assert second / first == pytest.approx(math.exp(-2.6) / math.exp(-0.05))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("nothing", "line 2: not JSON"),
        ("[1]", "line 2: no JSON object"),
        ('{"task": "a/b", "test": 0, "grid": [[1]]}', "line 2: task is 'a/b'"),
        ('{"task": "a", "test": -1, "grid": [[1]]}', "line 2: test is -1; count from 0"),
        ('{"task": "a", "test": 0}', "line 2: a candidate needs task, test and grid"),
        ('{"task": "a", "test": 0, "grid": [[1, 2], [3]]}', "line 2, row 1: 1 cells where row 0 has 2"),
        ('{"task": "a", "test": 0, "grid": [[10]]}', "line 2, row 0, column 0: 10; a colour"),
        ('{"task": "a", "test": 0, "grid": [[true]]}', "line 2, row 0, column 0: True; a colour"),
        ('{"task": "a", "test": 0, "grid": [[1]], "weight": -1}', "line 2: weight is -1; write a number"),
        ('{"task": "a", "test": 0, "grid": [[1]], "weight": 1, "q": "0.9"}', "line 2: q is '0.9'; write a number"),
        ('{"task": "a", "test": 0, "grid": null}', "line 2: grid is null"),
        ('{"task": "a", "test": 0, "grid": [[1]], "vote": 1}', "line 2: ['vote'] does not belong to a candidate"),
        ('{"task": "a", "test": 0, "grid": [[1]], "weight": 1e400}', "line 2: weight is inf; write a number from 0 on"),
        ('{"task": "a", "test": 0, "grid": [[1]], "nll": 1}', "line 2: a candidate without weight, which counts here"),
        ('{"task": "a", "test": 0, "grid": [[1]], "weight": 1, "q": null}', "line 2: q is null; leave it out"),
        ('{"task": "a", "test": 0, "grid": [[1]], "weight": 1, "view": 5}', "line 2: view is 5; write a text"),
        ('{"task": "a", "test": 0, "grid": [[1]], "weight": 1, "view_nll": [NaN]}', "line 2: view_nll is no list of"),
        ('{"task": "a", "status": "good"}', "line 2: status is 'good'; one of ok"),
        ('{"task": "a", "status": "ok", "seconds": "x"}', "line 2: seconds is 'x'; write a number"),
        ('{"task": "a", "status": "ok", "reason": 5}', "line 2: reason is 5; write a text"),
    ],
)
def test_lines_that_are_wrong(tmp_path, line, message):
    path = tmp_path / "p.jsonl"
    with predictions.writing(path, header()):
        pass
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(InputError) as caught:
        list(predictions.read(path)[1])
    assert f"{path} {message}" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda said: said | {"made": 1}, "['made'] does not belong to a header"),
        (lambda said: said | {"data": said["data"] | {"more": 1}}, "data needs a name and a sha256 alone"),
        (lambda said: said | {"data": said["data"] | {"sha256": 0}}, "data needs a name and a sha256 alone"),
        (
            lambda said: said | {"member": said["member"] | {"command": 5}},
            "the member's command and weights_sha256 are",
        ),
    ],
)
def test_headers_that_are_wrong(tmp_path, change, message):
    path = tmp_path / "p.jsonl"
    with predictions.writing(path, header()):
        pass
    path.write_text(json.dumps(change(json.loads(path.read_text()))) + "\n")
    with pytest.raises(InputError, match=re.escape(f"{path} line 1: {message}")):
        predictions.read(path)


def test_a_line_that_is_no_text_is_numbered(tmp_path):
    path = tmp_path / "p.jsonl"
    with predictions.writing(path, header()):
        pass
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes() + b"\n\xff\xfe\n")
    with pytest.raises(InputError, match="line 3: not JSON .*0xff"):
        list(predictions.read(path)[1])


@pytest.mark.parametrize(
    ("folder", "message"),
    [
        ("01_list_of_pairs", "is a list of 5 pairs, no task (RE-ARC?)"),
        ("03_uneven_rows", "train 1, input, row 2: 2 cells where row 0 has 3"),
        ("04_colours_10_and_minus_1", "train 0, output, row 1, column 1: 10; a colour is a whole number from 0 to 9"),
    ],
)
def test_awkward_files_are_refused(shared, folder, message):
    with pytest.raises(InputError) as caught:
        files.read_tasks(shared / "data" / "awkward_arc" / folder)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_awkward_files_are_read(shared, sets):
    awkward, training = shared / "data" / "awkward_arc", files.read_tasks(sets / "ARC-AGI-1" / "data" / "training")

    def same(task, other):
        pairs = [(p.input, p.output) for p in task.pairs], [(p.input, p.output) for p in other.pairs]
        assert all(np.array_equal(a, b) for x, y in zip(*pairs, strict=True) for a, b in zip(x, y, strict=True))

    for name, task in files.read_tasks(awkward / "05_bom_and_crlf").items():
        same(task, training[name])
    kaggle = files.read_tasks(awkward / "02_kaggle_split")
    assert len(kaggle["27a28665"].test) == 3
    for name, task in kaggle.items():
        same(task, training[name])
    assert len(files.read_tasks(awkward / "06_nested_folder")) == 3
    missing = files.read_tasks(awkward / "07_test_outputs_missing")
    assert [pair.output for pair in missing["bbb1b8b6"].test] == [None, None]
    with pytest.raises(InputError, match="task bbb1b8b6, test 0 has no output; a score needs the answers"):
        vote.score([], missing)
    assert len(submission.submission({}, missing)["bbb1b8b6"]) == 2


GOOD = {"train": [{"input": [[1]], "output": [[2]]}], "test": [{"input": [[1]], "output": [[2]]}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is not JSON in UTF-8"),
        (json.dumps({**GOOD, "train": []}), "train is empty"),
        (json.dumps({**GOOD, "test": []}), "test is empty"),
        (json.dumps({**GOOD, "test": [{"output": [[1]]}]}), "test is no list of pairs with an input"),
        (json.dumps({**GOOD, "train": [{"input": [[1]]}]}), "train 0: no output; a demonstration needs one"),
        (json.dumps({**GOOD, "train": [{"input": "11", "output": [[1]]}]}), "train 0, input: no list of rows"),
        (json.dumps({**GOOD, "test": [{"input": [[1]] * 31}]}), "31 rows of up to 1 cells"),
        (json.dumps({**GOOD, "test": [{"input": [[1.0]]}]}), "row 0, column 0: 1.0; a colour"),
        ('{"train": [], "train": []}', "'train' stands there twice"),
        (json.dumps([1, 2]), "is a list of 2 pairs, no task"),
    ],
)
def test_tasks_that_are_wrong(tmp_path, content, message):
    (tmp_path / "a.json").write_text(content)
    with pytest.raises(InputError) as caught:
        files.read_tasks(tmp_path / "a.json")
    assert message in str(caught.value) and str(tmp_path / "a.json") in str(caught.value)


def test_sets_that_are_wrong(tmp_path):
    write_task(tmp_path / "one", made_task(0))
    write_task(tmp_path / "two", made_task(0))
    for changes, message in (
        ({"path": ""}, "data.path is empty"),
        ({"train_sets": "three"}, "has neither three nor arc-agi_three_challenges.json"),
        ({"train_sets": "one,two"}, "task t0 stands in two and in another set"),
        ({"train_sets": "one", "test_set": "two"}, "data.test_set=two is none of data.train_sets=one"),
        ({"train_sets": "one", "test_set": "one", "side": 3}, "cells long and data.side=3"),
        ({"train_sets": "one,one"}, "each once"),
        ({"most_tokens": 5}, "no task of one has pairs of at most data.most_tokens=5; raise it"),
    ):
        with pytest.raises(InputError) as caught:
            load(ArcConfig(**{"path": str(tmp_path), "train_sets": "one", "test_set": "one", **changes}))
        assert message in str(caught.value)
    with gzip.open(tmp_path / "g.json.gz", "wt") as file:
        json.dump({"a": GOOD}, file)
    assert list(files.read_tasks(tmp_path / "g.json.gz")) == ["a"]


def test_tasks_of_short_pairs(sets):
    """As the ARC transformer writes a pair, lying or standing; the 62 of them hold no grid longer than 15."""
    training = files.read_tasks(sets / "ARC-AGI-1" / "data" / "training")
    short = [task for task in training.values() if fits(task, 80)]
    assert len(short) == 62
    assert max(max(g.shape) for task in short for p in task.pairs for g in (p.input, p.output)) == 15


def test_test_pairs_that_are_trained_on(sets):
    """What is known of the public sets: a task in both, one up to symmetry, seven images of demonstrations."""
    data = sets / "ARC-AGI-1" / "data"
    found = list(verify.overlaps(files.read_tasks(data / "evaluation"), [files.read_tasks(data / "training")]))
    own = {one.task for one in found if one.task == one.other}
    assert own == set("00576224 3979b1a8 66e6c45b 94414823 992798f6 ca8de6ea f3e62deb".split())
    assert {(one.task, one.other, one.exact) for one in found if one.task != one.other} >= {
        ("070dd51e", "40853293", True), ("50a16a69", "caa06a1f", False),
    }  # fmt: skip


@given(*(st.lists(st.integers(0, 3), min_size=4, max_size=4) for _ in range(2)), st.permutations(range(1, 10)))
def test_pairs_have_one_form_where_a_symmetry_and_a_recolouring_carry_one_to_the_other(cells, others, colours):
    def pair(cells):
        return grids.Pair(np.array(cells[:3], np.uint8)[None], np.array(cells, np.uint8).reshape(2, 2))

    def carried(number: int) -> bool:
        both = {(0, 0)} | {
            cell
            for a, b in ((one.input, other.input), (one.output, other.output))
            for cell in zip(dihedral(a, number).ravel().tolist(), b.ravel().tolist(), strict=True)
        }
        shaped = dihedral(one.input, number).shape == other.input.shape
        return shaped and len({a for a, _ in both}) == len(both) == len({b for _, b in both})

    one, other = pair(cells), pair(others)
    assert (augment.canonical(one) == augment.canonical(other)) == any(map(carried, range(8)))
    new = np.array([0, *colours], np.uint8)
    for number in range(8):
        image = grids.Pair(*(dihedral(new[grid], number) for grid in (one.input, one.output)))
        assert augment.canonical(image) == augment.canonical(one) and verify.key(image) == verify.key(one)


def test_pictures_and_text(tmp_path):
    """One cell of each of ten colours; the second answer is the empty grid."""
    grid = np.arange(10, dtype=np.uint8).reshape(2, 5)
    inputs, cfg = grids.encode(grid, side=6), ArcConfig(side=6)
    assert TASK.show(cfg, inputs, inputs) == "01234   01234\n56789   56789"
    assert TASK.show(cfg, inputs, np.zeros(36, np.int32)).splitlines()[0] == "01234   (empty)"
    assert "\x1b[48;5;196m" in TASK.show(cfg, inputs, inputs, color=True)
    assert TASK.check(cfg, inputs, inputs) is None and TASK.check(cfg, inputs, np.zeros(36, np.int32))
    assert TASK.line(cfg, inputs) == "01234|56789"
    TASK.png(cfg, tmp_path / "a.png", inputs, inputs, caption="a grid")
    with Image.open(tmp_path / "a.png") as image:
        pixels = {tuple(p) for p in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert pixels >= set(pictures.COLORS)
    TASK.gif(cfg, tmp_path / "a.gif", inputs, np.stack([np.zeros(36, np.int32), inputs]), np.array([0.1, 0.9]))
    with Image.open(tmp_path / "a.gif") as image:
        assert image.n_frames == 3
