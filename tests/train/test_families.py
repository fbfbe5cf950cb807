"""Every family that thinks under deep supervision trains in the one loop, and resumes bit for bit."""

import pytest

from tests import tiny
from trm_jax.models import family as families

SMALL = {
    "model.hidden_size": 32,
    "model.num_heads": 2,
    "model.L_layers": 1,
    "model.H_cycles": 2,
    "model.L_cycles": 2,
    "model.halt_max_steps": 3,
    "model.dtype": "float32",
    "train.steps": 8,
    "eval.every_steps": 4,
}
ABSENT = {"transformer": ("model.H_cycles", "model.L_cycles")}
MORE = {"hrm": {"model.H_layers": 1}, "urm": {"optim.name": "urm_muon"}}
SUPERVISED = [name for name in families.BUILT_IN if hasattr(families.get(name), "LATENTS")]


@pytest.mark.slow
@pytest.mark.parametrize("family", SUPERVISED)
def test_a_stopped_run_of_any_family_ends_as_if_nothing_had_happened(tmp_path, family):
    sizes = {} if family in ("eqr", "symbols") else {"model.puzzle_emb_ndim": 32, "model.puzzle_emb_len": 1}
    changes = {"model.family": family, **SMALL, **sizes, **MORE.get(family, {})}
    changes = {name: value for name, value in changes.items() if name not in ABSENT.get(family, ())}
    tiny.train_here(tmp_path / "whole", changes)
    stopped = tiny.train_here(tmp_path / "parts", changes, stop=tiny.StopAfter(tmp_path / "parts", 2))
    assert stopped.step < 8
    assert tiny.train_here(tmp_path / "parts", changes).step == 8
    tiny.assert_same_end(tmp_path / "whole", tmp_path / "parts")
