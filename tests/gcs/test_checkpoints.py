"""Checkpoints in gs://: whole or invisible, whatever becomes of the process, the objects or the permissions."""

import pytest

from tests.gcs.client import Client
from tests.gcs.server import Gcs
from tests.gcs.storage import Fault

FOLDER = "gs://bucket/run/checkpoints"
BEGIN = "run/checkpoints/"


@pytest.fixture(scope="module")
def storage():
    with Gcs("bucket", page_size=20) as gcs:  # every listing of more than one checkpoint takes several pages
        yield gcs


@pytest.fixture(scope="module")
def client(storage, tmp_path_factory):
    client = Client(tmp_path_factory.mktemp("client"), storage.environment)
    yield client
    client.close()


@pytest.fixture
def gcs(storage):
    """The server with an empty bucket and no faults."""
    storage.heal()
    storage.buckets["bucket"].clear()
    return storage


def folders(gcs) -> set[str]:
    return {name.removeprefix(BEGIN).partition("/")[0] for name in gcs.names(BEGIN)}


def test_saves_lists_keeps_and_restores(gcs, client):
    scores = {"1": 0.9, "2": 0.1, "3": 0.2, "4": 0.3, "5": None, "6": None}
    policy = {"keep_last": 1, "keep_best": 1, "keep_every_steps": 3}
    saved = client("save", folder=FOLDER, scores=scores, policy=policy, devices=2)
    assert (saved["steps"], saved["best"]) == ([1, 3, 6], 1)
    assert folders(gcs) == {"1", "3", "6"}

    read = client("read", folder=FOLDER, which=["latest", "best", "3", "2"])
    assert (read["latest"], read["best"], read["3"]) == (6, 1, 3)
    assert read["latest same"] and read["best same"] and read["3 same"]
    assert read["line"] == f"no checkpoint '2' in {FOLDER}; there are 1, 3, 6"

    # Onto another number of devices than it was saved from.
    resumed = client("resume", folder=FOLDER, devices=1)
    assert resumed == {"step": 6, "same": True, "elapsed_s": 1.5, "found": True, "steps": [1, 3, 6]}
    assert client("save", folder=FOLDER, scores={"6": None})["fresh"] is False
    again = client("save", folder=FOLDER, scores={"6": 0.95}, policy=policy)  # its evaluation has been made up for
    assert (again["fresh"], again["best"]) == (True, 6)
    assert not [name for name in gcs.names() if "access" in name]


def test_training_goes_on_while_a_checkpoint_is_written(gcs, client):
    client("save", folder=FOLDER, scores={"1": None})
    slow = gcs.inject(Fault("write", f"{BEGIN}2/state/", status=0, delay_s=60))
    saving = client.start("save", folder=FOLDER, scores={"2": None})
    assert slow.struck.acquire(timeout=60)
    assert saving.until("saving")["fresh"]  # `save` has returned
    assert client("read", folder=FOLDER, which=["latest"])["steps"] == [1]
    gcs.heal()
    assert saving.result()["steps"] == [1, 2]
    assert client("read", folder=FOLDER, which=["latest"])["latest same"]


PLACES = (
    "2/_CHECKPOINT_METADATA",
    "2/meta/metadata",
    "2/metrics/metrics",
    "2/state/ocdbt.process_0/",
    "2/state/d/",
    "2/state/manifest",
    "2/state/commit_success",
)


# Each takes seconds; the one that comes last, when all but the last object is there, stays in the quick suite.
@pytest.mark.parametrize("place", ["2/commit_success", *(pytest.param(p, marks=pytest.mark.slow) for p in PLACES)])
def test_a_process_killed_while_it_saves_leaves_the_checkpoint_before(place, gcs, client):
    client("save", folder=FOLDER, scores={"1": 0.5})
    fault = gcs.inject(Fault("write", BEGIN + place, status=-1, delay_s=60))
    saving = client.start("save", folder=FOLDER, scores={"2": 0.9})
    assert fault.struck.acquire(timeout=60)
    saving.kill()
    gcs.heal()
    read = client("read", folder=FOLDER, which=["latest", "best"])
    assert (read["steps"], read["latest"], read["latest same"], read["best"]) == ([1], 1, True, 1)
    assert client("resume", folder=FOLDER)["step"] == 1
    assert folders(gcs) == {"1"}  # the run that goes on has cleared the rest away
    assert client("save", folder=FOLDER, scores={"2": 0.9})["steps"] == [1, 2]
    assert client("read", folder=FOLDER, which=["best"]).items() >= {"best": 2, "best same": True}.items()


