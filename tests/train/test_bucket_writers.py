"""The records of a run in a bucket: all of them, once, in whole lines, by one process at a time."""

import json

import pytest

from tests.gcs.server import Gcs
from tests.gcs.storage import Fault
from tests.train.test_writers import scalars
from trm_jax.errors import InputError
from trm_jax.storage.owner import take_over
from trm_jax.storage.paths import as_path
from trm_jax.train.tensorboard import BucketTensorboardWriter
from trm_jax.train.writers import BucketJsonlWriter, read_jsonl

RUN = as_path("gs://bucket/run")
FILE = RUN / "metrics.jsonl"


@pytest.fixture
def gcs(monkeypatch):
    with Gcs("bucket") as gcs:
        for name, value in gcs.environment.items():
            monkeypatch.setenv(name, value)
        take_over(RUN)
        yield gcs


def train(step):
    return {"kind": "train", "step": step, "loss": step / 3}


def steps() -> list[int]:
    return [record["step"] for record in read_jsonl(FILE)]


def somebody_else_takes_over(gcs) -> None:
    who = {"id": "another", "host": "elsewhere", "process": 7, "since": "2026-01-01T00:00:00+00:00"}
    gcs.put("run/.owner", json.dumps(who).encode())


TAKEN_OVER = (
    r"another process took over gs://bucket/run \(process 7 of elsewhere, 2026-01-01T00:00:00\+00:00\); this one"
)


def test_records_are_added_at_each_sync_and_at_the_end(gcs):
    writer = BucketJsonlWriter(FILE)
    assert gcs.names() == ["run/.owner", "run/metrics.jsonl"]
    writer.write(train(2))
    writer.write(train(4))
    assert steps() == []
    writer.sync()
    assert steps() == [2, 4]
    writer.sync()
    writer.write(train(6))
    writer.close()
    assert read_jsonl(FILE) == [train(2), train(4), train(6)]
    assert gcs.names() == ["run/.owner", "run/metrics.jsonl"]


def test_what_is_sent_grows_with_the_run_and_not_with_its_square(gcs):
    writer = BucketJsonlWriter(FILE)
    sizes = []
    for step in range(1, 41):
        writer.write(train(step))
        writer.sync()
        sizes.append(len(gcs.get(next(name for name in gcs.names("run/.metrics"))).content))
    assert max(sizes) < 2 * min(sizes) and len(gcs.get("run/metrics.jsonl").content) == sum(sizes)
    assert len([1 for kind, _ in gcs.requests if kind == "write"]) < 2 * 40 + 5
    writer.close()


def test_records_are_added_now_and_then_while_training_goes_on(gcs, monkeypatch):
    monkeypatch.setattr(BucketJsonlWriter, "EVERY_S", 0.0)
    writer = BucketJsonlWriter(FILE)
    slow = gcs.inject(Fault("write", ".metrics", status=0, delay_s=60))
    writer.write(train(2))
    assert slow.struck.acquire(timeout=30)
    for step in range(4, 20, 2):
        writer.write(train(step))  # does not wait for the storage
    assert steps() == []
    gcs.heal()
    writer.close()
    assert steps() == list(range(2, 20, 2))


def test_a_bucket_that_does_not_answer_between_two_checkpoints_is_asked_again(gcs, monkeypatch):
    from trm_jax.storage import bucket

    def silent(*_):
        raise bucket.OutOfReach("no answer")

    append = bucket.append
    monkeypatch.setattr(bucket, "append", silent)
    monkeypatch.setattr(BucketJsonlWriter, "EVERY_S", 0.0)
    writer = BucketJsonlWriter(FILE)
    for step in (2, 4, 6):
        writer.write(train(step))
    with pytest.raises(bucket.OutOfReach):
        writer.sync()  # a checkpoint must not be ahead of the records
    monkeypatch.setattr(bucket, "append", append)
    writer.sync()
    assert steps() == [2, 4, 6]
    writer.close()


@pytest.mark.parametrize("moment", ["before it is sent", "once it is sent", "once it is joined"])
def test_a_killed_writer_leaves_whole_lines_and_nothing_that_stays(gcs, moment):
    """It is abandoned in the middle of the second sync, whose records belong to a future that is lost."""
    writer = BucketJsonlWriter(FILE)
    writer.write(train(2))
    writer.sync()
    writer.write(train(4))
    if moment != "before it is sent":
        place = "run/.metrics" if moment == "once it is sent" else "run/metrics"
        gcs.inject(Fault("write", place, status=-2 if moment == "once it is joined" else 403, count=1))
        gcs.inject(Fault("stat", status=403))
        with pytest.raises(InputError):
            writer.sync()
        gcs.heal()
    assert steps() in ([2], [2, 4])
    writer = BucketJsonlWriter(FILE, resume_step=3)
    assert steps() == [2]
    writer.write(train(4))
    writer.close()
    assert read_jsonl(FILE) == [train(2), train(4)]
    assert gcs.names() == ["run/.owner", "run/metrics.jsonl"]


