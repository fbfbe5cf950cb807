"""The profile of a few steps."""

import pytest

from tests import tiny
from trm_jax.train.profile import FOLDER


@pytest.mark.parametrize("steps", [2, 100])
def test_a_profile_is_kept(tmp_path, steps):
    """Also where the run ends before it does."""
    lines = []
    tiny.train_here(tmp_path / "run", {"log.profile_steps": steps}, lines=lines)
    [trace] = (tmp_path / "run" / FOLDER).rglob("*.xplane.pb")
    assert b"optimiser" in trace.read_bytes(), "its operations are named"
    said = f"the profile is in {tmp_path / 'run' / FOLDER}: tensorboard --logdir {tmp_path / 'run' / FOLDER}"
    assert lines.count(said) == 1


def test_no_profile_is_made_unasked(tmp_path):
    tiny.train_here(tmp_path / "run")
    assert not (tmp_path / "run" / FOLDER).exists()
