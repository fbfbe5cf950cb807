"""Whole runs in gs://: as on a disk, whatever becomes of the process, the storage or the permission on the way."""

import json
from pathlib import Path

import pytest

from tests import tiny
from tests.gcs.storage import Fault
from tests.train.test_writers import assert_same_figures

CHANGES = {"checkpoint.keep_last": 3}


def train(prefix: str, **changes) -> list[str]:
    return ["train", "demo", "--workdir", f"gs://bucket/{prefix}", *tiny.arguments({**CHANGES, **changes})]


def fetch(gcs, prefix: str, folder: Path) -> Path:
    """A copy of what lies under `prefix` on this machine."""
    for name in gcs.names(f"{prefix}/"):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(gcs.get(name).content)
    return folder / prefix


def logged(gcs, prefix: str) -> int:
    name = f"{prefix}/metrics.jsonl"
    return gcs.get(name).content.count(b"\n") if name in gcs.names(name) else 0


def committed(gcs, prefix: str) -> list[int]:
    """Steps of the checkpoints that can be seen."""
    steps = [
        name.split("/")[-2] for name in gcs.names(f"{prefix}/checkpoints/") if name.endswith("/commit_success.txt")
    ]
    return sorted(int(step) for step in steps if step.isdigit())


def files(gcs, prefix: str) -> set[str]:
    """The names in the run's folder."""
    return {name.removeprefix(f"{prefix}/").partition("/")[0] for name in gcs.names(f"{prefix}/")}


FILES = {
    *("config.json", "run.json", "goodput.json", "metrics.jsonl", "curve.png"),
    *("checkpoints", "tensorboard", ".owner"),
}


def assert_like(reference: Path, gcs, prefix: str, folder: Path) -> None:
    copy = fetch(gcs, prefix, folder)
    tiny.assert_same_end(reference, copy)
    assert_same_figures(copy)
    assert files(gcs, prefix) - {"costs.jsonl"} == FILES  # of a life that was killed in its first minute it has no line


def assert_one_line(result, code: int, *words: str) -> None:
    """That exit code and one error line that has these words; no traceback of any thread."""
    assert result.code == code, (result.code, result.err)
    assert "Traceback" not in result.err, result.err
    (line,) = result.error_lines
    for word in words:
        assert word in line, line


@pytest.fixture(scope="module")
def reference(trm, tmp_path_factory) -> Path:
    """An undisturbed run on a disk."""
    workdir = tmp_path_factory.mktemp("reference") / "run"
    result = trm.run("train", "demo", "--workdir", workdir, *tiny.arguments(CHANGES))
    assert result.code == 0, result.err
    return workdir


@pytest.fixture(scope="module")
def run(trm, buckets) -> str:
    """A run in the bucket that was stopped once and went on."""
    process = trm.start(*train("runs/demo"))
    assert process.until(lambda: logged(buckets, "runs/demo") >= 1)
    process.signal(15)
    stopped = process.wait()
    assert stopped.code == 75, stopped.err
    assert "--workdir gs://bucket/runs/demo   (goes on from there)" in stopped.out
    result = trm.run(*train("runs/demo"))
    assert result.code == 0, result.err
    assert "workdir gs://bucket/runs/demo" in result.err and "trm eval gs://bucket/runs/demo" in result.out
    return "gs://bucket/runs/demo"


def test_a_run_in_a_bucket_is_like_one_on_a_disk(trm, gcs, reference, run, tmp_path):
    assert set(committed(gcs, "runs/demo")) >= {12}
    copy = fetch(gcs, "runs/demo", tmp_path)
    assert tiny.records(copy) == tiny.records(reference)
    tiny.assert_same_state(tiny.state(copy, 12), tiny.state(reference, 12))
    assert_same_figures(copy)
    assert files(gcs, "runs/demo") == FILES | {"costs.jsonl"}
    before = gcs.names("runs/demo/checkpoints")
    again = trm.run(*train("runs/demo"))  # it is done: nothing is left to do
    assert again.code == 0, again.err
    assert gcs.names("runs/demo/checkpoints") == before and files(gcs, "runs/demo") == FILES | {"costs.jsonl"}
    other = trm.run(*train("runs/demo", **{"optim.lr": 0.5}))
    assert_one_line(
        other, 2, "gs://bucket/runs/demo holds another run: optim.lr is 0.001 there and 0.5 here; use another"
    )


