"""One run on one, two and eight devices, and moved from one number to another."""

import re

import jax
import numpy as np
import pytest

from tests import tiny
from trm_jax import sharding
from trm_jax.errors import InputError
from trm_jax.train.checkpoint import Checkpoints
from trm_jax.train.state import abstract_state

# AdamATan2 moves a weight by about lr whatever its gradient, so where the gradient is of the size of rounding its
# sign decides: a low learning rate keeps that small. In 3 steps of this warm-up lr is below 3e-6, in 12 below 12e-6.
CHANGES = {"optim.warmup_steps": 1000, "checkpoint.keep_every_steps": 3}
DEVICES = (1, 2, 8)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("devices")
    for devices in DEVICES:
        tiny.train_here(folder / str(devices), CHANGES, devices=devices)
    return folder


def assert_near(one: dict, other: dict) -> None:
    """Records of runs that differ by rounding: 12 steps at lr below 12e-6 move no figure by more than 1e-4."""
    assert other == {k: pytest.approx(v, rel=1e-4, abs=1e-6) if isinstance(v, float) else v for k, v in one.items()}


@pytest.mark.parametrize("devices", [2, 8])
def test_the_result_does_not_depend_on_the_number_of_devices(runs, devices):
    one, many = tiny.state(runs / "1", 3), tiny.state(runs / str(devices), 3)
    assert one.keys() == many.keys()
    for name in one:
        if one[name].dtype != np.float32:
            np.testing.assert_array_equal(many[name], one[name], err_msg=name)
            continue
        # Sums over the batch are added in another order: 6e-8 of the largest term, grown by three steps through
        # some 30 layers. Weights and averages: a sign that rounding decides costs 2 lr at each of three steps.
        near = 1e-5 if name.startswith(("params/", "ema/")) else 1e-4 * np.abs(one[name]).max()
        np.testing.assert_allclose(many[name], one[name], rtol=0, atol=near, err_msg=name)
    tiny.assert_moved_alike(runs / "1", runs / str(devices), 3, 12)
    for ours, theirs in zip(tiny.records(runs / "1"), tiny.records(runs / str(devices)), strict=True):
        assert_near(ours, theirs)


def abstract(devices: int, changes: dict):
    cfg = tiny.config(changes)
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    return abstract_state(cfg, mesh)


@pytest.mark.parametrize("devices", DEVICES)
def test_a_state_of_eight_devices_is_the_same_on_any_number(runs, devices):
    checkpoints = Checkpoints(str(runs / "8" / "checkpoints"), "exact_accuracy")
    restored, _ = checkpoints.restore(3, abstract(devices, CHANGES))
    checkpoints.close()
    assert len(restored.carry.z_H.sharding.device_set) == devices
    assert restored.carry.z_H.addressable_shards[0].data.shape[0] == 8 // devices  # the batch is split
    here = {tiny.path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(restored)}
    tiny.assert_same_state(here, tiny.state(runs / "8", 3))


def test_a_run_moves_from_eight_devices_to_two_to_one(runs, tmp_path):
    reached = []
    for devices, stop in ((8, tiny.StopAfter(tmp_path, 2)), (2, tiny.StopAfter(tmp_path, 5)), (1, None)):
        reached.append(tiny.train_here(tmp_path, CHANGES, devices=devices, stop=stop).step)
    assert 0 < reached[0] < reached[1] < reached[2] == 12
    for moving, staying in zip(tiny.records(tmp_path), tiny.records(runs / "1"), strict=True):
        assert_near(moving, staying)


@pytest.mark.parametrize("key, batch, nearest", [("train.batch_size", 12, 16), ("eval.batch_size", 3, 8)])
def test_a_batch_that_the_devices_cannot_share(tmp_path, key, batch, nearest):
    said = f"{key} {batch} is not divisible by the 8 devices that share it; nearest that is: {nearest}"
    with pytest.raises(InputError, match=re.escape(said)):
        tiny.train_here(tmp_path, {key: batch}, devices=8)


@pytest.mark.parametrize("changes", [{"mesh.data": 3}, {"mesh.data": 4, "mesh.tensor": 4}, {"mesh.fsdp": 0}])
def test_a_mesh_that_does_not_fit(tmp_path, changes):
    with pytest.raises(InputError, match="mesh"):
        tiny.train_here(tmp_path, changes, devices=8)


MESHES = {
    "fsdp 2, tensor 2": {"mesh.data": 2, "mesh.fsdp": 2, "mesh.tensor": 2},
    "fsdp 4": {"mesh.data": 2, "mesh.fsdp": 4},
    "tensor 2, mlp_t": {"mesh.tensor": 2, "model.mlp_t": True, "model.pos_encodings": "none"},
}


@pytest.mark.parametrize(
    "mesh", [pytest.param(name, marks=[pytest.mark.slow] * (name != "fsdp 2, tensor 2")) for name in MESHES]
)
def test_weights_split_over_the_mesh_give_the_same_state(runs, tmp_path, mesh):
    """fsdp and tensor are a matter of layout alone: the metrics, and every array of the state."""
    changes = CHANGES | MESHES[mesh]
    one = runs / "1"
    if "model.mlp_t" in changes:
        one = tmp_path / "one"
        tiny.train_here(one, {k: v for k, v in changes.items() if not k.startswith("mesh.")})
    tiny.train_here(tmp_path / "split", changes, devices=8)
    for split, whole in zip(tiny.records(tmp_path / "split"), tiny.records(one), strict=True):
        assert_near(split, whole)
    tiny.assert_moved_alike(one, tmp_path / "split", 3, 12)


def test_tensor_meshes_cut_gate_and_up_alike():
    """Each device has the same columns of both, and of q, k and v: no product needs another device's columns."""
    mesh = sharding.make_mesh(1, 1, 2, devices=jax.devices()[:2])
    layer = abstract_state(tiny.config(), mesh).params["weights"]["layers"]["0"]
    for array in (layer["mlp"]["gate_up"], layer["attn"]["qkv"]):
        for index in array.sharding.devices_indices_map(array.shape).values():
            assert index[1] in (slice(None), slice(0, array.shape[1])) and index[2] != slice(None)
