"""The ARC transformer from training to a score, on a few tasks."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import unflatten_dict

from tests import tiny
from tests.tasks.pairs.test_pairs import write_set
from trm_jax.configs import registry, resolve
from trm_jax.configs.workdir import claim, load_config
from trm_jax.evals.decode import Decoder
from trm_jax.models import arc_transformer
from trm_jax.tasks.arc import predictions
from trm_jax.train.loop import train

SMALL = {
    "data.train_sets": "a,b",
    "data.test_set": "a",
    "data.exclude": "",
    "data.row_tokens": 96,
    "data.epoch_steps": 3,
    "data.pairs_per_step": 8,
    "data.rows_per_step": 8,
    "data.augmentations": 6,
    "model.hidden_size": 24,
    "model.num_heads": 2,
    "model.layers": 2,
    "model.ff_size": 32,
    "model.dtype": "float32",
    "train.batch_size": 8,
    "train.epochs": 0,
    "train.steps": 12,
    "eval.every_epochs": 0,
    "eval.every_steps": 6,
    "eval.batch_size": 8,
    "checkpoint.every_steps": 3,
    "checkpoint.keep_last": 4,
    "log.every_steps": 3,
    "log.tensorboard": False,
}

OTHERS = "docs/arc_transformer.md, Other tasks"


def arguments(folder, **changes) -> list[str]:
    settings = {**SMALL, "data.path": folder, **changes}
    return ["--set", *(f"{key}={value}" for key, value in settings.items())]


@pytest.fixture(scope="module")
def run(trm, tmp_path_factory):
    folder = tmp_path_factory.mktemp("transformer")
    write_set(folder / "a", 5, side=4)
    write_set(folder / "b", 3, seed=1, side=4)
    result = trm.run("train", "arc_transformer_high", "--workdir", folder / "run", *arguments(folder))
    assert result.code == 0, result.err
    return folder / "run"


def test_answers_votes_and_a_score(trm, run):
    """What was kept of the answers is not written again; a command that was cut goes on."""
    result = trm.run("eval", run)
    assert result.code == 0, result.err
    assert "exact accuracy" in result.out and "pass@2" in result.out
    header, lines = predictions.read(run / "predictions.jsonl")
    said = [
        (line.task, line.test, line.grid.tolist() if line.grid is not None else None, line.weight) for line in lines
    ]
    assert header.member.kind == "arc_transformer"
    assert header.member.trained_on == ["b:all", "a:demonstrations"] and header.data_name == "a"
    [kept] = run.glob("answers-12-*.jsonl")
    answers = kept.read_text().splitlines()
    assert [json.loads(line)["prompt"] for line in answers] != list(range(len(answers))), "short prompts come first"
    kept.write_text("\n".join(answers[:7]) + '\n{"prompt": 9, "tok')
    result = trm.run("eval", run)
    assert result.code == 0 and f"going on: 7 of {len(answers)} answers are in {kept}" in result.err, result.err
    again = [
        (line.task, line.test, line.grid.tolist() if line.grid is not None else None, line.weight)
        for line in predictions.read(run / "predictions.jsonl")[1]
    ]
    assert again == said
    tasks = run.parent / "a"
    scored = trm.run("arc", "score", run / "predictions.jsonl", "--data", tasks)
    assert scored.code == 0 and "5 tasks, 5 test pairs" in scored.out


def test_a_set_whose_answers_it_has_seen_is_refused(refused, run):
    said = refused("eval", run, "--set", "data.test_set=b")
    assert "was trained on the answers of b; a score would be on what it was trained on" in said


@pytest.mark.parametrize("devices", [1, pytest.param(8, marks=pytest.mark.slow)])
def test_a_run_that_was_stopped_ends_as_one_that_was_not(trm, run, tmp_path, devices):
    """Bit for bit; and on eight devices as on one but for rounding: 12 steps at rates below 2e-3."""
    half, whole = tmp_path / "half", tmp_path / "whole"
    page = resolve.override(registry.get("arc_transformer_high"), {**SMALL, "data.path": str(run.parent)})
    for folder, stopping in ((whole, None), (half, tiny.StopAfter(half, 3)), (half, None)):
        with claim(folder, page):
            outcome = train(resolve.freeze(page), folder, stop=stopping, devices=jax.devices()[:devices])
        assert bool(outcome.stopped_by) == bool(stopping)
    ours, theirs = tiny.state(half, 12), tiny.state(run, 12)
    tiny.assert_same_state(ours, tiny.state(whole, 12))
    for name, values in theirs.items():
        if name.startswith("params/"):
            np.testing.assert_allclose(ours[name], values, atol=2e-4, err_msg=name)


def test_rows_for_other_tasks(trm, refused, run, tmp_path):
    """A set that is appended: its tasks get rows, which begin with the mean; nothing else moves; then it answers."""
    write_set(run.parent / "c", 2, seed=2, side=4)
    more = ["--set", "data.train_sets=a,b,c", "data.test_set=c"]
    said = refused("eval", run, *more)
    assert said == f"{run} has rows for 8 tasks, and these are 10; train rows for the others first: " + OTHERS
    changes = {"data.train_sets": "a,b,c", "data.test_set": "c", "train.start_from": run, "train.parameters": "tables"}
    changes |= {"optim.other_lr": 0.01, "optim.warmup_share": 0.0}
    result = trm.run("train", "arc_transformer_high", "--workdir", tmp_path / "more", *arguments(run.parent, **changes))
    assert result.code == 0, result.err
    before, after = tiny.state(run, 12), tiny.state(tmp_path / "more", 12)
    rows = "params/weights/task_embedding"
    moved = {name for name in before if name.startswith("params/") and not np.array_equal(before[name], after[name])}
    assert moved == {rows} and after[rows].shape == (10, 24)
    mean = before[rows][1:].mean(0)
    assert 0.001 < np.abs(after[rows][8:] - mean).max() < 0.3, "12 steps of 0.01 from the mean"
    result = trm.run("eval", tmp_path / "more")
    assert result.code == 0 and "pass@2" in result.out, result.err


def test_drafts_change_nothing_but_the_way(trm, run, tmp_path):
    """The same answers, whatever was drafted."""
    found = []
    for name, how in (("plain", []), ("drafts", ["--drafts"])):
        shutil.copytree(run, tmp_path / name, ignore=shutil.ignore_patterns("answers-*"))
        assert trm.run("eval", tmp_path / name, *how).code == 0
        [file] = (tmp_path / name).glob("answers-12-*")
        found.append({line["prompt"]: line["tokens"] for line in map(json.loads, file.read_text().splitlines())})
    assert found[0] == found[1]


EACH = {
    "model.family": "arc_transformer_each",
    "data.train_sets": "a",
    "data.rows_of": "task",
    "data.most_tasks": 3,
    "data.epoch_steps": 1,
    "data.rows_per_step": 6,
    "train.batch_size": 6,
    "optim.warmup_share": 0.0,
    "optim.warmup_steps": 0,
}


@pytest.fixture(scope="module")
def each(trm, run):
    """Of three tasks, each with a model of its own."""
    folder = run.with_name("each")
    result = trm.run("train", "arc_transformer_high", "--workdir", folder, *arguments(run.parent, **EACH))
    assert result.code == 0, result.err
    return folder


def test_each_task_is_answered_by_its_own_model(trm, each, tmp_path):
    """As by a model that stands alone; what was kept is not written again, and drafts change no answer."""
    shutil.copytree(each, tmp_path / "drafts")
    result = trm.run("eval", each)
    assert result.code == 0 and "pass@2" in result.out, result.err
    [kept] = each.glob("answers-12-*.jsonl")
    lines = kept.read_text().splitlines()
    cfg = resolve.freeze(load_config(each))
    saved = {name: x for name, x in tiny.state(each, 12).items() if name.startswith("params/")}
    own, questions = dataclasses.replace(cfg.model, num_puzzle_ids=1), cfg.task.load_eval(cfg.data).questions()
    decoder = Decoder(arc_transformer, own, cfg.eval.batch_size, arc_transformer.END)

    def answers(task: int, asked: np.ndarray) -> dict[int, list[int]]:
        """By the model of a task to prompts of any."""
        paths = {tuple(name.split("/")[1:]): jnp.asarray(x[task]) for name, x in saved.items()}
        prompts = [questions.prompt(number) for number in asked]
        prompts = [prompt | {"puzzle_ids": np.zeros_like(prompt["puzzle_ids"])} for prompt in prompts]
        found = decoder(unflatten_dict(paths), prompts.__getitem__, questions.sizes[asked], cfg.data.row_tokens)
        return {int(asked[one.prompt]): one.tokens.tolist() for batch in found for one in batch}

    wanted = {}
    for task in range(3):
        wanted |= answers(task, np.flatnonzero(questions.tasks == task))
    assert {one["prompt"]: one["tokens"] for one in map(json.loads, lines)} == wanted and len(wanted) > 6
    others = answers(1, np.flatnonzero(questions.tasks == 0))
    assert any(tokens != wanted[number] for number, tokens in others.items()), "models differ"
    said = (each / "predictions.jsonl").read_text()
    kept.write_text("\n".join(lines[:7]) + "\n")
    result = trm.run("eval", each)
    assert result.code == 0 and f"going on: 7 of {len(lines)} answers are in {kept}" in result.err, result.err
    assert (each / "predictions.jsonl").read_text() == said
    result = trm.run("eval", tmp_path / "drafts", "--drafts")
    assert result.code == 0, result.err
    [drafted] = (tmp_path / "drafts").glob("answers-12-*.jsonl")
    assert {one["prompt"]: one["tokens"] for one in map(json.loads, drafted.read_text().splitlines())} == wanted


@pytest.mark.slow
def test_models_that_were_stopped_end_as_those_that_were_not(each, run, tmp_path):
    page = resolve.override(registry.get("arc_transformer_high"), {**SMALL, **EACH, "data.path": str(run.parent)})
    for stopping in (tiny.StopAfter(tmp_path, 3), None):
        with claim(tmp_path, page):
            outcome = train(resolve.freeze(page), tmp_path, stop=stopping, devices=jax.devices()[:1])
        assert bool(outcome.stopped_by) == bool(stopping)
    tiny.assert_same_state(tiny.state(tmp_path, 12), tiny.state(each, 12))
    assert all(record["diverged"] == 0 for record in tiny.records(tmp_path, "train"))


def test_solving_with_it_says_how_it_answers(refused, run, tmp_path):
    (tmp_path / "new.json").write_text("{}")
    for asked in (tmp_path / "new.json", "--example"):
        said = refused("solve", run, asked)
        wanted = f"this model answers tasks that it has a row for: trm eval {run}; train rows for others first: "
        assert said == wanted + OTHERS


def test_outputs_that_nobody_knows_are_answered_and_not_scored(trm, run, tmp_path):
    """What fills the place of the output is not taken for it."""
    for name in "ab":
        shutil.copytree(run.parent / name, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        content = json.loads(file.read_text())
        content["test"] = [{"input": pair["input"]} for pair in content["test"]]
        file.write_text(json.dumps(content))
    result = trm.run("eval", run, "--set", f"data.path={tmp_path}")
    assert result.code == 0, result.err
    assert "no score: the answers to some puzzles are not known" in result.out and "pass@" not in result.out
    assert sum(line.status == "ok" for line in predictions.read(run / "predictions.jsonl")[1]) == 5
    assert result.err.endswith("--data TASKS --output submission.json\n")