def kill(trm, gcs, prefix: str, name: str, passed: int) -> None:
    """Start a run and kill it while it writes `name`, which it may do `passed` times before."""
    gcs.inject(Fault("write", prefix + name, status=0, count=passed))
    fault = gcs.inject(Fault("write", prefix + name, status=-1, delay_s=60))
    process = trm.start(*train(prefix))
    assert process.until(lambda: fault.struck.acquire(blocking=False)), process.printed()
    process.kill()
    process.wait()
    gcs.heal()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "passed"), [("/checkpoints/6/state/", 3), ("/goodput.json", 1), ("/tensorboard/", 0), ("/tensorboard/", 1)]
)
def test_a_killed_run_goes_on_exactly(trm, gcs, reference, tmp_path, name, passed):
    prefix = f"killed/{name.strip('/').replace('/', '-')}{passed}"
    kill(trm, gcs, prefix, name, passed)
    result = trm.run(*train(prefix))
    assert result.code == 0, result.err
    assert_like(reference, gcs, prefix, tmp_path)


def test_a_run_that_is_refused_and_killed_and_has_a_weak_bucket(trm, gcs, reference, tmp_path):
    """It goes on exactly from the checkpoint before each."""
    gcs.inject(Fault("write", "weak/metrics.jsonl", status=0, count=2))  # it is begun, and the first records are added
    gcs.inject(Fault("write", "weak/metrics.jsonl", status=403))
    said = "no permission to write to gs://bucket/weak/metrics.jsonl (403); gcloud storage buckets add-"
    assert_one_line(trm.run(*train("weak")), 2, said)
    assert committed(gcs, "weak") == [3]
    gcs.heal()
    kill(trm, gcs, "weak", "/metrics.jsonl", 1)  # the sync before the next checkpoint
    assert committed(gcs, "weak") == [3]
    for kind in ("read", "write", "list", "stat"):
        gcs.inject(Fault(kind, "weak/", status=503, count=1))
    gcs.inject(Fault("write", "weak/metrics.jsonl", status=-2, count=1))  # served, but the answer is lost
    gcs.inject(Fault("write", "weak/tensorboard", status=0, delay_s=0.3))
    result = trm.run(*train("weak"))
    assert result.code == 0 and not result.error_lines, result.err
    assert "going on from step 3 of 12" in result.err
    assert_like(reference, gcs, "weak", tmp_path)


def test_who_comes_last_has_the_run(trm, gcs, reference, tmp_path):
    """A process that was thought to be dead wakes up and finds that another one has taken over."""
    gcs.inject(Fault("write", "taken/metrics.jsonl", status=0, count=1))
    asleep = gcs.inject(Fault("write", "taken/metrics.jsonl", status=0, count=1, delay_s=60))
    first = trm.start(*train("taken"))
    assert first.until(lambda: asleep.struck.acquire(blocking=False)), first.printed()
    second = trm.run(*train("taken"))
    assert second.code == 0, second.err
    asleep.lifted.set()
    assert_one_line(first.wait(), 2, "another process took over gs://bucket/taken (process ", "; this one stops")
    assert_like(reference, gcs, "taken", tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["state/", "_CHECK"])
