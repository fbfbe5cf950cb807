"""What the compute dtype leaves of learning."""

import pytest

from tests import tiny


@pytest.mark.slow
def test_bfloat16_learns_to_solve(tmp_path):
    """4x4 boards with a few more clues than needed; in float32 the same run solves 97 of 100 and more."""
    outcome = tiny.train_here(tmp_path, {**tiny.SOLVER, "model.dtype": "bfloat16"})
    assert outcome.last_eval["exact_accuracy"] >= 0.9
    assert tiny.state(tmp_path, 200)["carry/z_H"].dtype.name == "bfloat16"
