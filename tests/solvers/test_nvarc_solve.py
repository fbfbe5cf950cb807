"""`trm ttt nvarc` from files to predictions, on a tiny decoder of random weights and 16 tokens."""

import dataclasses
import json

import jax
import numpy as np
import pytest

from trm_jax.cli.main import main
from trm_jax.errors import InputError
from trm_jax.language import model, peft
from trm_jax.models import decoder
from trm_jax.models.lora import Lora
from trm_jax.models.params import is_spec, path_name
from trm_jax.models.quant import LINEARS
from trm_jax.solvers import Question, adapt, run
from trm_jax.solvers.nvarc import solve, text, vocabulary
from trm_jax.solvers.nvarc.answer import Answerer
from trm_jax.solvers.nvarc.select import Candidate
from trm_jax.tasks.arc import files
from trm_jax.tasks.arc.grids import Pair
from trm_jax.tasks.arc.predictions import Header, Line, Member, ranked, read, writing

CFG = decoder.Config(16, 16, 1, 2, 1, 8, 16, rope_theta=1e4, qk_norm=True, tied=True)
SETTINGS = "--lora-rank 16 --permutations 1 --lr 0.01 --views 1 --probability 0.002 --prompts-at-once 8".split()


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """It says one cell and ends with a probability of about 1 / 256 for each colour: what the search finds."""
    folder = tmp_path_factory.mktemp("small")
    vocabulary.write(folder, CFG, jax.jit(decoder.init, static_argnums=1)(jax.random.key(2), CFG))
    return folder


def task(seed: int, shown: int = 2, asked: int = 1, side: int = 2) -> dict:
    made = np.random.default_rng(seed).integers(0, 10, (shown + asked, side, side))
    pairs = [{"input": grid.tolist(), "output": grid[::-1].tolist()} for grid in made]
    return {"train": pairs[:shown], "test": pairs[shown:]}


@pytest.fixture
def tasks(tmp_path):
    """Three tasks: one shows a single pair, one asks twice."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name, made in (("a", task(1)), ("b", task(2, shown=1)), ("c", task(3, asked=2))):
        (folder / f"{name}.json").write_text(json.dumps(made))
    return folder


def command(small, tasks, workdir, *more) -> list[str]:
    one = [] if "--mesh" in more else ["--mesh", "data=1"]  # on each device all would be compiled anew
    return ["ttt", "nvarc", str(small), "--data", str(tasks), "--workdir", str(workdir), *SETTINGS, *one, *more]


def records(workdir) -> dict:
    """What is said of each task, but for the time that it took."""
    found = {path.stem: json.loads(path.read_text()) for path in (workdir / run.RECORDS).glob("*.json")}
    return {name: {**record, "seconds": None} for name, record in found.items()}


def hide_answers(tasks) -> None:
    for path in tasks.glob("*.json"):
        said = json.loads(path.read_text())
        said["test"] = [{"input": pair["input"]} for pair in said["test"]]
        path.write_text(json.dumps(said))


def test_tasks_are_answered_and_merged(small, tasks, tmp_path, capsys):
    """With answers in the files and without; what is there already stays, and the adapter is the trained model."""
    first = tmp_path / "first"
    assert main(command(small, tasks, first)) == 0
    said = capsys.readouterr()
    assert "tasks        3: 2 ok, 1 partial" in said.out and "trm arc score" in said.err
    found = records(first)
    assert found["b"]["reason"] == "zero-shot: a lone demonstration, with none before it"
    assert all(one["numbers"]["updates"] == "8/8" and one["numbers"]["greedy"][0] == "0" for one in found.values())
    assert {line["test"] for line in found["c"]["candidates"]} == {0, 1}
    header, _ = read(first / run.PREDICTIONS)
    assert (
        header.member.kind == "nvarc"
        and header.score_kind == "weight"
        and header.data_sha256 == files.digest(files.read_tasks(tasks))
    )
    for (name, test), candidates in ranked([first / run.PREDICTIONS]):  # by their weights
        lines = [line for line in found[name]["candidates"] if line["test"] == test]
        assert [one.grid.tolist() for one in candidates] == [line["grid"] for line in lines]
        weights = [line["weight"] for line in lines]
        assert sum(weights) == pytest.approx(1) and weights == sorted(weights, reverse=True)
        assert all(line["source"].startswith("search in") and len(line["view_nll"]) == 8 for line in lines)

    hide_answers(tasks)
    (first / run.RECORDS / "b.json").unlink()
    assert main(command(small, tasks, first)) == 0
    assert "going on: 2 of 3" in capsys.readouterr().err and records(first) == found
    assert main(command(small, tasks, first, "--probability", "0.003")) == 2
    assert "settings differ" in capsys.readouterr().err


@pytest.fixture(scope="module")
def opened(small):
    return model.load(small)


RECIPE = dataclasses.replace(solve.RECIPE, lora=Lora(16, 32, LINEARS, rslora=True), lr=1e-2, warmup=1)
HOW = solve.Settings(permutations=1, views=1, probability=0.002)


@pytest.fixture(scope="module")
def nvarc(opened):
    return solve.Nvarc(opened, RECIPE, HOW, 8, {("a", 0): [np.array([[1, 2], [3, 4]], np.uint8)]})


def question(name: str, seed: int = 1, side: int = 2) -> Question:
    pairs = [
        Pair(*(np.array(one[key], np.uint8) for key in ("input", "output"))) for one in task(seed, side=side)["train"]
    ]
    return Question(name, tuple(pairs), (np.arange(side * side, dtype=np.uint8).reshape(side, side) % 10,))


def test_what_is_kept_is_what_was_trained(opened, nvarc, tmp_path):
    """Embedding and head, trained whole and apart from a tied base, are an adapter of rank 16 in a file of PEFT's."""
    (outcome,) = nvarc([question("a")], {"a"}, run.Watch(600.0))
    peft.write(tmp_path, *outcome.adapter)
    adapter, kind = peft.read(tmp_path, opened.cfg, opened.params)
    assert kind.targets == (*LINEARS, "embed", "head") and kind.scale == 8
    lessons = text.samples(question("a").demonstrations, np.random.default_rng(0), 1)
    start = adapt.begin(RECIPE, opened.cfg, opened.params)
    course = adapt.Course(lessons, np.arange(8)[:, None])
    (trained,) = adapt.train(adapt.Trainer(RECIPE, opened.cfg), opened.params, start, [course])
    ids = lessons[0][0][None]
    whole = decoder.forward(adapt.adapted(opened.params, trained.weights, RECIPE), RECIPE.model(opened.cfg), ids)
    tree, kind = solve.low_rank(trained.weights, opened.params, RECIPE.lora)
    low = decoder.forward(opened.params, opened.cfg, ids, lora=(tree, kind.scale))
    np.testing.assert_allclose(low, whole, atol=1e-5)
    assert np.abs(low - decoder.forward(opened.params, opened.cfg, ids)).max() > 0.05