def test_a_process_killed_while_it_deletes_an_old_checkpoint(gcs, client):
    client("save", folder=FOLDER, scores={"1": None})
    gcs.inject(Fault("delete", f"{BEGIN}1/", status=0, count=8))
    fault = gcs.inject(Fault("delete", f"{BEGIN}1/", status=-1, delay_s=60))
    saving = client.start("save", folder=FOLDER, scores={"2": None}, policy={"keep_last": 1})
    assert fault.struck.acquire(timeout=60)
    saving.kill()
    gcs.heal()
    assert "1" in folders(gcs)  # some of its objects are left
    assert client("resume", folder=FOLDER).items() >= {"step": 2, "same": True}.items()
    assert client("save", folder=FOLDER, scores={"3": None}, policy={"keep_last": 1})["steps"] == [3]
    assert folders(gcs) == {"3"}


@pytest.mark.parametrize("damage", ["lost", *(pytest.param(d, marks=pytest.mark.slow) for d in ("flipped", "cut"))])
def test_a_damaged_newest_checkpoint_is_set_aside(damage, gcs, client):
    client("save", folder=FOLDER, scores={"1": 0.5, "2": 0.9})
    name = max(gcs.names(f"{BEGIN}2/state/"), key=lambda name: len(gcs.get(name).content))
    content = bytearray(gcs.get(name).content)
    if damage == "lost":
        gcs.delete(name)
    else:
        content[len(content) // 2] ^= 1
        gcs.put(name, content if damage == "flipped" else content[: len(content) // 2])
    resumed = client("resume", folder=FOLDER)
    assert resumed["said"].startswith(f"checkpoint {FOLDER}/2 is damaged (")
    assert resumed["said"].endswith("); going back to the one before it")
    assert (resumed["step"], resumed["same"], resumed["steps"]) == (1, True, [1])
    assert folders(gcs) == {"1", "damaged-2"}

    # The run comes past step 2 again.
    assert client("save", folder=FOLDER, scores={"2": 0.9})["steps"] == [1, 2]
    resumed = client("resume", folder=FOLDER)
    assert (resumed["step"], resumed["same"]) == (2, True) and "said" not in resumed


def test_storage_that_does_not_answer_is_not_taken_for_damage(gcs, client):
    client("save", folder=FOLDER, scores={"1": None, "2": None})
    before = gcs.names()
    for place in ("2/state/_METADATA", "2/state/ocdbt"):  # read by gcsfs, read by tensorstore
        gcs.inject(Fault("read", BEGIN + place, status=403))
        resumed = client("resume", folder=FOLDER)
        assert "error" in resumed and "said" not in resumed
        assert gcs.names() == before
        gcs.heal()
    assert client("resume", folder=FOLDER)["step"] == 2


def test_writes_that_fail_for_a_while_are_tried_again(gcs, client):
    gcs.inject(Fault("write", f"{BEGIN}1/state/", status=503, count=3))
    gcs.inject(Fault("write", f"{BEGIN}1/meta/", status=-1, count=1))
    assert client("save", folder=FOLDER, scores={"1": None})["steps"] == [1]
    assert client("read", folder=FOLDER, which=["latest"])["latest same"]
    refused = [kind for kind, name in gcs.requests if kind == "write" and "1/meta/metadata" in name]
    assert len(refused) >= 2


def test_a_save_that_fails_is_told_and_leaves_nothing_to_see(gcs, client):
    client("save", folder=FOLDER, scores={"1": None})
    gcs.inject(Fault("write", f"{BEGIN}2/state/ocdbt", status=403))
    assert "PERMISSION_DENIED" in client("save", folder=FOLDER, scores={"2": None})["error"]
    gcs.heal()
    assert client("read", folder=FOLDER, which=["latest"])["steps"] == [1]


def test_a_bucket_that_is_not_there(gcs, client):
    for call, more in (("save", {"scores": {"1": None}}), ("resume", {}), ("read", {"which": ["latest"]})):
        told = client(call, folder="gs://absent/run", **more)
        assert told["line"] == "there is no bucket gs://absent; gcloud storage buckets create gs://absent"


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("bucket", 403, f"no permission to look at {FOLDER} (403); gcloud storage buckets add-iam-policy-binding"),
        ("write", 403, f"no permission to write to {FOLDER} (403); gcloud storage buckets add-iam-policy-binding"),
        ("delete", 403, f"no permission to delete from {FOLDER} (403); gcloud storage buckets add-iam-policy-binding"),
        ("", 401, f"Google does not know who asks for {FOLDER} (401); gcloud auth application-default login"),
    ],
)
def test_a_bucket_that_lets_nobody_in(kind, status, reason, gcs, client):
    gcs.inject(Fault(kind, status=status))
    told = client("save", folder=FOLDER, scores={"1": None})
    assert told["line"].startswith(reason) and "\n" not in told["line"]
    assert "saving" not in told
    if kind in ("write", "delete"):  # reading needs neither
        assert client("read", folder=FOLDER, which=[])["steps"] == []
