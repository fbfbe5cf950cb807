"""`trm ensemble` from files to a submission, its configurations, and what it refuses."""

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from tests.cli.test_arc import write
from trm_jax.cli import ensemble_plan, main
from trm_jax.configs import registry, resolve
from trm_jax.planning import find, plan
from trm_jax.solvers import configuration
from trm_jax.tasks.arc import predictions
from trm_jax.tasks.arc.files import digest, read_tasks
from trm_jax.tasks.arc.submission import read_submission

RIGHT, WRONG, OTHER = [[5, 5]], [[6, 6]], [[7, 7]]


@pytest.fixture
def tasks(tmp_path):
    """Four tasks, the first with two test inputs; every answer is RIGHT."""
    folder = tmp_path / "tasks"
    folder.mkdir()
    for number in range(4):
        pairs = [{"input": [[number, place]], "output": RIGHT} for place in range(3)]
        cut = 1 if number == 0 else 2
        (folder / f"t{number}.json").write_text(json.dumps({"train": pairs[:cut], "test": pairs[cut:]}))
    return folder


KEYS = [("t0", 0), ("t0", 1), ("t1", 0), ("t2", 0), ("t3", 0)]


@pytest.fixture
def members(tasks, tmp_path):
    """a is right on t1 and t2, b on t2 and t3; a has nothing on t0, and b has its right grids in third place."""
    a = {key: [(RIGHT if key[0] in ("t1", "t2") else WRONG, 3), (OTHER, 1)] for key in KEYS[2:]}
    b = {key: [(RIGHT, 3)] if key[0] in ("t2", "t3") else [(WRONG, 3), (OTHER, 2), (RIGHT, 1)] for key in KEYS}
    write(tmp_path / "a.jsonl", tasks, a, "a")
    write(tmp_path / "b.jsonl", tasks, b, "b")
    return f"a={tmp_path / 'a.jsonl'}", f"b={tmp_path / 'b.jsonl'}"


def test_from_files_to_a_submission(here, tasks, members, tmp_path):
    """t1 by a's larger weight, t2 by both, t3 in second place; t0 by b alone, which is wrong there."""
    a, b = members
    output = tmp_path / "out" / "results.json"
    result = here("ensemble", f"{a}:.6", f"{b}:.4", "--data", tasks, "--output", output)
    assert result.code == 0, result.err
    assert "4 tasks, 5 test pairs, 0 of them unanswered" in result.out
    assert "gain: +0.2500 pass@2 over a, the best member" in result.out
    report = json.loads(output.read_text())
    assert report["ensemble"]["mean_over_tasks"] == {"pass@1": 0.5, "pass@2": 0.75}
    assert report["ensemble"]["mean_over_pairs"] == {"pass@1": 0.4, "pass@2": 0.6}
    assert report["oracle"]["mean_over_tasks"]["pass@2"] == 1 and report["members"][0]["silent"] == 2
    made = read_submission(tmp_path / "out" / "results.submission.json")
    assert [grid.tolist() for grid in made["t3", 0]] == [WRONG, RIGHT]
    assert [grid.tolist() for grid in made["t1", 0]] == [RIGHT, OTHER]
    header, lines = predictions.read(tmp_path / "out" / "results.predictions.jsonl")
    assert header.member.kind == "ensemble" and header.data_sha256 == digest(read_tasks(tasks))
    first = next(line for line in lines if line.task == "t3")
    assert (first.grid.tolist(), first.weight, first.source) == (WRONG, 0.45, "a")
    assert (tmp_path / "out" / "results.gallery.html").read_text().count('"state":"solved"') == 3
    scored = here("arc", "score", tmp_path / "out" / "results.submission.json", "--data", tasks)
    assert scored.out.splitlines()[1].split()[-6:-4] == ["0.5000", "0.7500"]
    again = here("ensemble", f"{b}:2", f"{a}:3", "--data", tasks, "--output", output, "--force")
    assert again.code == 0 and read_submission(tmp_path / "out" / "results.submission.json").keys() == made.keys()
    assert json.loads(output.read_text())["ensemble"] == report["ensemble"]
    assert "exists" in here("ensemble", a, "--data", tasks, "--output", output).err


