"""Golden files of test-time training, and grids as they are written there."""

import json

import numpy as np
import pytest

from trm_jax.tasks.arc.grids import Pair


@pytest.fixture(scope="session")
def golden(golden_folder):
    """golden(name): what a golden JSON file of test-time training holds."""
    return lambda name: json.loads((golden_folder / "ttt" / f"{name}.json").read_text())


def grid_of(rows) -> np.ndarray:
    """A grid of rows of digits, or of lists of numbers."""
    return np.array([[int(cell) for cell in row] for row in rows], np.uint8)


def pairs_of(pairs) -> tuple[Pair, ...]:
    return tuple(Pair(grid_of(a), grid_of(b)) for a, b in pairs)


@pytest.fixture(scope="session")
def grid():
    return grid_of


@pytest.fixture(scope="session")
def pairs():
    return pairs_of