def test_a_permission_that_is_taken_away_on_the_way(trm, gcs, reference, tmp_path, name):
    prefix = f"refused/{name.strip('/')}"
    gcs.inject(Fault("write", f"{prefix}/checkpoints/6/{name}", status=403))
    assert_one_line(trm.run(*train(prefix)), 2, "no permission to use gs://bucket (403); ")
    assert committed(gcs, prefix) == [3]
    gcs.heal()
    result = trm.run(*train(prefix))
    assert result.code == 0 and "going on from step 3 of 12" in result.err, result.err
    assert_like(reference, gcs, prefix, tmp_path)


# gcsfs tries for half a minute each time.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "said", "missed"),
    [
        ("/metrics.jsonl", "/metrics.jsonl cannot be reached (", "training goes on from step 6, and saves later"),
        ("/checkpoints/6/commit", " cannot be reached (", "there is no checkpoint of the save before step 9"),
    ],
)
def test_training_goes_on_while_the_bucket_does_not_answer(trm, gcs, reference, tmp_path, name, said, missed):
    prefix = f"away/{name.strip('/').replace('/', '-')}"
    if name == "/metrics.jsonl":
        gcs.inject(Fault("write", prefix + name, status=0, count=2))  # it is begun, and the first records are added
    gcs.inject(Fault("write", prefix + name, status=503))
    process = trm.start(*train(prefix))
    assert process.until(lambda: "note: gs://bucket" in process.printed(), poll_s=0.1), process.printed()
    gcs.heal()
    result = process.wait()
    assert result.code == 0 and not result.error_lines, result.err
    assert said in result.err and missed in result.err, result.err
    assert committed(gcs, prefix) == [3, 9, 12]
    copy = fetch(gcs, prefix, tmp_path)
    assert tiny.records(copy) == tiny.records(reference)
    tiny.assert_same_state(tiny.state(copy, 12), tiny.state(reference, 12))
    assert_same_figures(copy)


@pytest.mark.slow
def test_a_run_that_cannot_be_saved_at_its_end_has_failed(trm, gcs, reference, tmp_path):
    gcs.inject(Fault("write", "silent/metrics.jsonl", status=0, count=4))
    gcs.inject(Fault("write", "silent/metrics.jsonl", status=503))
    result = trm.run(*train("silent"))
    assert_one_line(result, 69, "gs://bucket/silent/metrics.jsonl cannot be reached (", "; give the same command again")
    gcs.heal()
    assert trm.run(*train("silent")).code == 0
    assert_like(reference, gcs, "silent", tmp_path)


@pytest.mark.slow
def test_what_is_wrong_with_a_bucket_is_told_before_anything_is_done(trm, gcs, run, tmp_path):
    """In each command, in one line; training does not load its data before."""
    no_data = ["--set", "data.source=csv", f"data.path={tmp_path}/none"]
    absent = "there is no bucket gs://absent; gcloud storage buckets create gs://absent"
    for argv in (
        ["train", "demo", "--workdir", "gs://absent/run", *no_data],
        ["train", "demo", "--set", "data.source=csv", "data.path=gs://absent/puzzles", "--workdir", tmp_path / "run"],
        ["eval", "gs://absent/run"],
        ["solve", "gs://absent/run", "--example"],
        ["solve", run, "gs://absent/puzzles.txt"],
        ["list", "--root", "gs://absent/runs"],
        ["report", "exp01", "--root", "gs://absent/runs"],
        ["report", "gs://absent/run"],
        ["compare", "gs://absent/run"],
        ["compare", run, "--output", "gs://absent/curves.png"],
        ["export", run, "gs://absent/model.safetensors"],
        ["import", "gs://absent/model.safetensors", "--config", "demo", "--workdir", tmp_path / "imported"],
        ["data", "sudoku", "verify", "gs://absent/puzzles"],
        ["data", "sudoku", "build", "--size", "4", "--output-dir", "gs://absent/puzzles"],
    ):
        assert_one_line(trm.run(*argv), 2, absent)
    gcs.inject(Fault("write", "new/", status=403))
    no_write = "no permission to write to gs://bucket/new (403); gcloud storage buckets add-iam-policy-binding"
    assert_one_line(trm.run("train", "demo", "--workdir", "gs://bucket/new", *no_data), 2, no_write)
    gcs.heal()
    gcs.inject(Fault(status=401))
    unknown = "Google does not know who asks for gs://bucket/new (401); gcloud auth application-default login"
    assert_one_line(trm.run("train", "demo", "--workdir", "gs://bucket/new", *no_data), 2, unknown)
    gcs.heal()
    assert gcs.names("new/") == []
    # Then the data are looked for, and a run that could not begin leaves nothing.
    assert_one_line(trm.run("train", "demo", "--workdir", "gs://bucket/new", *no_data), 2, f"{tmp_path}/none")
    assert gcs.names("new/") == ["new/.owner"]
    sweep = trm.run("sweep", "exp01", "--root", "gs://bucket/runs", "--dry-run")
    assert_one_line(
        sweep, 2, "gs://bucket/runs is not on this machine, where a sweep keeps its locks and logs; launch/"
    )


