"""The metrics of a run: all of them, once, and the same in every view."""

import json
import math
import re
import struct

import pytest

from tests import tiny
from trm_jax import optim
from trm_jax.errors import InputError
from trm_jax.train.tensorboard import TensorboardWriter
from trm_jax.train.writers import JsonlWriter, read_jsonl


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("run")
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
        for record in tiny.records(workdir)
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
            "early_exit_exact_accuracy", "early_exit_steps", "halt_steps",
        }  # fmt: skip
        assert sum(record["halt_steps"]) == 12
        assert record["count"] == 12 and record["steps"] == 3.0
        assert record["eval_set"] == tiny.data()[1].digest
        assert record["exact_accuracy"] in [solved / 12 for solved in range(13)]


def test_the_learning_rate_is_the_schedules(run):
    """The mean of the two updates that a record stands for: warm-up, then cosine."""
    schedule = optim.warmup_cosine(1e-3, 4, 12, 0.1)
    for record in tiny.records(run, "train"):
        expected = (float(schedule(record["step"] - 1)) + float(schedule(record["step"]))) / 2
        assert record["lr"] == pytest.approx(expected, rel=1e-6)  # float32 sums
    rates = [record["lr"] for record in tiny.records(run, "train")]
    assert rates[0] == pytest.approx(1e-3 * 1.5 / 4, rel=1e-6)
    assert rates[2:] == sorted(rates[2:], reverse=True) and rates[-1] < 0.2e-3


def test_tensorboard_shows_what_the_metrics_file_says(run):
    assert_same_figures(run)


def test_tensorboard_after_a_restart(tmp_path):
    """It is stopped between two log lines and goes on: each figure once, in both views."""
    tiny.train_here(tmp_path, stop=tiny.StopAfter(tmp_path, 3))
    tiny.train_here(tmp_path)
    assert_same_figures(tmp_path)


def test_records_of_a_lost_future_are_cut_off(tmp_path):
    file = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"kind": "train", "step": step, "loss": step / 3}) for step in (2, 4, 6, 8)]
    file.write_text("\n".join(lines) + "\n")
    writer = JsonlWriter(file, resume_step=5)
    writer.write({"kind": "train", "step": 6, "loss": 0.5})
    writer.sync()
    assert file.read_text().splitlines() == [*lines[:2], '{"kind": "train", "step": 6, "loss": 0.5}']
    writer.close()
    JsonlWriter(file).close()  # a run that begins anew
    assert file.read_text() == ""


@pytest.mark.parametrize("torn", ['{"kind": "tra', "{", '{"kind": "train", "step": 4, "loss": 0.12', "\0\0\0"])
def test_a_torn_last_line_is_left_out(tmp_path, torn):
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"kind": "train", "step": 2}\n' + torn)
    assert read_jsonl(file) == [{"kind": "train", "step": 2}]
    JsonlWriter(file, resume_step=9).close()
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
        JsonlWriter(file, resume_step=9)
    assert file.read_bytes() == content


def test_no_file_is_no_records(tmp_path):
    assert read_jsonl(tmp_path / "metrics.jsonl") == []


def test_tensorboard_can_be_left_out(tmp_path):
    tiny.train_here(tmp_path, {"log.tensorboard": False})
    assert not (tmp_path / "tensorboard").exists() and len(tiny.records(tmp_path)) == 8


def test_tensorboard_takes_numbers_only(tmp_path):
    writer = TensorboardWriter(tmp_path / "tensorboard")
    writer.write({"kind": "eval", "step": 3, "count": 7, "good": True, "eval_set": "abc", "clock": {"elapsed_s": 1.0}})
    writer.close()
    assert scalars(tmp_path) == {("eval/count", 3): 7.0}