def test_one_weight_is_that_member_and_an_ensemble_is_a_member(here, tasks, members, tmp_path):
    a, b = members
    assert here("ensemble", f"{a}:1", f"{b}:0", "--data", tasks, "--output", tmp_path / "r.json").code == 0
    file = tmp_path / "a.jsonl"
    assert here("arc", "submit", file, "--data", tasks, "--output", tmp_path / "s.json").code == 0
    assert (tmp_path / "r.submission.json").read_bytes() == (tmp_path / "s.json").read_bytes()
    assert "no gain: a alone" in here("ensemble", f"{a}:1", f"{b}:0", "--data", tasks).out
    whole = here("ensemble", f"e={tmp_path / 'r.predictions.jsonl'}", f"s={tmp_path / 's.json'}", "--data", tasks)
    assert whole.code == 0 and "2 of them unanswered" in whole.out, "what a submission fills in is no answer"


def test_members_that_were_asked_different_tasks(here, tasks, members, tmp_path):
    """Scores are of the tasks that all were asked; the submission has everything."""
    some = tmp_path / "some"
    some.mkdir()
    for name in ("t2", "t3"):
        (some / f"{name}.json").write_text((tasks / f"{name}.json").read_text())
    write(tmp_path / "c.jsonl", some, {("t2", 0): [(WRONG, 1)], ("t3", 0): [(RIGHT, 1)]}, "c")
    given = (members[0], f"c={tmp_path / 'c.jsonl'}", "--data", tasks)
    result = here("ensemble", *given, "--output", tmp_path / "r.json")
    assert result.code == 0 and "2 tasks, 2 test pairs" in result.out, result.err
    assert "asked: a 4 tasks, c 2 tasks" in result.out
    made = json.loads((tmp_path / "r.submission.json").read_text())
    assert made["t1"][0]["attempt_1"] == RIGHT and made["t0"][1]["attempt_2"] == [[0, 0], [0, 0]]
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["submission"]["unanswered"] == 2 and [one["asked"] for one in report["members"]] == [4, 2]
    result = here("ensemble", *given, "--tasks", "t3", "t1", "--output", tmp_path / "s.json")
    assert result.code == 0 and "of the 2 tasks" in result.out and "1 tasks, 1 test pairs" in result.out
    assert json.loads((tmp_path / "s.submission.json").read_text()).keys() == {"t1", "t3"}
    assert " --tasks t3 t1 --output" in predictions.read(tmp_path / "s.predictions.jsonl")[0].member.command
    assert "--tasks t9: " in here("ensemble", *given, "--tasks", "t9").err


def test_tuned_weights_are_scored_on_other_tasks(here, refused, tasks, members):
    a, b = members
    result = here("ensemble", a, b, "--data", tasks, "--tune-weights", "t3")
    assert result.code == 0 and "weights tuned on 1 tasks: a 0 b 1" in result.err
    assert "3 tasks, 4 test pairs" in result.out and "--tune-weights t3 --output" in result.err
    assert "leave those of the members out" in refused(
        "ensemble", f"{a}:1", f"{b}:1", "--data", tasks, "--tune-weights", "t3"
    )
    assert "t9: no task of that name" in refused("ensemble", a, b, "--data", tasks, "--tune-weights", "t9")
    every = ("t0", "t1", "t2", "t3")
    assert "names every task" in refused("ensemble", a, b, "--data", tasks, "--tune-weights", *every)


def test_a_member_that_is_silent(here, refused, tasks, members, tmp_path):
    a, b = members
    said = refused("ensemble", a, b, "--data", tasks, "--missing", "error", "--output", tmp_path / "r.json")
    assert said == "a says nothing of task t0, test 0; --missing renormalise goes on"
    assert not (tmp_path / "r.json").exists()
    assert here("ensemble", a, b, "--data", tasks, "--missing", "zero", "--output", tmp_path / "z.json").code == 0
    lines = predictions.read(tmp_path / "z.predictions.jsonl")[1]
    assert next(lines).weight == 0.25  # half of b's 3 of 6


