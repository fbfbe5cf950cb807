"""One run on one, two and eight devices, and moved from one number to another."""

import re

import jax
import numpy as np
import pytest

from tests import tiny
from trm_jax import sharding
from trm_jax.errors import InputError
from trm_jax.train.checkpoint import Checkpoints
from trm_jax.train.state import optimizer, state_shardings, with_shardings

# A large epsilon of the optimiser's first steps: AdamATan2 divides by the root of a square, so at step 1 every weight
# moves by lr whatever its gradient, and a gradient of rounding size decides by its sign alone. AdamW has an epsilon
# too small to help. The warm-up makes those first moves small: 3 steps at lr <= 3/1000 of 1e-3.
CHANGES = {"train.steps": 3, "eval.every_steps": 3, "checkpoint.every_steps": 3, "optim.warmup_steps": 1000}
DEVICES = (1, 2, 8)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    for devices in DEVICES:
        tiny.train_here(folder / str(devices), CHANGES, devices=devices)
    return folder


@pytest.mark.parametrize("devices", [2, 8])
def test_the_result_does_not_depend_on_the_number_of_devices(runs, devices):
    one, many = tiny.state(runs / "1", 3), tiny.state(runs / str(devices), 3)
    assert one.keys() == many.keys()
    for name in one:
        if one[name].dtype != np.float32:
            np.testing.assert_array_equal(many[name], one[name], err_msg=name)
            continue
        # Sums over the batch are added in another order: 2**-24 relative to the largest term, grown by
        # three steps through some 30 layers. Weights and averages: a sign that rounding decides costs 2 lr,
        # and lr is below 3e-6 in these three steps.
        scale = np.abs(one[name]).max()
        near = 1e-4 * scale if not name.startswith(("params/", "ema/")) else 1e-5
        np.testing.assert_allclose(many[name], one[name], rtol=0, atol=near, err_msg=name)
    for ours, theirs in zip(tiny.records(runs / "1"), tiny.records(runs / str(devices)), strict=True):
        assert ours == {k: pytest.approx(v, rel=1e-5, abs=1e-6) if isinstance(v, float) else v for k, v in theirs.items()}


def abstract(devices: int, changes: dict):
    cfg = tiny.config(changes)
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    return with_shardings(*state_shardings(cfg, optimizer(cfg, cfg.train.steps), mesh, sharding.Rules()))


@pytest.mark.parametrize("devices", DEVICES)
def test_a_state_of_eight_devices_is_the_same_on_any_number(runs, devices):
    checkpoints = Checkpoints(str(runs / "8" / "checkpoints"))
    restored, _ = checkpoints.restore(3, abstract(devices, CHANGES))
    checkpoints.close()
    assert len(restored.carry.z_H.sharding.device_set) == devices
    assert restored.carry.z_H.addressable_shards[0].data.shape[0] == 8 // devices  # the batch is split
    here = {tiny.path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(restored)}
    tiny.assert_same_state(here, tiny.state(runs / "8", 3))


def test_a_run_moves_from_eight_devices_to_two_to_one(tmp_path):
    changes = {"train.steps": 18, "optim.warmup_steps": 1000}
    reached = []
    for devices, stop in ((8, 4), (2, 8), (1, None)):
        stop = tiny.StopAfter(tmp_path / "moving", stop) if stop else None
        reached.append(tiny.train_here(tmp_path / "moving", changes, devices=devices, stop=stop).step)
    assert 0 < reached[0] < reached[1] < reached[2] == 18
    tiny.train_here(tmp_path / "staying", changes)
    moving, staying = tiny.records(tmp_path / "moving"), tiny.records(tmp_path / "staying")
    assert [(r["kind"], r["step"]) for r in moving] == [(r["kind"], r["step"]) for r in staying]
    # 18 steps at most 18/1000 of lr 1e-3: rounding has not had the steps to grow.
    for ours, theirs in zip(moving, staying, strict=True):
        for key in ("loss", "lm_loss", "accuracy", "lr"):
            assert ours.get(key) == pytest.approx(theirs.get(key), rel=1e-4)


@pytest.mark.parametrize("key, batch, nearest", [("train.batch_size", 12, 16), ("eval.batch_size", 3, 8)])
def test_a_batch_that_the_devices_cannot_share(tmp_path, key, batch, nearest):
    said = f"{key} {batch} is not divisible by the 8 devices that share it; nearest that is: {nearest}"
    with pytest.raises(InputError, match=re.escape(said)):
        tiny.train_here(tmp_path, {key: batch}, devices=8)


@pytest.mark.parametrize("changes", [{"mesh.data": 3}, {"mesh.data": 4, "mesh.tensor": 4}, {"mesh.fsdp": 0}])
def test_a_mesh_that_does_not_fit(tmp_path, changes):
    with pytest.raises(InputError, match="mesh"):
        tiny.train_here(tmp_path, changes, devices=8)


def test_weights_split_over_the_mesh_give_the_same_result(runs, tmp_path):
    """fsdp 2 and tensor 2 are a matter of layout alone."""
    tiny.train_here(tmp_path, {**CHANGES, "mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2}, devices=8)
    for ours, theirs in zip(tiny.records(tmp_path), tiny.records(runs / "1"), strict=True):
        assert ours.get("loss") == pytest.approx(theirs.get("loss"), rel=1e-5)  # as above
