"""A hybrid on the ten smallest tasks of ARC-1's training set, read by a frozen Llama of random weights."""

import dataclasses
import gzip
import json

import jax
import numpy as np
import pytest

from tests import tiny
from trm_jax.cli.main import main
from trm_jax.configs import registry, resolve
from trm_jax.data.dataset import IGNORED
from trm_jax.errors import InputError
from trm_jax.language import model as language
from trm_jax.models import decoder, hybrid, params
from trm_jax.models.family import get
from trm_jax.planning import find, plan
from trm_jax.solvers.hybrid import features, source
from trm_jax.tasks.arc.grids import EOS, crop
from trm_jax.tasks.arc.predictions import contaminated, read
from trm_jax.train.compiled import Compiled
from trm_jax.train.loop import train

WIDTH = 64  # of the Llama's states


@pytest.fixture(scope="module")
def place(golden_folder, tmp_path_factory):
    """A folder with the tasks, ten.json, and the language model, llama.gguf."""
    folder = tmp_path_factory.mktemp("hybrid")
    (folder / "ten.json").write_bytes(gzip.decompress((golden_folder / "arc" / "smallest.json.gz").read_bytes()))
    tiny.language_model(folder)
    return folder


@pytest.fixture(scope="module", autouse=True)
def quickly(compilations):
    with tiny.warm_compilations(compilations):
        yield


@pytest.fixture(scope="module")
def settings(place):
    """settings(changes): of a run of few steps on two tasks."""

    def given(**changes) -> dict:
        return {
            "data.task": "hybrid",
            "data.path": str(place),
            "data.llm": str(place / "llama.gguf"),
            "data.features": str(place / f"features_{changes.get('data.train_sets', 'ten@1-2')}"),
            "data.train_sets": "ten@1-2",
            "data.test_set": changes.get("data.train_sets", "ten@1-2"),
            "data.augmentations": 1,
            "data.side": 7,
            "model.family": "hybrid",
            "model.hidden_size": 32,
            "model.num_heads": 2,
            "model.L_layers": 1,
            "model.puzzle_emb_len": 2,
            "model.mlp_t": False,
            "model.pos_encodings": "rope",
            "model.dtype": "float32",
            "model.H_cycles": 1,
            "model.L_cycles": 1,
            "model.halt_max_steps": 2,
            "model.text_width": WIDTH,
            "train.loss": "softmax",
            **changes,
        }

    return given


def batch_of(cfg, train_data, rows: int = 8) -> dict:
    return train_data.batch(0, np.arange(rows), seed=cfg.seed, batch_size=rows)


def state_of(changes: dict):
    """(config, training data, evaluation data, the first state) of a run on one device."""
    cfg = tiny.config(changes)
    data = tiny.data(changes)
    return cfg, *data, Compiled(cfg, data[0].info, jax.devices()[:1]).first_state(data[0])


def test_parameters_are_those_of_the_reference():
    """What cross-attention takes at one place, 2 x 4096 d + 2 d^2 at d = 512, besides its gate."""
    sizes = {"vocab_size": 12, "seq_len": 900, "num_puzzle_ids": 3, "mlp_t": False, "text_width": 4096}
    one, two = (
        params.count(hybrid.FAMILY.specs(hybrid.HybridConfig(**sizes, text_tokens=n))["weights"]) for n in (0, 9)
    )
    assert two - one == 4_718_592 + 1


def test_texts_and_grids_are_turned_alike_and_no_text_holds_its_answer(settings):
    cfg = tiny.config(settings(**{"data.augmentations": 7, "data.train_sets": "ten@5-6", "data.feedback": True}))
    train_data, test = source.sources(cfg.data)
    texts = features.texts(train_data.data)
    assert len(texts) == train_data.info.num_puzzle_ids == sum(8 * len(task.pairs) for task in test.tasks.values())
    rows = test.rows(np.arange(len(test)))
    assert sorted(rows["puzzle_ids"].tolist()) == list(range(len(texts)))  # with feedback every pair is asked
    for inputs, labels, number in zip(*(rows[name] for name in ("inputs", "labels", "puzzle_ids")), strict=True):
        name, text = texts[number]
        *shown, asked = text.split("Input:\n")[1:]
        assert asked == features.ASKED.format(lines(crop(inputs))).removeprefix("Input:\n")
        task = test.tasks[name]
        answer = lines(crop(np.where(labels < 0, 0, labels)))
        pairs = [one.removesuffix("\n\n").split("\nOutput:\n") for one in shown]
        assert [lines(crop(inputs)), answer] not in pairs
        assert len(pairs) in (len(task.train), len(task.train) - 1)


