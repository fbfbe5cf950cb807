"""Several processes whose workdir is in a bucket."""

import pytest

from tests import tiny
from tests.gcs.server import Gcs
from tests.gcs.storage import Fault
from tests.gcs.test_runs import committed, fetch
from tests.multihost.fleet import Hosts, all_gone
from tests.processes import Server
from trm_jax.storage.paths import as_path

PROCESSES = 4


@pytest.fixture(scope="module")
def bucket():
    with Gcs("bucket") as gcs:
        yield gcs


@pytest.fixture(scope="module")
def cloud_hosts(bucket, tmp_path_factory, compilations):
    server = Server(tmp_path_factory.mktemp("processes"), compilations, bucket.environment)
    yield Hosts(server)
    server.close()


@pytest.mark.slow
def test_all_save_to_a_bucket_and_go_on_from_it(bucket, cloud_hosts, tmp_path):
    cloud_hosts.must_finish(PROCESSES, tmp_path / "undisturbed")
    workdir = as_path("gs://bucket/runs/four")
    fleet = cloud_hosts.start(PROCESSES, workdir)
    name = "runs/four/checkpoints/8/"
    fleet[0].until(lambda: bucket.names(name) or not fleet[0].alive(), poll_s=0.02)  # half a checkpoint, as a rule
    fleet[2].kill()
    all_gone(fleet, within_s=60)
    results = fleet.wait()
    assert all(result.code not in (0, 2) for result in results), [r.err for r in results]
    cloud_hosts.must_finish(PROCESSES, workdir)
    tiny.assert_same_end(tmp_path / "undisturbed", fetch(bucket, "runs/four", tmp_path))


@pytest.mark.slow  # a save that not all have written in five minutes has failed
@pytest.mark.parametrize(("name", "missed"), [("/metrics.jsonl", 6), ("/checkpoints/8/commit", 8)])
def test_all_go_on_while_the_bucket_does_not_answer_one_of_them(bucket, cloud_hosts, tmp_path, name, missed):
    """Process 0 writes the records and ends each checkpoint; the others must neither wait for ever nor fall behind."""
    cloud_hosts.must_finish(2, tmp_path / "undisturbed")
    prefix = f"runs/away-{name.strip('/').replace('/', '-')}"
    if name == "/metrics.jsonl":
        bucket.inject(Fault("write", prefix + name, status=0, count=2))  # it is begun, and the first records are added
    bucket.inject(Fault("write", prefix + name, status=503))
    fleet = cloud_hosts.start(2, as_path(f"gs://bucket/{prefix}"))
    fleet[0].until(lambda: "note: gs://" in fleet[0].printed() or not fleet[0].alive(), poll_s=0.1)
    bucket.heal()
    results = fleet.wait()
    assert [result.code for result in results] == [0, 0], [result.err for result in results]
    assert committed(bucket, prefix) == [step for step in (4, 6, 8, 12) if step != missed], results[0].err
    copy = fetch(bucket, prefix, tmp_path)
    assert tiny.records(copy) == tiny.records(tmp_path / "undisturbed")
    tiny.assert_same_state(tiny.state(copy, 12), tiny.state(tmp_path / "undisturbed", 12))
