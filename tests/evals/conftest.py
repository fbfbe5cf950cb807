"""Programs compiled once for the whole folder."""

import pytest

from tests import tiny


@pytest.fixture(scope="session", autouse=True)
def warm(compilations):
    with tiny.warm_compilations(compilations):
        yield
