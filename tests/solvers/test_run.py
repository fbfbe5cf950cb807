"""`trm ttt marc` from files to predictions: what is kept, what goes on, what is refused."""

import itertools
import json
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from tests.gcs.server import Gcs
from trm_jax.cli.main import main
from trm_jax.cli.ttt import enough_memory, work
from trm_jax.errors import InputError
from trm_jax.language import model, peft
from trm_jax.models.lora import Lora
from trm_jax.solvers import Question, adapt, run
from trm_jax.solvers.marc import solve
from trm_jax.solvers.seen import Told, record, seen
from trm_jax.storage.paths import as_path
from trm_jax.tasks.arc.files import read_tasks
from trm_jax.tasks.arc.grids import ArcTask, Pair
from trm_jax.tasks.arc.predictions import ranked, read

RECIPE = adapt.Recipe(Lora(2, 4, solve.TARGETS), lr=1e-2)
HOW = solve.Settings(most=4, longest=300, instruction="Find the rule.")


def task(seed: int, shown: int = 2, asked: int = 1, width: int = 2) -> dict:
    """One whose rule is to turn a grid of two rows upside down."""
    made = np.random.default_rng(seed).integers(0, 10, (shown + asked, 2, width))
    pairs = [{"input": grid.tolist(), "output": grid[::-1].tolist()} for grid in made]
    return {"train": pairs[:shown], "test": pairs[shown:]}


@pytest.fixture
def tasks(tmp_path):
    """A folder of three tasks, one of which shows a single pair."""
    folder = tmp_path / "set"
    folder.mkdir()
    for name, made in (("a", task(1)), ("b", task(2, shown=1)), ("c", task(3, asked=2, width=3))):
        (folder / f"{name}.json").write_text(json.dumps(made))
    return folder


def command(tiny_model, tasks, workdir, *more) -> list[str]:
    (tasks.parent / "prompt.txt").write_text("Find the rule.\n")
    small = "--puzzles 4 --lora-rank 2 --lora-alpha 4 --lr 0.01 --prompts-at-once 8 --limit 300".split()
    given = ["ttt", "marc", str(tiny_model), "--data", str(tasks), "--workdir", str(workdir), *small]
    given += [] if "--mesh" in more else ["--mesh", "data=1"]  # on each device all would be compiled anew
    return [*given, "--prompt-file", str(tasks.parent / "prompt.txt"), *more]


def records(workdir) -> dict:
    """What is said of each task, but for the time that it took."""
    found = {path.stem: json.loads(path.read_text()) for path in (workdir / run.RECORDS).glob("*.json")}
    return {name: {**record, "seconds": None} for name, record in found.items()}


def test_tasks_are_answered_once_and_merged(tiny_model, tasks, tmp_path, capsys):
    """With answers and without; with what was answered before, and without."""
    first, second = tmp_path / "first", tmp_path / "second"
    assert main(command(tiny_model, tasks, first, "--tasks-at-once", "3")) == 0
    said = capsys.readouterr()
    assert "tasks        3: 2 ok, 1 partial" in said.out and "trm arc score" in said.err
    found = records(first)
    assert found.keys() == {"a", "b", "c"}
    assert found["b"]["status"] == "partial" and "one demonstration leaves none to learn from" in found["b"]["reason"]
    attempts = json.loads((first / "submission.json").read_text())
    assert [len(attempts[name]) for name in "abc"] == [1, 1, 2]
    assert found["a"]["numbers"]["updates"] == "4/4" and found["a"]["numbers"]["prompts"] == 7
    assert found["c"]["numbers"]["prompts"] == 14

    opened = model.load(tiny_model)
    adapter, kind = peft.read(first / run.ADAPTERS / "a", opened.cfg, opened.params)
    assert kind == Lora(2, 4, solve.TARGETS) and np.abs(adapter["q"]["b"]).max() > 0
    assert not (first / run.ADAPTERS / "b").exists()

    for path in tasks.glob("*.json"):
        hidden = json.loads(path.read_text())
        hidden["test"] = [{"input": pair["input"]} for pair in hidden["test"]]
        path.write_text(json.dumps(hidden))
    shutil.copytree(first, second)
    (second / run.RECORDS / "a.json").unlink()
    (second / run.PREDICTIONS).unlink()
    assert main(command(tiny_model, tasks, second, "--tasks-at-once", "3")) == 0
    assert "going on: 2 of 3" in capsys.readouterr().err
    assert records(second) == found
    assert ranked_of(second) == ranked_of(first)

    assert main(command(tiny_model, tasks, second, "--seed", "1")) == 2
    assert "is of another run (settings differ); --force begins anew" in capsys.readouterr().err


