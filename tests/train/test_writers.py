"""The metrics of a run: all of them, once, and the same in every view."""

import json
import math
import re
import struct
import sys
from types import SimpleNamespace

import pytest

from tests import tiny
from tests.gcs.server import Gcs
from trm_jax import optim
from trm_jax.errors import InputError
from trm_jax.storage.output import take_over
from trm_jax.storage.paths import as_path
from trm_jax.train.writers import Writers, open_writers, read_jsonl


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was stopped between two log lines and went on."""
    workdir = tmp_path_factory.mktemp("run")
    tiny.train_here(workdir, stop=tiny.StopAfter(workdir, 3))
    assert tiny.steps(workdir)[-1] < 12
    tiny.train_here(workdir)
    return workdir


def scalars(workdir) -> dict[tuple[str, int], float]:
    """{(tag, step): value} of every scalar in the workdir's event files, in their order."""
    from tensorboardX.proto.event_pb2 import Event

    found = {}
    for file in sorted((workdir / "tensorboard").iterdir()):
        content, at = file.read_bytes(), 0
        while at < len(content):  # a record: length, its checksum, the event, its checksum
            (length,) = struct.unpack_from("<Q", content, at)
            event = Event.FromString(content[at + 12 : at + 12 + length])
            at += 16 + length
            if event.HasField("session_log"):  # a restart: what came after this step is void
                found = {key: value for key, value in found.items() if key[1] < event.step}
            found |= {(value.tag, event.step): value.simple_value for value in event.summary.value}
    return found


def assert_same_figures(workdir) -> None:
    told = {
        (f"{record['kind']}/{name}", record["step"]): value
        for record in read_jsonl(workdir / "metrics.jsonl")
        for name, value in record.items()
        if isinstance(value, int | float) and name != "step"
    }
    shown = scalars(workdir)
    assert shown.keys() == told.keys()
    for key, value in told.items():
        assert shown[key] == pytest.approx(value, rel=1e-7)  # TensorBoard stores float32


def test_every_logging_step_is_there_once_and_in_order(run):
    """They are fetched one logging step late, so the last would be the one to get lost."""
    assert [r["step"] for r in tiny.records(run, "train")] == [2, 4, 6, 8, 10, 12]
    assert [r["step"] for r in tiny.records(run, "eval")] == [6, 12]
    every = [(r["step"], r["kind"]) for r in tiny.records(run)]
    assert every == sorted(every, key=lambda r: (r[0], r[1] == "eval"))


def test_what_a_training_record_says(run):
    for record in (json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()):
        assert set(record["clock"]) <= {"elapsed_s", "steps_per_s", "examples_per_s", "peak_memory_bytes"}
        assert all(value > 0 for value in record["clock"].values())
    for record in tiny.records(run, "train"):
        assert record["examples"] == 8 * record["step"]
        assert record["loss"] == pytest.approx(record["lm_loss"] + 0.5 * record["q_loss"], rel=1e-6)
        scores = {"accuracy", "exact_accuracy", "q_halt_accuracy", "steps", "halt_steps"}
        assert scores <= record.keys() if record["halted"] else not scores & record.keys()
        assert all(math.isfinite(value) for value in record.values() if isinstance(value, float))
    # halt_max_steps is 3 and q says "go on" at first: rows end at step 3 of theirs, all together.
    first = {record["step"]: record for record in tiny.records(run, "train")}
    assert first[2]["halted"] == 0 and first[4]["halted"] == 8 and first[4]["halt_steps"] == [0, 0, 8]


def test_what_an_evaluation_record_says(run):
    for record in tiny.records(run, "eval"):
        assert record.keys() == {
            "kind", "step", "exact_accuracy", "accuracy", "q_halt_accuracy", "steps", "count", "eval_set",
            "early_exit_accuracy", "early_exit_exact_accuracy", "early_exit_steps", "halt_steps",
        }  # fmt: skip
        assert sum(record["halt_steps"]) == 12
        assert record["count"] == 12 and record["steps"] == 3.0
        assert record["eval_set"] == tiny.data()[1].digest
        assert record["exact_accuracy"] in [solved / 12 for solved in range(13)]


def test_the_learning_rate_is_the_schedules(run):
    """The mean of the two updates that a record stands for: warm-up, then cosine."""

    def schedule(step: int):
        return optim.warmup_cosine(step, 1e-3, 4, 12, 0.1)

    for record in tiny.records(run, "train"):
        expected = (float(schedule(record["step"] - 1)) + float(schedule(record["step"]))) / 2
        assert record["lr"] == pytest.approx(expected, rel=1e-6)  # float32 sums
    rates = [record["lr"] for record in tiny.records(run, "train")]
    assert rates[0] == pytest.approx(1e-3 * 1.5 / 4, rel=1e-6)
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 0.2e-3