def test_without_answers_there_are_no_scores(here, refused, tasks, members, tmp_path):
    for path in tasks.glob("*.json"):
        said = json.loads(path.read_text())
        path.write_text(json.dumps({**said, "test": [{"input": one["input"]} for one in said["test"]]}))
    result = here("ensemble", *members, "--data", tasks, "--output", tmp_path / "r.json")
    assert result.code == 0 and "no scores" in result.out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["ensemble"] is None and report["members"][0]["scores"] is None
    assert "tuning needs the answers" in refused("ensemble", *members, "--data", tasks, "--tune-weights", "t1")


def rewrite(path: Path, change) -> Path:
    """A copy of a predictions file whose header is changed."""
    first, *rest = path.read_text().splitlines()
    head = json.loads(first)
    change(head)
    copy = path.with_name(f"changed_{path.name}")
    copy.write_text("\n".join([json.dumps(head), *rest]) + "\n")
    return copy


def trained_on(path: Path, kind: str, name: str) -> Path:
    return rewrite(path, lambda head: head["member"].update(kind=kind, trained_on=[name]))


def test_contaminated_members(here, refused, tasks, members, tmp_path):
    seen = rewrite(tmp_path / "a.jsonl", lambda head: head["member"].update(trained_on=["mine:all"]))
    given = (f"a={seen}", members[1], "--data", tasks)
    assert "a was trained on the answers of mine:all, which it is asked" in refused("ensemble", *given)
    told = rewrite(tmp_path / "b.jsonl", lambda head: head["member"].update(settings={"contaminated": "2 tasks"}))
    assert "b was trained on 2 tasks" in refused("ensemble", f"b={told}", "--data", tasks)
    fine = rewrite(tmp_path / "b.jsonl", lambda head: head["member"].update(trained_on=["mine:demonstrations"]))
    assert here("ensemble", f"b={fine}", "--data", tasks).code == 0
    # Sets of the header's names that lie beside the one asked are looked at, unless `trm train` left such tasks out.
    other = tmp_path / "other"
    other.mkdir()
    (other / "t3.json").write_text((tasks / "t3.json").read_text())
    for kind, trained in (("nvarc", "other"), ("trm", "other:all"), ("nvarc", "other:demonstrations")):
        said = here("ensemble", f"b={trained_on(tmp_path / 'b.jsonl', kind, trained)}", "--data", tasks)
        assert (said.code, "1 task ids (t3)" in said.err) == ((2, True) if trained == "other" else (0, False))
    (other / "t3.json").rename(other / "renamed.json")
    said = here("ensemble", f"b={trained_on(tmp_path / 'b.jsonl', 'nvarc', 'other')}", "--data", tasks)
    assert said.code == 0 and "note: b was trained on demonstrations of" in said.err
    result = here("ensemble", *given, "--allow-contaminated", "--output", tmp_path / "r.json")
    assert result.code == 0 and "contaminated: a was trained on the answers of mine:all" in result.out
    assert "contaminated" in predictions.read(tmp_path / "r.predictions.jsonl")[0].member.settings


