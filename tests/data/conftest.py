"""Small proven puzzle sets, made once."""

import pytest

from trm_jax.data.generator import distinct_puzzles


@pytest.fixture(scope="session")
def boards_of():
    """boards_of(size): 60 generated puzzles."""
    made = {}

    def get(size):
        if size not in made:
            extra = 2 if size == 4 else 0
            (made[size],) = distinct_puzzles((60,), size=size, seed=3, extra_clues=extra)
        return made[size]

    return get