def test_tensorboard_shows_what_the_metrics_file_says(run):
    assert_same_figures(run)


# From here on: writers alone, on this machine and in a bucket.


@pytest.fixture(params=["machine", "bucket"])
def workdir(request, tmp_path, monkeypatch):
    if request.param == "machine":
        yield tmp_path
        return
    with Gcs("bucket") as gcs:
        for name, value in gcs.environment.items():
            monkeypatch.setenv(name, value)
        workdir = as_path("gs://bucket/run")
        take_over(workdir)
        yield workdir


def begin(workdir, resume_step: int = 0, say=print, **how) -> Writers:
    log = SimpleNamespace(**{"tensorboard": True, "wandb_project": "", **how})
    return open_writers(workdir, resume_step, SimpleNamespace(log=log, name="mine", page={"seed": 3}), say)


def life(workdir, resume_step: int, *steps: int, **how) -> None:
    """A process that goes on at `resume_step` and writes records of `steps`."""
    writers = begin(workdir, resume_step, **how)
    for step in steps:
        writers.write(train(step))
    writers.close()


def train(step):
    return {"kind": "train", "step": step, "loss": step / 3}


def steps(workdir) -> list[int]:
    return [record["step"] for record in read_jsonl(workdir / "metrics.jsonl")]


def test_records_are_there_at_each_sync_and_at_the_end(workdir):
    writers = begin(workdir)
    writers.write(train(2))
    writers.write(train(4))
    writers.sync()
    assert steps(workdir) == [2, 4]
    writers.write(train(6))
    writers.close()
    assert read_jsonl(workdir / "metrics.jsonl") == [train(2), train(4), train(6)]
    assert {path.name for path in workdir.iterdir()} - {".owner"} == {"metrics.jsonl", "tensorboard"}


def test_records_of_a_lost_future_are_cut_off(workdir):
    lines = [json.dumps(train(step)) for step in (2, 4, 6, 8)]
    (workdir / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    life(workdir, 5)
    assert (workdir / "metrics.jsonl").read_text() == "".join(line + "\n" for line in lines[:2])
    life(workdir, 0)  # a run that begins anew
    assert (workdir / "metrics.jsonl").read_bytes() == b""


@pytest.mark.parametrize("resume_step", [0, 3, 4, 8])
def test_tensorboard_after_a_kill_shows_what_the_metrics_file_says(workdir, resume_step):
    """Also where nothing was saved before the kill, and where the metrics file knows more than was shown."""
    killed = begin(workdir)
    for step in (2, 4):
        killed.write({**train(step), "of_a_lost_future": 1.0})
    killed.close()
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(train(step)) + "\n" for step in (2, 4, 6, 8)))
    life(workdir, resume_step, *(step for step in (2, 4, 6, 8, 10) if step > resume_step))
    assert steps(workdir) == [2, 4, 6, 8, 10]
    assert scalars(workdir) == {("train/loss", step): pytest.approx(step / 3) for step in (2, 4, 6, 8, 10)}
    assert len(list((workdir / "tensorboard").iterdir())) == 1


def test_tensorboard_takes_numbers_only_or_can_be_left_out(tmp_path):
    writers = begin(tmp_path)
    writers.write({"kind": "eval", "step": 3, "exact_accuracy": 0.5, "good": True, "set": "a", "clock": {"x": 1.0}})
    writers.close()
    assert scalars(tmp_path) == {("eval/exact_accuracy", 3): 0.5}
    life(tmp_path / "without", 0, 2, tensorboard=False)
    assert [path.name for path in (tmp_path / "without").iterdir()] == ["metrics.jsonl"]


def test_times_in_tensorboard_are_those_of_training(tmp_path):
    """A run that went on a day later shows no day in between."""
    from tensorboardX.proto.event_pb2 import Event

    life(tmp_path, 0)
    (tmp_path / "metrics.jsonl").write_text(
        "".join(json.dumps({**train(step), "clock": {"elapsed_s": 10.0 * step}}) + "\n" for step in (1, 2))
    )
    writers = begin(tmp_path, 2)
    writers.write({**train(3), "clock": {"elapsed_s": 30.0}})
    writers.close()
    (file,) = (tmp_path / "tensorboard").iterdir()
    content, at, times = file.read_bytes(), 0, []
    while at < len(content):
        (length,) = struct.unpack_from("<Q", content, at)
        times.append(Event.FromString(content[at + 12 : at + 12 + length]).wall_time)
        at += 16 + length
    assert [time - times[-3] for time in times[-3:]] == pytest.approx([0, 10, 20])