@pytest.mark.slow
def test_using_a_run(trm, gcs, run, reference, tmp_path):
    for command in (["eval", run, "--checkpoint", "best"], ["eval", run]):
        result = trm.run(*command)
        assert result.code == 0, result.err
    scores = [json.loads(line) for line in gcs.get("runs/demo/evals.jsonl").content.splitlines()]
    local = trm.run("eval", reference)
    assert len(scores) == 2 and local.code == 0
    assert scores[1] == json.loads((reference / "evals.jsonl").read_text())
    gcs.delete("runs/demo/evals.jsonl")

    gcs.put("puzzles.txt", b"1....\n")  # too short
    assert_one_line(trm.run("solve", run, "gs://bucket/puzzles.txt"), 2, "gs://bucket/puzzles.txt line 1")
    gcs.put("puzzles.txt", b"1..4..3....2.1..\n")
    argv = ["gs://bucket/puzzles.txt", "--png", "gs://bucket/pictures/a.png", "--gif", "gs://bucket/pictures/a.gif"]
    there = trm.run("solve", run, *argv)
    here = trm.run("solve", reference, "1..4..3....2.1..")
    assert there.code == here.code and there.out.startswith(here.out), there.err
    assert gcs.get("pictures/a.png").content.startswith(b"\x89PNG")
    assert gcs.get("pictures/a.gif").content.startswith(b"GIF8")
    missing = trm.run("solve", run, "gs://bucket/absent.txt")
    assert_one_line(missing, 2, "gs://bucket/absent.txt does not exist; name a file of puzzles")

    for place in ("gs://bucket/model.safetensors", tmp_path / "model.safetensors"):
        assert trm.run("export", run, place).code == 0
    assert gcs.get("model.safetensors").content == (tmp_path / "model.safetensors").read_bytes()
    assert_one_line(trm.run("export", run, "gs://bucket/model.safetensors"), 2, "exists; give another name or --force")
    settings = ["--set", *(a for a in tiny.arguments()[1:] if a.startswith(("model.", "data.")))]
    imported = ["import", "gs://bucket/model.safetensors", "--config", "demo", *settings]
    result = trm.run(*imported, "--workdir", "gs://bucket/imported")
    assert result.code == 0, result.err
    assert trm.run("eval", "gs://bucket/imported").out.splitlines()[1:] == local.out.splitlines()[1:]
    assert_one_line(trm.run(*imported, "--workdir", "gs://bucket/imported"), 2, "holds a run already")
    assert_one_line(trm.run("eval", "gs://bucket/runs"), 2, "gs://bucket/runs is not a run (it has no config.json)")