def test_bad_input(refused, tasks, members, tmp_path):
    a, b = members
    other = rewrite(tmp_path / "a.jsonl", lambda head: head["data"].update(sha256="0" * 64))
    broken = tmp_path / "broken.jsonl"
    broken.write_text((tmp_path / "a.jsonl").read_text() + '{"task": "t1", "test": 0, "grid": [[1, 2], [3]]}\n')
    strange = tmp_path / "strange.jsonl"
    strange.write_text((tmp_path / "a.jsonl").read_text() + '{"task": "t1", "test": 7, "grid": [[1]], "weight": 1}\n')
    (tmp_path / "s.json").write_text(json.dumps({"t9": [{"attempt_1": [[1]], "attempt_2": [[1]]}]}))
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a.jsonl")
    for given, message in [
        ([], "no members; write NAME=FILE:WEIGHT"),
        (["a.jsonl"], "'a.jsonl' is no member"),
        ([a, "--config", "A", "--plan"], "--plan shows a configuration as it is"),
        ([f"a={tmp_path / 'none.jsonl'}"], "none.jsonl does not exist"),
        ([a, f"a={tmp_path / 'b.jsonl'}"], "a stands there twice"),
        ([f"trm={tmp_path / 'a.jsonl'}", f"trm={tmp_path / 'b.jsonl'}", "--config", "A"], "trm stands there twice"),
        ([a, f"c={tmp_path / 'link.jsonl'}"], "a and c are both"),
        ([f"{a}:1", b], "b has no weight and others have one"),
        ([f"{a}:-1", f"{b}:1"], "the weight of a is -1"),
        ([f"{a}:nan", f"{b}:1"], "the weight of a is nan"),
        ([f"{a}:0", f"{b}:0"], "all weights are 0"),
        ([f"a={other}"], "answers mine, whose tasks or test inputs are not those"),
        ([f"a={broken}"], "line 8, row 1: 1 cells where row 0 has 2"),
        ([f"a={strange}"], "task t1, test 7 is not among the tasks given"),
        ([f"s={tmp_path / 's.json'}"], "task t9, test 0 is not among the tasks given; name the set"),
        ([a, "--mode", "rescore"], "--mode rescore and --scorer MODEL belong together"),
        ([f"{a}:1", f"{b}:2", "--mode", "count"], "count has no weights"),
        ([a, "--dry-run"], "are of a configuration"),
    ]:
        assert message in refused("ensemble", *given, "--data", tasks), given
    assert "--data is missing" in refused("ensemble", a)


GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ensemble" / "seed_configs.json").read_text())
# Members of the users' page by the names of ours; what they stand for differs where the page's is not supported.
OURS = {"marc": "marc-8b", "nvarc": "nvarc-qwen3", "trm": "trm"}


@pytest.mark.parametrize("name", configuration.NAMES)
def test_configurations_are_the_users(here, name):
    said, config = GOLDEN["configs"][name], configuration.read(name)
    result = here("ensemble", "--config", name, "--plan")
    assert result.code == 0 and len(config.members) == len(said["members"]), result.err
    device = find(config.device)
    assert (device.memory_gb, device.dollars_per_hour) == (said["gpu_memory_gb"], said["dollars_per_hour"])
    rented = device.dollars_per_hour * config.hours
    assert config.hours == said["hours"] and round(rented) == said["gpu_dollars"]
    assert round(rented + sum(config.other_dollars.values())) == said["total_dollars"]
    assert f"{rented:.2f} dollars of rent" in result.out
    assert {f"{key}_percent": value for key, value in config.claimed.items()} == said["claimed_by_seed"]
    claims, published = result.out.split("published by others")
    low, high = said["claimed_by_seed"]["arc1_percent"]
    assert f"{name}: ARC-AGI-1 {low}-{high}%" in claims.split("which names no source; not results")[1]
    assert config.vote == said["vote"] and bool(config.refinement) == bool(said["refinement"])
    weights = [part.weight for part in config.members.values()]
    assert weights == (said["weights"] or [1.0] * len(weights))
    for key, part in config.members.items():
        golden = GOLDEN["members"].get(OURS.get(key), {"sourced": [], "claimed_by_seed": None})
        for one in golden["sourced"]:
            assert "CONTAMINATED" in one["on"] or any(ours["percent"] == one["percent"] for ours in part.sourced)
        assert (part.claimed.get("arc1") or None) == (golden["claimed_by_seed"] or {}).get("arc1_percent")
        assert all(f"{one['percent']:g}%, {one['on']} ({one['from']})" in published for one in part.sourced)
        for text in part.commands:
            words = shlex.split(text.format(data="x", workdir="y"))[1:]
            assert main.parser().parse_args(words).run
    table = result.out.split("at 40% of the peak:")[1].split("the page has")[0]
    assert all(f"\n{key} " in table for key in config.members) and "\nall " in table
    assert ("trm, training and evaluations: about 58 GB a chip" in table) == (name == "C")
    unsupported = [part.instead_of for part in config.members.values() if part.instead_of]
    assert unsupported == [*said.get("unsupported", {})] and all(
        f"instead of {one}" in result.out for one in unsupported
    )


