"""Six steps of training the ARC transformer against its author's code, and a small run from end to end."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.test_arc_transformer import config
from trm_jax import sharding
from trm_jax.configs import registry, resolve
from trm_jax.losses import IGNORE
from trm_jax.models.arc_transformer import ArcTransformerConfig
from trm_jax.models.convert.arc_transformer import export_state_dict, import_state_dict
from trm_jax.train.compiled import jit_train_step
from trm_jax.train.state import abstract_state, initial_state, shardings_of
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


def test_eight_devices_take_the_same_steps():
    """With weights that fsdp and tensor share. float32 sums in another order: 1e-5 of the largest of each array."""
    changes = {"train.batch_size": 8, "train.steps": 3, "optim.warmup_share": 0.0}
    cfg = resolve.freeze(resolve.override(registry.get("arc_transformer_high"), changes))
    small = {"hidden_size": 24, "num_heads": 2, "layers": 8, "ff_size": 32, "dropout": 0.0, "attention_dropout": 0.0}
    model = ArcTransformerConfig(vocab_size=14, seq_len=16, num_puzzle_ids=3, dtype="float32", **small)
    cfg, draws, shape = dataclasses.replace(cfg, model=model), np.random.default_rng(0), (8, 16)
    high = {"inputs": 14, "labels": 14, "segments": 1, "puzzle_ids": 3, "dihedrals": 8}
    batch = {name: draws.integers(0, top, shape, np.int32) for name, top in high.items()}
    batch |= {"places": draws.integers(0, 5, (*shape, 4), np.int32), "weights": np.full(shape, 1 / 16, np.float32)}
    first = jax.tree.map(lambda a: np.zeros(a.shape, a.dtype), abstract_state(cfg, sharding.make_mesh()))
    first = first.replace(params=jax.tree.map(lambda a: a + 0.2 * np.float32(draws.normal(size=a.shape)), first.params))
    found = []
    for devices, sizes in ((1, (1, 1, 1)), (8, (2, 2, 2))):
        mesh = sharding.make_mesh(*sizes, devices=jax.devices()[:devices])
        abstract = abstract_state(cfg, mesh)
        state = jax.device_put(first, shardings_of(abstract))
        step, hparams = jit_train_step(cfg, 3, model, abstract, mesh), hparams_of(cfg, 3)
        for _ in range(2):
            state, sums = jax.block_until_ready(step(state, batch, hparams))
        found.append(jax.tree.map(np.asarray, (state, sums)))
    jax.tree.map(lambda one, eight: np.testing.assert_allclose(eight, one, atol=1e-5 * np.abs(one).max()), *found)