@pytest.mark.parametrize("torn", ['{"kind": "tra', "{", '{"kind": "train", "step": 4, "loss": 0.12', "\0\0\0"])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"kind": "train", "step": 2}\n' + torn)
    assert read_jsonl(file) == [{"kind": "train", "step": 2}]
    life(tmp_path, 9)
    assert file.read_text() == '{"kind": "train", "step": 2}\n'


@pytest.mark.parametrize(
    "broken",
    [
        *(b"{", b"[]", b"3", b"{}", b"\xff\xfe", b'{"step": 1}', b'{"kind": "train", "step": "two"}'),
        *(b'{"kind": "eval", "step": 3}', b'{"kind": "train", "step": 3, "clock": null}'),
    ],
)
def test_a_broken_line_further_up_is_named(tmp_path, broken):
    file = tmp_path / "metrics.jsonl"
    content = b'{"kind": "train", "step": 2}\n' + broken + b'\n{"kind": "train", "step": 4}\n'
    file.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"{file} line 2 is no record")):
        begin(tmp_path, 9)
    assert file.read_bytes() == content and [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_no_file_is_no_records(tmp_path):
    assert read_jsonl(tmp_path / "metrics.jsonl") == []


def test_all_writers_are_closed_and_the_first_problem_is_raised():
    class One:
        closed = False

        def __init__(self, problem=None):
            self._problem = problem

        def close(self):
            self.closed = True
            if self._problem:
                raise self._problem

    several = [One(), One(OSError(28, "full")), One(), One(ValueError("second"))]
    with pytest.raises(OSError, match="full"):
        Writers(several[0], several[1:]).close()
    assert all(one.closed for one in several)


class Wandb:
    """What the tests need of Weights & Biases: rows by step, which must not go back, and runs that go on."""

    def __init__(self):
        self.rows, self.summary, self.inits = {}, {}, []
        self.util = SimpleNamespace(generate_id=lambda: "abc")

    def init(self, **how):
        self.inits.append(how)
        self.rows = self.rows if len(self.inits) == 1 or how["resume"] == "allow" else {}
        self.step = max(self.rows, default=-1) + 1
        return self

    def log(self, values, step):
        assert step >= self.step and not values.keys() & self.rows.get(step, {}).keys(), "sent twice"
        self.step = step
        self.rows.setdefault(step, {}).update(values)

    def finish(self):
        self.step = -1


def test_weights_and_biases_gets_each_row_once(workdir, monkeypatch):
    wandb = Wandb()
    wandb.__spec__ = object()  # what an installed module has
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    life(workdir, 0, 2, 4, 6, wandb_project="ours")
    assert wandb.rows == {step: {"train/loss": step / 3} for step in (2, 4, 6)}
    del wandb.rows[6]
    # 4 was sent but not saved, and so is made again; 6 was saved but not sent.
    for resume_step, new in ((2, (4, 6)), (6, (8,))):
        life(workdir, resume_step, *new, wandb_project="ours")
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(train(step)) + "\n" for step in (2, 4, 6, 8, 10)))
    life(workdir, 10, 12, wandb_project="ours")
    assert wandb.rows == {step: {"train/loss": step / 3} for step in (2, 4, 6, 8, 10, 12)}
    first = wandb.inits[0]
    assert (first["project"], first["name"], first["config"], first["id"]) == ("ours", "mine", {"seed": 3}, "abc")
    assert {how["id"] for how in wandb.inits} == {"abc"} and (workdir / "wandb_id").read_text() == "abc"


def test_rows_of_a_run_of_version_0_1_0_are_not_sent_again(tmp_path, monkeypatch):
    """They were counted, and told their step as a value."""
    wandb = Wandb()
    wandb.__spec__ = object()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    wandb.rows, wandb.summary = {0: {}, 1: {}}, {"step": 4}
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(train(step)) + "\n" for step in (2, 4, 6)))
    life(tmp_path, 6, 8, wandb_project="ours")
    assert [step for step, values in wandb.rows.items() if values] == [6, 8]


def test_rows_of_one_step_are_one_row(tmp_path, monkeypatch):
    wandb = Wandb()
    wandb.__spec__ = object()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    writers = begin(tmp_path, wandb_project="ours")
    writers.write(train(6))
    writers.write({"kind": "eval", "step": 6, "exact_accuracy": 0.5})
    writers.close()
    assert wandb.rows == {6: {"train/loss": 2.0, "eval/exact_accuracy": 0.5}}
