"""One compilation of each program for the whole folder, and `trm` in processes of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import tiny
from tests.processes import Server


@pytest.fixture(scope="session", autouse=True)
def compilations(tmp_path_factory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("compilations")
    with tiny.warm_compilations(folder):
        yield folder


@pytest.fixture(scope="session")
def trm(tmp_path_factory, compilations) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("processes"), compilations)
    yield server
    server.close()