def lines(grid: np.ndarray) -> str:
    return "\n".join("".join(map(str, row)) for row in grid.tolist())


def test_answers_to_tests_are_in_no_text(settings, place, tmp_path):
    """Other test outputs, the same texts: what the model reads cannot depend on them."""
    tasks = json.loads((place / "ten.json").read_text())
    for task in tasks.values():
        for pair in task["test"]:
            pair["output"] = [[9, 9]]
    (tmp_path / "ten.json").write_text(json.dumps(tasks))
    changes = settings(**{"data.augmentations": 0})
    one, other = (
        source.sources(tiny.config({**changes, "data.path": path}).data)[0] for path in (str(place), str(tmp_path))
    )
    assert features.texts(one.data) == features.texts(other.data)


def test_the_features_are_the_states_of_the_last_tokens(settings, place):
    """Of all tokens in phase 2; and the language model is as it was, bit for bit."""
    opened = language.load(place / "llama.gguf")
    before = jax.tree.map(np.array, opened.params)
    cfg, train_data, _, state = state_of(settings(**{"model.text_tokens": 200}))
    texts = features.texts(train_data.data)
    ids = opened.words.encode(texts[3][1])
    found = decoder.features(opened.params, opened.cfg, np.array([ids]))[0].astype(jax.numpy.bfloat16)
    tables = state.params["features"]
    # Filled up to 32 tokens the products are tiled otherwise; one place of bfloat16 is 2^-8.
    np.testing.assert_allclose(np.float32(tables["states"][3, : len(ids)]), np.float32(found), rtol=2**-7, atol=1e-2)
    np.testing.assert_array_equal(tables["pooled"][3], tables["states"][3, len(ids) - 1])
    assert tables["sizes"][3] == len(ids) and not np.float32(tables["states"][3, len(ids) :]).any()
    assert cfg.model.num_puzzle_ids == len(texts) == len(tables["pooled"])
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.array, opened.params), before)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"data.layer": 0}, "holds features of other layer than is asked for"),
        ({"data.augmentations": 0}, "holds features of other tasks than is asked for"),
        ({"data.llm": "other"}, "holds features of other model than is asked for"),
        ({"data.features": "new", "data.limit": 40}, "task 6150a2bd: its text has .* tokens, more than the 40"),
        ({"data.limit": 40}, "task 6150a2bd: its text has .* tokens, more than the 40"),
        (
            {
                "data.train_sets": "ten@1-1",
                "data.test_set": "ten@1-1",
                "data.features": "one",
                "data.control": "shuffled",
            },
            "there is one task alone",
        ),
        ({"data.features": "gs://a/b"}, "data.features=gs://a/b is not on this machine"),
        ({"data.features": "new", "data.layer": 99}, "data.layer is 99; llama.gguf has layers up to"),
        ({"data.source": "arrays"}, "data.source=arrays has no tasks to read"),
        ({"data.train_sets": "ten@9-11", "data.test_set": "ten@9-11"}, "set ten@9-11: ten has tasks 1 to 10"),
    ],
)
def test_what_is_not_the_same_is_refused(settings, place, tmp_path, changes, words):
    tiny.data(settings())  # the features are there
    if changes.get("data.llm"):
        (tmp_path / "qwen").mkdir()
        changes = {"data.llm": str(tiny.language_model(tmp_path / "qwen", "qwen2"))}
    if changes.get("data.features", "gs:")[:3] != "gs:":
        changes = {**changes, "data.features": str(tmp_path / "new")}
    made = {**settings(), **changes}
    with pytest.raises(InputError, match=words):
        cfg = tiny.config(made)
        cfg.task.load(cfg.data)


def test_the_task_and_the_family_need_each_other(settings, place):
    plain = {"data.task": "arc", "data.path": str(place), "data.train_sets": "ten", "data.test_set": "ten"}
    for changes in (plain | {"model.family": "hybrid"}, {k: v for k, v in settings().items() if k[:5] == "data."}):
        with pytest.raises(InputError, match="need each other; set both"):
            tiny.config(changes)