def test_grids_from_elsewhere_are_scored_too(nvarc):
    first, second = nvarc([question("a"), question("z")], {"a", "z"}, run.Watch(600.0))
    (other,) = (line for line in first.candidates if line.source == "elsewhere")
    assert other.grid.tolist() == [[1, 2], [3, 4]] and len(other.view_nll) == 8
    assert all(line.source != "elsewhere" for line in second.candidates)


def test_tasks_side_by_side_are_tasks_one_by_one(nvarc):
    asked = [question("y", 5), question("z", 6)]
    together = list(nvarc(asked, {"y", "z"}, run.Watch(600.0)))
    alone = [next(nvarc([one], {one.id}, run.Watch(600.0))) for one in reversed(asked)][::-1]
    for one, other in zip(together, alone, strict=True):
        assert [x.grid.tolist() for x in one.candidates] == [x.grid.tolist() for x in other.candidates]
        for a, b in zip(one.candidates, other.candidates, strict=True):
            np.testing.assert_allclose(a.view_nll, b.view_nll, atol=1e-3)  # eight updates at a rate of 0.01


def test_a_run_that_dies_anywhere_ends_as_if_it_had_not(nvarc, check_killed):
    assert check_killed(nvarc, [question(name, seed) for seed, name in enumerate("xyz")], 2) >= 2


def test_time_that_is_over_is_told(nvarc):
    (outcome,) = nvarc([question("a")], {"a"}, run.Watch(1e-9))
    assert outcome.status == "partial" and outcome.numbers["updates"] == "2/8"
    told = ("the time for training was over", "the budget or the time of a search was over")
    assert outcome.reason == "; ".join(told)
    (outcome,) = nvarc([question("b")], {"b"}, run.Watch(1e-9))
    assert outcome.reason == "; ".join((told[0], "no reply to test 0 is a grid", told[1])) and not outcome.candidates