def test_reading_runs(trm, gcs, run, reference, tmp_path):
    for seed in (1, 2):  # the same run under another name: nothing here looks at its weights
        for name in gcs.names("runs/demo/"):
            content = gcs.get(name).content
            if name.endswith("config.json"):
                content = json.dumps({**json.loads(content), "seed": seed}).encode()
            gcs.put(name.replace("runs/demo", f"runs/more/seed{seed}"), content)
    listed = trm.run("list", "demo", "--root", "gs://bucket/runs")
    assert listed.code == 0 and "3 with other settings" in listed.out, listed.out
    assert "trm train" not in trm.run("list", "demo", "--names", "--root", "gs://bucket/runs").out

    result = trm.run("report", run, "gs://bucket/runs/more", "--output", "gs://bucket/reports", cwd=tmp_path)
    assert result.code == 0, result.err
    assert "next: open gs://bucket/reports/selection.html" in result.out
    made = {name.removeprefix("reports/") for name in gcs.names("reports/")}
    assert {"selection.html", "selection.md", "selection.csv"} <= made
    assert "gs://bucket/runs/more/seed1" in gcs.get("reports/selection.csv").content.decode()
    result = trm.run("report", "demo", "--root", "gs://bucket/runs", "--output", tmp_path / "reports")
    assert result.code == 0 and (tmp_path / "reports" / "selection.md").exists(), result.err
    nothing = trm.run("report", "exp01", "--root", "gs://bucket/runs")
    assert_one_line(nothing, 2, "no finished runs of exp01 in gs://bucket/runs: looked for")

    result = trm.run("compare", run, reference, "--output", "gs://bucket/curves.png", cwd=tmp_path)
    assert result.code == 0 and gcs.get("curves.png").content.startswith(b"\x89PNG"), result.err


@pytest.mark.slow
@pytest.mark.parametrize("form", ["csv", "arrays"])
def test_data_in_a_bucket(trm, gcs, tmp_path, form):
    build = ["data", "sudoku", "build", "--size", "4", "--subsample-size", "30", "--test", "10", "--extra-clues", "2"]
    made = []
    for place in (f"gs://bucket/{form}", tmp_path / form):
        result = trm.run(*build, "--format", form, "--output-dir", place)
        assert result.code == 0, result.err
        made.append(result.out.replace(str(place), "PLACE"))
    assert made[0] == made[1]
    there = {name.removeprefix(f"{form}/"): gcs.get(name).content for name in gcs.names(f"{form}/")}
    here = {str(f.relative_to(tmp_path / form)): f.read_bytes() for f in (tmp_path / form).rglob("*") if f.is_file()}
    assert there == here
    again = trm.run(*build, "--format", form, "--output-dir", f"gs://bucket/{form}")
    assert_one_line(again, 2, "exists; give another name or --force to replace it")

    assert trm.run("data", "sudoku", "verify", f"gs://bucket/{form}").code == 0
    shown = [trm.run("data", "sudoku", "show", place) for place in (f"gs://bucket/{form}", tmp_path / form)]
    assert shown[0].code == 0 and shown[0].out == shown[1].out, shown[0].err
    other = "csv" if form == "arrays" else "arrays"
    export = ["data", "sudoku", "export", f"gs://bucket/{form}", "--format", other]
    assert trm.run(*export, "--output-dir", f"gs://bucket/{form}-{other}").code == 0

    source = {"data.source": form, "data.train_puzzles": 0, "data.test_puzzles": 0, "data.augmentations": 0}
    runs = []
    for name, place in (("there", f"gs://bucket/{form}"), ("here", tmp_path / form)):
        workdir = tmp_path / name
        argv = tiny.arguments({**source, "data.path": str(place), "train.steps": 4, "eval.every_steps": 4})
        result = trm.run("train", "demo", "--workdir", workdir, *argv)
        assert result.code == 0, result.err
        runs.append(tiny.records(workdir))
    assert runs[0] == runs[1]
    argv = ["--workdir", tmp_path / "none", "--set", f"data.source={form}", "data.path=gs://bucket/none"]
    assert_one_line(
        trm.run("train", "demo", *argv), 2, "gs://bucket/none/", "does not exist", "--output-dir gs://bucket/none"
    )