def test_a_plan_counts_the_reading_and_the_training(place):
    """The language model is gone when training begins, so the larger one counts; features are in the state."""
    plans = {}
    for name in ("hybrid_llama8b_phase1", "hybrid_llama8b_phase2"):
        plans[name] = plan(resolve.freeze(registry.get(name)), find("h100"))
    one, two = plans.values()
    weights = 2 * 8_030_261_248  # of Llama-3.1-8B in bfloat16
    assert weights < one.memory_bytes == two.memory_bytes < 1.2 * weights
    [said] = [line for line in two.warnings if "reads the tasks first" in line]
    tables = 376 * (2049 * 4096 * 2 + 4)  # of the states of 376 texts, their last ones, and their lengths
    assert said.startswith("meta-llama/Llama-3.1-8B reads the tasks first, 17.9")
    assert said.endswith(f"{tables / 1e9:.2f} of them features")
    small = plan(resolve.freeze(registry.get("hybrid_llama8b_phase1")), find("l40s"))
    assert not small.obstacle
    config = resolve.override(registry.get("hybrid_phase1"), {"data.llm": "models/Llama-3.1-70B-Instruct"})
    assert "takes 1" in plan(resolve.freeze(config), find("h100")).obstacle


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model.text_width": 32}, f"states are {WIDTH} wide; set model.text_width={WIDTH}"),
        ({"model.text_tokens": 50}, "task .*: its text has .* tokens, and model.text_tokens is 50"),
    ],
)
def test_a_model_of_other_sizes_is_refused(settings, changes, words):
    with pytest.raises(InputError, match=words):
        state_of(settings(**changes))


def test_reading_goes_on_where_it_was_killed(settings, place, tmp_path):
    cfg = tiny.config(settings())
    whole = cfg.task.load(cfg.data)[0].given.features
    again = dataclasses.replace(cfg.data, features=str(tmp_path / "cut"))
    seen = []

    def killed(done: int, total: int) -> None:
        seen.append(done)
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cfg.task.load(again, progress=killed)
    with pytest.raises(InputError, match="holds features of other layer"):  # nor may others go on with it
        cfg.task.load(dataclasses.replace(again, layer=1))
    found = cfg.task.load(again, progress=lambda done, total: seen.append(done))[0].given.features
    assert seen == [1, 2, 3, 4, 5, *range(6, len(whole.sizes) + 1)]
    np.testing.assert_array_equal(found.states, whole.states)
    seen.clear()
    cfg.task.load(again, progress=lambda done, total: seen.append(done))
    assert not seen  # nothing is read twice


def test_controls(settings):
    """Zeros say nothing; shuffled, each task has another one's features, all in their places."""
    plain, zeros, shuffled = (
        state_of(settings(**{"data.control": name}))[3].params["features"]["pooled"]
        for name in ("none", "zeros", "shuffled")
    )
    assert not np.float32(zeros).any() and np.float32(plain).any()
    cfg = tiny.config(settings())
    data = source.sources(cfg.data)[0].data
    first, second = (
        range(data.ids[data.puzzles[g]], data.ids[data.puzzles[g]] + len(t.pairs))
        for g, t in enumerate(data.tasks.values())
    )
    np.testing.assert_array_equal(shuffled[first[0]], plain[second[0]])
    np.testing.assert_array_equal(shuffled[second[0]], plain[first[0]])


