"""One compilation of each program for the whole folder, and `trm` in processes of its own."""

from collections.abc import Iterator

import pytest

from tests import tiny
from tests.processes import Server


@pytest.fixture(scope="session", autouse=True)
def warm(compilations) -> Iterator[None]:
    with tiny.warm_compilations(compilations):
        yield


@pytest.fixture(scope="session")
def trm(tmp_path_factory, compilations) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("processes"), compilations)
    yield server
    server.close()
