"""`trm` in several processes that train together on this machine, over gloo, one CPU device each."""

from collections.abc import Iterator

import pytest

from tests.multihost.fleet import Hosts
from tests.processes import Server


@pytest.fixture(scope="session")
def hosts(tmp_path_factory, compilations) -> Iterator[Hosts]:
    server = Server(tmp_path_factory.mktemp("processes"), compilations)
    yield Hosts(server)
    server.close()