def test_a_closed_gate_is_phase_1_bit_for_bit(settings, tmp_path):
    """Phase 2 begins with phase 1's weights, says the same, and its gate then opens."""
    one = settings()
    tiny.train_here(tmp_path / "one", {**one, "train.steps": 3, "eval.every_steps": 3})
    two = settings(**{"model.text_tokens": 200, "train.start_from": str(tmp_path / "one")})
    cfg, train_data, test, state = state_of(two)
    bare = tiny.config(settings(**{"model.text_tokens": 200}))
    noted = ["phase 2 begins with nothing" in str(one.warnings(3)) for one in (bare, tiny.config(one), cfg)]
    assert noted == [True, False, False]
    trained = tiny.state(tmp_path / "one", 3)
    for name, array in trained.items():
        if name.startswith("ema/"):
            path = name.split("/")[1:]
            found = state.params["weights"]
            for part in path:
                found = found[part]
            np.testing.assert_array_equal(found, array, err_msg=name)
    family, rows = get("hybrid"), jax.tree.map(jax.numpy.asarray, test.rows(np.arange(4)))
    plain = tiny.config(one).model
    known = {**state.params, "features": {"pooled": state.params["features"]["pooled"]}}
    known["scaling"] = {"pooled": state.params["scaling"]["pooled"]}

    def said(model, parameters):
        step = jax.jit(lambda parameters, carry: family.step(parameters, model, carry, rows))
        carry = family.initial_carry(model, 4)
        for _ in range(2):
            carry, out = step(parameters, carry)
        return np.asarray(out.logits), np.asarray(carry.z_H)

    for ours, theirs in zip(said(cfg.model, state.params), said(plain, known), strict=True):
        assert ours.tobytes() == theirs.tobytes()
    compiled = Compiled(cfg, train_data.info, jax.devices()[:1])
    after, _ = compiled.train_step(state, 0, batch_of(cfg, train_data))
    assert float(after.params["weights"]["cross"]["gate"][0]) != 0


@pytest.fixture(scope="module")
def run(settings, tmp_path_factory):
    """A run of a few steps that has not been trained on the answers."""
    folder = tmp_path_factory.mktemp("hybrid_run") / "run"
    tiny.train_here(folder, {**settings(**{"data.fit": False}), "train.steps": 4, "eval.every_steps": 4})
    return folder


@pytest.mark.parametrize("feedback", [False, True])
def test_no_prediction_depends_on_the_answers(run, place, tmp_path, feedback):
    """With other targets `trm eval` writes the same candidates, and with feedback only those of the demonstrations."""
    tasks = json.loads((place / "ten.json").read_text())
    for task in tasks.values():
        for pair in task["test"]:
            pair["output"] = np.random.default_rng(0).integers(0, 10, (4, 2)).tolist()
    (tmp_path / "ten.json").write_text(json.dumps(tasks))
    written = []
    for path in (place, tmp_path):
        assert main(["eval", str(run), "--set", f"data.path={path}", f"data.feedback={feedback}"]) == 0
        header, found = (run / "predictions.jsonl").read_text().split("\n", 1)
        assert json.loads(header)["member"]["kind"] == "hybrid"
        written.append(found)
    assert written[0] == written[1]


@pytest.mark.parametrize("feedback", [False, True])
def test_rows_that_stop_by_themselves_vote(run, feedback, capsys):
    assert main(["eval", str(run), "--stop-at", "q", "--set", f"data.feedback={feedback}"]) == 0
    assert "pass@2" in capsys.readouterr().out


def test_feedback_takes_the_step_whose_demonstrations_are_right(settings):
    """Among equals the one that is surest; the answers of the demonstrations are given, those of the tests are not."""
    cfg = tiny.config(settings(**{"data.feedback": True, "data.augmentations": 3}))
    _, test = source.sources(cfg.data)
    rows, steps = test.rows(np.arange(len(test))), 3
    right = np.where(rows["labels"] < 0, 0, rows["labels"])
    asks_test = test.places(np.arange(len(test)))[2] >= 0
    answers, q = np.stack([np.zeros_like(right), right, right], 1), np.zeros((len(test), steps), np.float32)
    answers[asks_test, 2] = 0  # the last step has forgotten the answer to the test, and is less sure of it
    q[:, 1] = 1.0
    ballot = test.ballot()
    for start in range(0, len(test), 5):  # batches cut views anywhere
        ballot.add(np.arange(start, min(start + 5, len(test))), answers[start : start + 5], q[start : start + 5])
    assert ballot.scores()["pass@1"] == 1.0
    answers[~asks_test, 1] = 0  # now the last step alone has the demonstrations right, whose test is wrong
    ballot = test.ballot()
    ballot.add(np.arange(len(test)), answers, q)
    assert ballot.scores()["pass@2"] == 0.0