def test_records_of_a_lost_future_are_cut_off(gcs):
    lines = [json.dumps(train(step)) for step in (2, 4, 6, 8)]
    gcs.put("run/metrics.jsonl", ("\n".join(lines) + "\n").encode())
    BucketJsonlWriter(FILE, resume_step=5).close()
    assert gcs.get("run/metrics.jsonl").content.decode() == "".join(line + "\n" for line in lines[:2])
    BucketJsonlWriter(FILE).close()  # a run that begins anew
    assert gcs.get("run/metrics.jsonl").content == b""


def test_who_is_no_longer_the_owner_adds_nothing(gcs):
    writer = BucketJsonlWriter(FILE)
    events = BucketTensorboardWriter(RUN / "tensorboard")
    for one in (writer, events):
        one.write(train(2))
    writer.sync()
    writer.write(train(4))
    somebody_else_takes_over(gcs)
    before = gcs.names()
    for attempt in (writer.sync, lambda: BucketJsonlWriter(FILE, 4), events.close):
        with pytest.raises(InputError, match=TAKEN_OVER):
            attempt()
    writer.close()
    assert steps() == [2] and gcs.names() == before


def test_who_is_overtaken_while_it_writes_adds_nothing(gcs):
    """The owner has changed, and has cut off what it does not want, after this one had asked who it is."""
    writer = BucketJsonlWriter(FILE)
    writer.write(train(2))
    asked = gcs.inject(Fault("write", "run/.metrics", status=0, delay_s=60))
    writer.EVERY_S = 0.0
    writer.write(train(4))
    assert asked.struck.acquire(timeout=30)
    somebody_else_takes_over(gcs)
    gcs.put("run/metrics.jsonl", b'{"kind": "train", "step": 1}\n')
    gcs.heal()
    with pytest.raises(InputError, match=TAKEN_OVER):
        writer.sync()
    writer.close()
    assert steps() == [1]


def test_a_file_that_another_program_has_changed_is_left_alone(gcs):
    writer = BucketJsonlWriter(FILE)
    writer.write(train(2))
    gcs.put("run/metrics.jsonl", b'{"kind": "train", "step": 1}\n')
    with pytest.raises(InputError, match="metrics.jsonl was changed or removed by another program; .* from the last"):
        writer.sync()
    assert steps() == [1]


def segments(gcs, folder) -> dict[tuple[str, int], float]:
    """What TensorBoard shows of the segments, copied into `folder`."""
    (folder / "tensorboard").mkdir(exist_ok=True)
    for name in gcs.names("run/tensorboard/"):
        (folder / "tensorboard" / name.rpartition("/")[2]).write_bytes(gcs.get(name).content)
    return scalars(folder)


def shown(*steps: int) -> dict[tuple[str, int], float]:
    return {("train/loss", step): pytest.approx(step / 3) for step in steps}


def test_tensorboard_gets_segments_each_sent_once(gcs, tmp_path, monkeypatch):
    writer = BucketTensorboardWriter(RUN / "tensorboard")
    for step in (2, 4):
        writer.write(train(step))
        writer.sync()
    assert gcs.names("run/tensorboard/") == []  # not yet: five minutes have not passed
    monkeypatch.setattr(BucketTensorboardWriter, "EVERY_S", 0.0)
    writer.write(train(6))
    writer.write(train(8))
    writer.close()
    sent = [name for kind, name in gcs.requests if kind == "write" and "tensorboard" in name]
    assert sorted(sent) == gcs.names("run/tensorboard/") and len(sent) == 2
    assert [name.rpartition("-")[2] for name in sorted(sent)] == ["6", "8"]
    assert segments(gcs, tmp_path) == shown(2, 4, 6, 8)


@pytest.mark.parametrize("resume_step", [0, 3, 4, 7, 8])
def test_tensorboard_after_a_kill_shows_what_the_metrics_file_says(gcs, tmp_path, monkeypatch, resume_step):
    """A segment up to step 4 was sent; what came after it was not, up to step 8."""
    first = BucketTensorboardWriter(RUN / "tensorboard")
    first.write(train(2))
    monkeypatch.setattr(first, "EVERY_S", 0.0)
    first.write({**train(4), "only_in_this_life": 1.0})
    first._beside.wait()
    records = BucketJsonlWriter(FILE)
    for step in (2, 4, 6, 8):
        records.write(train(step))
    records.close()

    records = BucketJsonlWriter(FILE, resume_step)
    second = BucketTensorboardWriter(RUN / "tensorboard", resume_step)
    again = [step for step in (2, 4, 6, 8) if step > resume_step]
    for step in [*again, 10]:
        for one in (records, second):
            one.write(train(step))
    for one in (records, second):
        one.close()
    assert steps() == [2, 4, 6, 8, 10]
    void = resume_step < 4
    assert segments(gcs, tmp_path) == shown(2, 4, 6, 8, 10) | ({} if void else {("train/only_in_this_life", 4): 1.0})
    # The killed one's own clean-up: its segment is on this machine only.
    first._scratch.cleanup()