def test_what_members_take_is_what_their_own_planners_say(here):
    """The hours of TRM are those of `trm plan`; an adapter's memory and speed those of `trm lm plan`; twice the
    views and texts take twice the hours."""
    h100, members = find("h100"), configuration.read("A").members
    [trm] = ensemble_plan.needs(members["trm"], h100)
    whole = plan(resolve.freeze(registry.get("arc1")), h100)
    assert (trm.hours, trm.gigabytes) == (whole.train_hours + whole.eval_hours, whole.memory_bytes / 1e9)
    adapter, answers = ensemble_plan.needs(members["nvarc"], h100)
    words = ("--train", "lora", "--rank", "256", "--targets", "q,k,v,o,gate,up,down", "--context", "8192")
    said = here("lm", "plan", "qwen3-4b-16-tokens", "--device", "h100", *words).out
    assert f"fits: {adapter.gigabytes:.1f} GB of 80" in said
    rate = float(re.search(r"trains ([0-9,]+) tokens a second", said)[1].replace(",", ""))
    assert adapter.hours == pytest.approx(400 * 128 * 8192 / rate / 3600, rel=1e-4)  # the rate is printed rounded
    assert answers.hours > 0 and not answers.obstacle
    [command] = members["nvarc"].commands
    twice = dataclasses.replace(members["nvarc"], commands=[f"{command} --permutations 32 --views 4"])
    more = [one.hours for one in ensemble_plan.needs(twice, h100)]
    assert more == pytest.approx([2 * adapter.hours, 2 * answers.hours])


def test_a_configuration_runs_what_is_there(here, refused, tasks, members, tmp_path):
    """Members by name, or where their commands leave them; others are named with what is missing."""
    given = ("ensemble", "--config", "A", "--data", tasks)
    assert "nothing of configuration A is there" in refused(*given)
    fresh = here("ensemble", "--config", "A", "--dry-run")
    assert fresh.code == 0 and fresh.out.count("left out") == 3 and "is there to vote" in fresh.out
    assert "deep is no member of A; it has marc, nvarc, trm" in refused(*given, "deep=x.jsonl")
    result = here(*given, "--dry-run", f"trm={tmp_path / 'a.jsonl'}")
    assert result.code == 0 and "marc: left out, for models/marc-8B is missing; then: trm ttt marc" in result.out
    assert result.out.splitlines()[-1].startswith(f"trm ensemble trm={tmp_path / 'a.jsonl'}:0.25 --data")
    left = tmp_path / "runs" / "ensemble_A" / "marc"
    left.mkdir(parents=True)
    (left / "predictions.jsonl").write_text((tmp_path / "b.jsonl").read_text())
    result = here(*given, members[0].replace("a=", "trm="), "--output", tmp_path / "r.json")
    assert result.code == 0 and "nvarc: left out, for models/nvarc-4B is missing" in result.err
    report = json.loads((tmp_path / "r.json").read_text())
    assert [(one["name"], one["weight"]) for one in report["members"]] == [("marc", 0.4), ("trm", 0.25)]


def test_a_configuration_makes_what_can_be_made(here, tasks, tmp_path):
    """Its commands run as processes of their own; one that fails ends it with its code."""
    (tmp_path / "runs" / "arc1").mkdir(parents=True)
    result = here("ensemble", "--config", "C", "--data", tasks, "--dry-run")
    assert result.code == 0 and "trm: trm eval runs/arc1" in result.out
    result = here("ensemble", "--config", "C", "--data", tasks)
    assert result.code == 2 and "$ trm eval runs/arc1" in result.err
