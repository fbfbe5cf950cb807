"""Six steps of training the ARC transformer against its author's code, and a small run from end to end."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_arc_transformer import config
from trm_jax.configs import registry, resolve
from trm_jax.losses import IGNORE
from trm_jax.models.convert.arc_transformer import export_state_dict, import_state_dict
from trm_jax.train.state import initial_state
from trm_jax.train.step import hparams_of, make_train_step


def batch_of(golden, step: int) -> dict:
    at = f"batch{step}/"
    starts, tokens = golden[at + "cu_seqlens"], golden[at + "input_ids"].astype(np.int32)
    segments = (np.searchsorted(starts, np.arange(len(tokens)), side="right") - 1).astype(np.int32)
    places = np.arange(len(tokens)) - starts[segments]
    last = np.isin(np.arange(len(tokens)), starts[1:] - 1)
    targets = (places >= golden[at + "sep_indices"][segments]) & ~last
    return {
        "inputs": tokens[None],
        "labels": np.where(targets, np.roll(tokens, -1), IGNORE)[None].astype(np.int32),
        "weights": np.full((1, len(tokens)), 1 / targets.sum(), np.float32),
        "segments": segments[None],
        "places": np.pad(golden[at + "positions"].astype(np.int32), ((0, 0), (0, 1)))[None],
        "puzzle_ids": golden[at + "task_ids"][segments][None].astype(np.int32),
        "dihedrals": golden[at + "dihedral_ids"][segments][None].astype(np.int32),
    }


def test_six_steps_are_the_authors(shared, golden_folder):
    """float32 on a CPU: loss and norm to 1e-5, weights to 1e-5 of the largest of each."""
    golden = np.load(shared / "golden" / "arc_transformer" / "training.npz")
    first = np.load(golden_folder / "arc_transformer" / "forward.npz")
    schedule = json.loads(str(golden["schedule"]))
    changes = {"train.batch_size": 1, "train.steps": 6, "optim.warmup_share": 0.25, "optim.decay_share": 0.4}
    cfg = resolve.freeze(resolve.override(registry.get("arc_transformer_high"), changes))
    cfg = dataclasses.replace(cfg, model=config(json.loads(str(first["config"])), 128))
    state = initial_state(cfg, jax.random.key(0))
    weights = import_state_dict({name[5:]: first[name] for name in first.files if name.startswith("init/")})
    state = state.replace(params={"weights": weights})
    step, hparams = jax.jit(make_train_step(cfg, 6)), hparams_of(cfg, 6)
    for t in range(1, 7):
        state, sums = step(state, batch_of(golden, t), hparams)
        assert float(sums["lr"]) == pytest.approx(1.66e-3 * float(golden["lr_factor"][t - 1]), abs=1e-9), schedule
        np.testing.assert_allclose(sums["loss"], golden["f32/loss"][t - 1], rtol=1e-5)
        np.testing.assert_allclose(sums["grad_norm"], golden["f32/grad_norm"][t - 1], rtol=1e-5)
        for name, ours in export_state_dict(state.params["weights"]).items():
            wanted = golden[f"step{t}/{name}"].astype(np.float32)
            np.testing.assert_allclose(ours, wanted, atol=1e-5 * np.abs(wanted).max(), err_msg=f"{t} {name}")
    assert jnp.isfinite(sums["loss"])
