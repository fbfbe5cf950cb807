"""What a run writes bit by bit: whole at any time, and in a bucket by one process at a time."""

import json

import pytest

from tests.gcs.storage import Fault
from trm_jax.errors import InputError, OutOfReach
from trm_jax.storage import bucket, output
from trm_jax.storage.output import open_output, owned, take_over, taken
from trm_jax.storage.paths import as_path

RUN = as_path("gs://bucket/run")
TAKEN_OVER = (
    r"another process took over gs://bucket/run \(process 7 of elsewhere, 2026-01-01T00:00:00\+00:00\); this one"
)


@pytest.fixture(params=["machine", "bucket"])
def workdir(request, tmp_path, gcs):
    """The folder of a run that is this process's, here and there."""
    if request.param == "machine":
        return tmp_path
    take_over(RUN)
    return RUN


@pytest.fixture
def ours(gcs):
    """The server of a bucket with a run of this process."""
    take_over(RUN)
    return gcs


def somebody_else_takes_over(gcs) -> None:
    who = {"id": "another", "host": "elsewhere", "process": 7, "since": "2026-01-01T00:00:00+00:00"}
    gcs.put("run/.owner", json.dumps(who).encode())


def content(gcs) -> bytes:
    return gcs.get("run/file").content


def test_what_is_appended_and_replaced_is_there_at_each_sync_and_at_the_end(workdir):
    (workdir / "folder" / "file").parent.mkdir(exist_ok=True)
    (workdir / "folder" / "file").write_bytes(b"of a process before")
    file = open_output(workdir, "folder/file", b"begun ")
    assert (workdir / "folder" / "file").read_bytes() == b"begun "
    file.append(b"and ")
    file.append(b"continued")
    file.sync()
    assert (workdir / "folder" / "file").read_bytes() == b"begun and continued"
    file.sync()
    file.replace(b"anew ")
    file.append(b"again")
    file.close()
    assert (workdir / "folder" / "file").read_bytes() == b"anew again"
    assert [path.name for path in (workdir / "folder").iterdir()] == ["file"]


def test_it_is_sent_now_and_then_while_other_things_go_on(ours, monkeypatch):
    monkeypatch.setattr(output, "EVERY_S", 0.0)
    file = open_output(RUN, "file")
    slow = ours.inject(Fault("write", "file", status=0, delay_s=60))
    file.append(b"1")
    assert slow.struck.acquire(timeout=30)
    for number in range(2, 8):
        file.append(b"%d" % number)  # does not wait for the storage
    assert content(ours) == b""
    ours.heal()
    file.close()
    assert content(ours) == b"1234567"
    assert [kind for kind, name in ours.requests if name == "run/file"].count("write") == 3


def test_a_large_file_is_sent_less_often(ours, monkeypatch):
    monkeypatch.setattr(output, "EVERY_S", 0.0)
    file = open_output(RUN, "file", bytes(2**20))
    for _ in range(50):
        file.append(bytes(2**10))
    assert len(content(ours)) == 2**20
    file.close()
    assert len(content(ours)) == 2**20 + 50 * 2**10


def test_a_storage_that_does_not_answer_is_told_of_and_asked_again(ours, monkeypatch):
    def silent(*_):
        raise OutOfReach("no answer; give the same command again")

    monkeypatch.setattr(output, "EVERY_S", 0.0)
    told, put = [], bucket.put
    file = open_output(RUN, "file", b"0", told.append)
    monkeypatch.setattr(bucket, "put", silent)
    for number in (b"1", b"2", b"3"):
        file.append(number)
    with pytest.raises(OutOfReach):
        file.sync()  # a checkpoint must not be ahead of the records
    assert told and set(told) == {"note: no answer; it is sent later"}
    monkeypatch.setattr(bucket, "put", put)
    file.append(b"4")
    file.close()
    assert content(ours) == b"01234"


def test_what_arrived_though_no_answer_came_is_known_again(ours, monkeypatch):
    put = bucket.put
    file = open_output(RUN, "file", b"0")

    def unanswered(*args):
        put(*args)
        raise OutOfReach("no answer")

    def silent(*_):
        raise OutOfReach("no answer")

    for number, faulty in ((b"1", unanswered), (b"2", silent)):
        monkeypatch.setattr(bucket, "put", faulty)
        file.append(number)
        with pytest.raises(OutOfReach):
            file.sync()
    monkeypatch.setattr(bucket, "put", put)
    file.append(b"3")
    file.close()
    assert content(ours) == b"0123"


def test_who_is_no_longer_the_owner_writes_nothing(ours):
    file, other = open_output(RUN, "file", b"1"), open_output(RUN, "other", b"1")
    file.append(b"2")
    somebody_else_takes_over(ours)
    for attempt in (file.sync, other.close, lambda: open_output(RUN, "file")):
        with pytest.raises(InputError, match=TAKEN_OVER):
            attempt()
    file.close()  # it has been told
    assert content(ours) == b"1" and ours.get("run/other").content == b"1"


def test_who_is_overtaken_while_it_writes_changes_nothing(ours, monkeypatch):
    """The owner has changed, and has begun its own file, after this one had asked who it is."""
    file = open_output(RUN, "file", b"1")
    monkeypatch.setattr(output, "EVERY_S", 0.0)
    file._due = 0.0
    asleep = ours.inject(Fault("write", "run/file", status=0, delay_s=60))
    file.append(b"2")
    assert asleep.struck.acquire(timeout=30)
    somebody_else_takes_over(ours)
    ours.put("run/file", b"theirs")
    ours.heal()
    with pytest.raises(InputError, match=TAKEN_OVER):
        file.sync()
    file.close()
    assert content(ours) == b"theirs"


def test_a_file_that_another_program_has_changed_or_removed_is_written_anew(ours):
    file = open_output(RUN, "file", b"1")
    file.append(b"2")
    ours.put("run/file", b"theirs")
    file.sync()
    assert content(ours) == b"12"
    ours.delete("run/file")
    file.append(b"3")
    file.close()
    assert content(ours) == b"123"


def test_a_folder_of_this_machine_has_one_owner_at_a_time(tmp_path):
    """The lock belongs to an open file, so one process can be two."""
    run = tmp_path / "new" / "run"
    with owned(run, lambda: None):
        assert taken(run)
        with pytest.raises(InputError, match="another process is working in"), owned(run, lambda: None):
            pass
    assert not taken(run) and not taken(tmp_path / "absent")
    with owned(run, lambda: None):
        assert taken(run)


@pytest.mark.parametrize("where", ["machine", "bucket"])
def test_a_file_is_no_folder_of_a_run(gcs, tmp_path, where):
    file = (tmp_path if where == "machine" else as_path("gs://bucket")) / "file"
    file.write_bytes(b"")
    with pytest.raises(InputError, match="file is a file; --workdir wants a folder"), owned(file, lambda: None):
        pass


def test_a_run_that_must_not_be_touched_is_not_taken_over(ours):
    before = ours.get("run/.owner").content

    def refuse():
        raise InputError("of another config")

    with pytest.raises(InputError, match="of another config"), owned(RUN, refuse):
        pass
    assert ours.get("run/.owner").content == before