def ranked_of(workdir) -> list:
    header, _ = read(workdir / run.PREDICTIONS)
    assert header.score_kind == "rank" and header.member.kind == "marc"
    return [(key, [one.grid.tolist() for one in found]) for key, found in ranked([workdir / run.PREDICTIONS])]


@pytest.fixture(scope="module")
def marc(tiny_model):
    """As `command` has it, so that what the first test compiled serves."""
    return solve.Marc(model.load(tiny_model), RECIPE, HOW, 8, tasks=3)


def question(name: str, seed: int = 1) -> Question:
    made = task(seed)
    shown = tuple(Pair(np.array(one["input"], np.uint8), np.array(one["output"], np.uint8)) for one in made["train"])
    return Question(name, shown, (np.array(made["test"][0]["input"], np.uint8),))


def test_a_run_that_dies_anywhere_ends_as_if_it_had_not(marc, check_killed):
    assert check_killed(marc, [question(name, seed) for seed, name in enumerate("abcd")], 2) >= 2


def test_time_that_is_over_ends_training_and_answers(marc):
    (outcome,) = marc([question("a")], {"a"}, run.Watch(1e-9))
    assert outcome.status == "partial" and outcome.numbers["updates"] == "2/4"
    assert outcome.reason == "the time for training was over; the time was over" and not outcome.candidates


def slow(seconds: float) -> run.Watch:
    """One on which a second goes by with each look."""
    looks = itertools.count()

    class Slow(run.Watch):
        def spent(self) -> float:
            return next(looks)

    return Slow(seconds)


def test_time_that_is_over_cuts_a_batch_of_answers(marc):
    """Each of two tasks has half of what training leaves; their random model writes to the limit where it may."""
    for number, outcome in enumerate(marc([question("a"), question("c", 7)], {"a", "c"}, slow(40))):
        assert outcome.status == "partial" and outcome.reason == "the time was over"
        assert outcome.numbers["updates"] == "4/4" and outcome.numbers["prompts"] == 7
        assert number or outcome.seconds < 40


def test_a_run_that_is_to_stop_leaves_the_task_for_later(marc):
    asked = []

    def stopping() -> bool:
        asked.append(1)
        return len(asked) > 3

    with pytest.raises(run.Stopped):
        list(marc([question("a")], {"a"}, run.Watch(60.0, stopping)))


def test_a_loss_that_is_no_number_ends_its_task(marc, monkeypatch):
    trained = adapt.train

    def broken(*arguments):
        found = trained(*arguments)
        found[0].losses[2], found[0].finite = np.nan, False
        return found

    monkeypatch.setattr(adapt, "train", broken)
    (outcome,) = marc([question("a")], {"a"}, run.Watch(60.0))
    assert outcome.status == "failed" and outcome.reason == "loss or gradient of update 2 was no number"
    assert not outcome.candidates and outcome.adapter is None


@pytest.mark.slow  # test_adapt.py holds the training, and every other test here runs on eight devices
def test_devices_that_share_the_weights_do_the_same(tiny_model, tasks, tmp_path, capsys):
    """Losses to 1e-3 of 12; the model is random and writes no grid."""
    found = []
    for more in (("data=1",), ("tensor=2", "--mesh", "data=2")):
        workdir = tmp_path / more[0]
        assert main(command(tiny_model, tasks, workdir, "--tasks", "a", "b", "--mesh", *more)) == 0
        found.append(records(workdir))
    one, other = ([done[name].pop("numbers") for name in "ab"] for done in found)
    assert found[0] == found[1]
    for numbers, others in zip(one, other, strict=True):
        assert numbers == {name: pytest.approx(x, abs=1e-3) if "loss" in name else x for name, x in others.items()}
    capsys.readouterr()
    assert main(command(tiny_model, tasks, workdir, "--force", "--mesh", "tensor=3")) == 2
    assert "--mesh tensor=3: 8 devices cannot be shared so" in capsys.readouterr().err