def test_scores_on_trained_answers_are_asked_for_and_said(settings, run, place, tmp_path, capsys):
    fitted, lines = tmp_path / "fitted", []
    tiny.train_here(fitted, {**settings(), "train.steps": 2, "eval.every_steps": 2}, lines=lines)
    assert any("step 2: fitted pass@2" in line for line in lines) and not any("held" in line for line in lines)
    assert main(["eval", str(fitted)]) == 0
    assert "a score says how well they are fitted" in capsys.readouterr().err
    assert contaminated(read(fitted / "predictions.jsonl")[0]) == "the answers of ten@1-2:all"
    asked = ["--set", "data.train_sets=ten@2-3", "data.test_set=ten@2-3", "data.fit=False"]
    assert main(["eval", str(fitted), *asked]) == 2
    assert "was trained on the answers of d631b094" in capsys.readouterr().err
    # What the run was trained on counts, not what is said now; features of other tasks take the place of theirs.
    others = ["data.train_sets=ten@5-6", "data.test_set=ten@5-6", f"data.features={tmp_path / 'new'}"]
    assert main(["eval", str(fitted), "--set", *others]) == 0
    header = read(fitted / "predictions.jsonl")[0]
    assert header.member.trained_on == ["ten@1-2:all", "ten@1-2:demonstrations"] and not contaminated(header)
    assert main(["eval", str(run), "--set", "data.fit=True"]) == 0
    assert contaminated(read(run / "predictions.jsonl")[0]) is None
    assert "trained on" not in capsys.readouterr().err
    with pytest.raises(InputError, match="the model was trained on the answers of 6150a2bd, d631b094"):  # nor begins so
        state_of(settings(**{"data.fit": False, "train.start_from": str(fitted)}))
    assert main(["eval", str(run), "--set", "data.layer=0"]) == 2
    assert "leave data.llm and data.layer as they were" in capsys.readouterr().err
    assert main(["solve", str(run), str(place / "ten.json")]) == 2
    assert "it knows tasks by their text" in capsys.readouterr().err


@pytest.fixture(scope="module")
def straight(settings, tmp_path_factory):
    """A run on one device whose rates are so low that rounding decides no sign (tests/train/test_devices.py)."""
    folder = tmp_path_factory.mktemp("straight") / "run"
    changes = settings(**{"model.text_tokens": 200, "optim.warmup_steps": 1000, "checkpoint.keep_every_steps": 3})
    tiny.train_here(folder, changes)
    return folder, changes


@pytest.mark.slow
def test_eight_devices_are_one(straight, tmp_path):
    one, changes = straight
    tiny.train_here(tmp_path / "run", changes, devices=8)
    tiny.assert_moved_alike(one, tmp_path / "run", 3, 12)


@pytest.mark.slow
def test_a_stopped_run_goes_on_bit_for_bit(straight, tmp_path):
    one, changes = straight
    outcome = tiny.train_here(tmp_path / "run", changes, stop=tiny.StopAfter(tmp_path / "run", 3))
    assert 0 < outcome.step < outcome.total_steps
    tiny.train_here(tmp_path / "run", changes)
    tiny.assert_same_end(one, tmp_path / "run")


LEARNS = {
    "data.train_sets": "ten",
    "data.augmentations": 0,
    "model.hidden_size": 64,
    "model.L_layers": 2,
    "model.L_cycles": 2,
    "model.puzzle_emb_len": 4,
    "model.mlp_t": True,
    "model.pos_encodings": "none",
    "optim.lr": 4e-3,
    "optim.warmup_steps": 20,
    "optim.ema_decay": 0.95,
    "train.batch_size": 24,
    **dict.fromkeys(("train.steps", "eval.every_steps", "checkpoint.every_steps", "log.every_steps"), 80),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Sizeless(source.HybridTrain):
    """Training data whose loss passes over the end of a grid, as the reference's does."""

    def batch(self, *args, **how):
        rows = super().batch(*args, **how)
        return {**rows, "labels": np.where(rows["labels"] == EOS, IGNORED, rows["labels"])}


@pytest.mark.slow
@pytest.mark.parametrize("size_is_learned", [True, False])
def test_ten_tasks_are_learned_and_without_the_end_of_a_grid_none(settings, tmp_path, size_is_learned):
    changes = settings(**LEARNS)
    cfg, (train_data, test) = tiny.config(changes), tiny.data(changes)
    if not size_is_learned:
        train_data = Sizeless(**{f.name: getattr(train_data, f.name) for f in dataclasses.fields(train_data)})
    outcome = train(cfg, tmp_path / "run", data=(train_data, test), devices=jax.devices()[:1])
    score = outcome.last_eval["pass@2"]
    assert score >= 0.5 if size_is_learned else score == 0.0
