"""Programs compiled once for the whole folder."""

import pytest

from tests import tiny


@pytest.fixture(scope="session", autouse=True)
def compilations(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compilations")
    with tiny.warm_compilations(folder):
        yield folder