def test_parts_share_a_set_and_the_last_one_merges(tiny_model, tasks, tmp_path, capsys, monkeypatch):
    """By --part, or one of several processes. Tasks that nothing can be asked of take no time."""
    workdir = tmp_path / "parts"
    given = command(tiny_model, tasks, workdir, "--limit", "20")
    assert main([*given, "--part", "1/2"]) == 0
    assert "2 of 3 tasks are other parts'" in capsys.readouterr().out
    assert not (workdir / run.PREDICTIONS).exists() and records(workdir).keys() == {"b"}
    for name, value in (("COORDINATOR", "host:1"), ("PROCESSES", "2"), ("PROCESS", "0")):
        monkeypatch.setenv(f"TRM_{name}", value)
    assert main(given) == 0
    assert "3 skipped" in capsys.readouterr().out
    assert {record["reason"].split("; ")[-1] for record in records(workdir).values()} == {
        "no prompt has fewer than 20 tokens"
    }
    assert [line.status for line in read(workdir / run.PREDICTIONS)[1]] == ["skipped"] * 3


def test_a_model_that_has_seen_the_tasks_is_refused_or_marked(tiny_model, tasks, tmp_path, capsys):
    learned = tmp_path / "learned"
    learned.mkdir()
    turned = {
        side: [{k: np.rot90(g).tolist() for k, g in p.items()} for p in pairs]
        for side, pairs in task(3, width=3).items()
    }
    (learned / "other.json").write_text(json.dumps(turned))
    given = command(tiny_model, tasks, tmp_path / "seen", "--limit", "20", "--trained-on", str(learned))
    assert main(given) == 2
    said = capsys.readouterr().err
    assert "demonstrations of 1 tasks, turned or recoloured (c) in learned" in said and "--allow-contaminated" in said

    folder = tmp_path / "tuned"
    shutil.copytree(tiny_model, folder)
    record = {"trained_on": {"name": "everything", "tasks": ["a", "z"]}}
    (folder / "finetune.json").write_text(json.dumps(record))
    given[2] = str(folder)
    assert main([*given, "--allow-contaminated"]) == 0
    told = "1 task ids (a) and demonstrations of 1 tasks, turned or recoloured (c) in everything, learned"
    assert f"contaminated: the model was trained on {told}" in capsys.readouterr().out
    member = read(tmp_path / "seen" / run.PREDICTIONS)[0].member
    assert member.settings["contaminated"] == told and member.trained_on == ["everything", "learned"]
    both = str(tmp_path / "both.jsonl")
    assert main(["arc", "vote", *[str(tmp_path / "seen" / run.PREDICTIONS)] * 2, "--output", both]) == 0
    assert main(["arc", "score", both, "--data", str(tasks)]) == 0
    assert f"by a model that was trained on {told}" in capsys.readouterr().out


def test_what_a_folder_says_of_its_model_tells_turned_and_recoloured_pairs(tasks, tmp_path):
    """Also of what was learned before it."""
    known = read_tasks(tasks)
    colours = np.array([0, 2, 3, 4, 5, 6, 7, 8, 9, 1], np.uint8)
    other = Pair(*(colours[np.rot90(grid)] for grid in (known["a"].train[1].input, known["a"].train[1].output)))
    first = record("first", {"x": ArcTask("x", (other,), ())}, [])
    assert len(first["pairs"]) == 1
    for name, said in (
        ("one", first),
        ("two", record("second", {"c": known["c"]}, [Told("first", {"x"}, {*first["pairs"]})])),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "finetune.json").write_text(json.dumps({"trained_on": said}))
    found = seen(known, [tmp_path / "one"], [])
    assert (found.sets, found.ids, found.pairs) == (("first",), (), ("a",))
    found = seen(known, [tmp_path / "two"], [])
    assert (found.sets, found.ids, found.pairs) == (("second, first",), ("c",), ("a",))


