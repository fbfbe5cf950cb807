"""A bucket that this process reaches as if it were Google's."""

import pytest

from tests.gcs.server import Gcs


@pytest.fixture
def gcs(monkeypatch):
    with Gcs("bucket", page_size=3) as gcs:
        for name, value in gcs.environment.items():
            monkeypatch.setenv(name, value)
        yield gcs
