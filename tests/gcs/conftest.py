"""A bucket, `trm` in processes that reach it, and runs in it."""

import pytest

from tests.gcs.server import Gcs
from tests.processes import Server


@pytest.fixture(scope="session")
def buckets():
    with Gcs("bucket", page_size=20) as gcs:  # every listing of more than one checkpoint takes several pages
        yield gcs


@pytest.fixture(scope="session")
def trm(buckets, tmp_path_factory, compilations):
    """`trm` in processes to which the bucket is Google's."""
    server = Server(tmp_path_factory.mktemp("processes"), compilations, buckets.environment)
    yield server
    server.close()


@pytest.fixture
def gcs(buckets):
    """The server without faults. What is in the bucket stays: each test takes a prefix of its own."""
    buckets.heal()
    yield buckets
    buckets.heal()