def test_two_sets_of_one_name_are_both_compared(tasks, tmp_path):
    for place, name in (("one", "a"), ("two", "z")):
        folder = tmp_path / place / "training"
        folder.mkdir(parents=True)
        (folder / f"{name}.json").write_text(json.dumps(task(9)))
    found = seen(read_tasks(tasks), [], [tmp_path / place / "training" for place in ("one", "two")])
    assert found.ids == ("a",) and found.sets == ("training",)


def test_a_preset_decides_what_is_not_given(tiny_model, tasks, tmp_path):
    """Tasks that nothing can be asked of take no time."""
    words = ["ttt", "marc", str(tiny_model), "--data", str(tasks), "--limit", "20"]
    for number, more in enumerate((["--preset", "smollm2"], ["--puzzles", "0", "--lora-rank", "4"])):
        assert main([*words, "--workdir", str(tmp_path / str(number)), *more]) == 0
    first, second = (json.loads((tmp_path / name / run.RUN).read_text())["settings"] for name in "01")
    assert (first["most"], first["longest"], first["lr"], first["lora"]["rank"]) == (10, 20, 1.25e-3, 16)
    assert (second["most"], second["longest"], second["lr"], second["lora"]["rank"]) == (0, 20, 5e-5, 4)


def test_time_is_that_of_a_task_on_its_device(tmp_path):
    """Of five tasks on two devices, four side by side: two of each device, then one."""
    given = []

    def solver(group, wanted, watch):
        given.append(watch.seconds)
        return (run.Outcome(task.id) for task in group)

    asked = {name: ArcTask(name, (), ()) for name in "abcde"}
    assert work(tmp_path, "tasks", asked, solver, "tiny", at_once=4, seconds=10.0, devices=2)
    assert given == [20.0, 10.0]


def test_a_run_begins_anew_in_a_bucket(monkeypatch):
    """Records and adapters of the other one are gone."""
    adapter = {"q": {"a": np.ones((1, 2, 1), np.float32), "b": np.ones((1, 1, 2), np.float32)}}

    def solver(group, wanted, watch):
        yield run.Outcome("a", adapter=(adapter, Lora(1, 1, ("q",))))

    with Gcs("bucket", page_size=3) as gcs:
        for name, value in gcs.environment.items():
            monkeypatch.setenv(name, value)
        folder = as_path("gs://bucket/run")
        run.begin(folder, {"seed": 0}, False)
        assert len([*run.answer(folder, [question("a")], solver, 1, run.Watch, "tiny")]) == 1
        kept = folder / run.ADAPTERS / "a" / peft.WEIGHTS
        assert run.done(folder, ["a"]) and kept.exists()
        run.begin(folder, {"seed": 1}, True)
        assert not run.done(folder, ["a"]) and not kept.exists()


def test_memory_that_is_used_up_is_told_in_a_line():
    with pytest.raises(InputError, match="the device has too little memory; give less"), enough_memory("give less"):
        jnp.zeros(2**50, jnp.uint8).block_until_ready()


@pytest.mark.parametrize(
    "more, told",
    [
        (["--tasks", "x"], "--tasks x: "),
        (["--part", "4/4"], "write 0/4 for the first of four"),
        (["--minutes", "0"], "write minutes, as 2.5"),
        (["--minutes", "five"], "write minutes, as 2.5"),
        (["--prompt-file", "nowhere"], "--prompt-file nowhere cannot be read"),
        (["--trained-on", "nowhere"], "nowhere does not exist"),
        (["--preset", "nvarc_4b"], "no preset 'nvarc_4b' of marc; there are marc_8b"),
        (["--lr", "-1"], "recipe: lr is -1.0; it must be positive"),
    ],
)
def test_bad_input_is_one_line(tiny_model, tasks, tmp_path, capsys, more, told):
    try:
        code = main([*command(tiny_model, tasks, tmp_path / "run"), *more])
    except SystemExit as left:
        code = left.code
    assert code == 2
    assert told in capsys.readouterr().err.splitlines()[-1]