def test_what_is_too_long_is_told(opened):
    """Pairs of which a text holds none leave a task untrained; a question that does not fit is not asked."""
    short = solve.Nvarc(opened, RECIPE, dataclasses.replace(HOW, limit=60, reply=20, seed=5), 8, {})
    fits, not_fits = short([question("a", side=4), question("b", side=6)], {"a", "b"}, run.Watch(600.0))
    trained = fits.adapter[0]["q"]["a"]
    starts = [adapt.begin(RECIPE, opened.cfg, opened.params, seed)["lora"]["q"]["a"] for seed in (5, 0)]
    assert np.abs(trained - starts[0]).max() < 8.5 * RECIPE.lr < np.abs(trained - starts[1]).max()  # 8 updates
    assert fits.status == "ok" and fits.numbers["updates"] == "8/8"
    assert not_fits.status == "skipped" and "answered without training: the shortest text has" in not_fits.reason
    assert "test 0 is not asked" in not_fits.reason


def test_scores_that_are_no_numbers_are_told(opened):
    broken = jax.tree.map(lambda x: np.full_like(x, np.nan), opened.params)
    found = [Candidate(np.zeros((2, 2), np.uint8), ())]
    with pytest.raises(InputError, match="the model computes what is no number"):
        Answerer(decoder, opened.cfg, 8).scored(broken, question("a"), 0, HOW, found)


def test_candidates_of_another_solver_are_ranked_beside_what_is_found(small, tasks, tmp_path, capsys):
    """Of a file that answers some of the tasks, by a solver that has seen them."""
    other, answer = tmp_path / "other.jsonl", np.full((5, 5), 3, np.uint8)
    some = {name: one for name, one in files.read_tasks(tasks).items() if name == "c"}
    member = Member("trm", "trm", trained_on=["set:all"])
    with writing(other, Header(member, "set", files.digest(some))) as writer:
        writer.line(Line("c", 1, answer, weight=1.0))
    given = command(small, tasks, tmp_path / "run", "--tasks", "c", "--permutations", "0", "--candidates", str(other))
    assert main(given) == 2
    assert "is by a model that was trained on the answers of set:all; leave it out, or" in capsys.readouterr().err
    assert main([*given, "--allow-contaminated"]) == 0
    told = read(tmp_path / "run" / run.PREDICTIONS)[0].member.settings["contaminated"]
    assert told == "the answers of set:all (the solver of --candidates)" and told in capsys.readouterr().out
    (record,) = records(tmp_path / "run").values()
    (line,) = (line for line in record["candidates"] if line["source"] == "elsewhere")
    assert line["test"] == 1 and line["grid"] == answer.tolist() and len(line["view_nll"]) == 8
    assert record["numbers"]["updates"] == "0/0" and not (tmp_path / "run" / run.ADAPTERS).exists()


def test_what_does_not_belong_together_is_refused(small, tasks, tmp_path, capsys):
    other = tmp_path / "other.jsonl"
    with writing(other, Header(Member("trm", "trm"), "other", "0" * 64)) as writer:
        writer.line(Line("a", 0, np.zeros((1, 1), np.uint8), weight=1.0))
    assert main(command(small, tasks, tmp_path / "run", "--candidates", str(other))) == 2
    assert "answers other, whose tasks" in capsys.readouterr().err
    assert main([*command(small, tasks, tmp_path / "run"), "--lora-rank", "8"]) == 2
    assert "too small for a whole embedding" in capsys.readouterr().err


def test_eight_updates_are_pefts(golden_folder):
    """Scale, copies of embedding and head, clipping, schedule; tolerances: rounding of two programs, eight times."""
    cfg = decoder.Config(16, 16, 1, 2, 1, 8, 32, rope_theta=1e4, context=512, qk_norm=True, tied=True)
    with np.load(golden_folder / "ttt" / "nvarc_updates.npz") as file:
        golden = dict(file)
    params = jax.tree_util.tree_map_with_path(
        lambda path, _: golden[f"base/{path_name(path)}"], decoder.specs(cfg), is_leaf=is_spec
    )
    recipe = dataclasses.replace(solve.RECIPE, lora=Lora(16, 32, LINEARS, rslora=True), lr=2e-4, warmup=2)
    start = adapt.begin(recipe, cfg, params)
    start["lora"] = {name: {**pair, "a": golden[f"a/{name}"]} for name, pair in start["lora"].items()}
    lessons = [
        (ids[ids >= 0], learned[ids >= 0]) for ids, learned in zip(golden["ids"], golden["learned"], strict=True)
    ]
    course = adapt.Course(lessons, np.arange(8)[:, None])
    (trained,) = adapt.train(adapt.Trainer(recipe, cfg), params, start, [course])
    np.testing.assert_allclose(trained.losses, golden["losses"], atol=2e-5)
    ids = lessons[0][0][None]
    logits = decoder.forward(adapt.adapted(params, trained.weights, recipe), recipe.model(cfg), ids)
    np.testing.assert_allclose(logits, golden["logits"], atol=2e-4)
    assert np.abs(logits - decoder.forward(params, cfg, ids)).max() > 0.01
