"""Meshes, rules and batches on eight CPU devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jax.sharding import PartitionSpec

from trm_jax import sharding
from trm_jax.errors import InputError
from trm_jax.models import TRMConfig, params, trm
from trm_jax.sharding import Rules, make_mesh


@pytest.fixture(scope="module")
def devices():
    found = jax.devices("cpu")
    assert len(found) == 8
    return found


@pytest.mark.parametrize(
    ("sizes", "shape"),
    [((-1, 1, 1), (8, 1, 1)), ((2, -1, 2), (2, 2, 2)), ((1, 1, 8), (1, 1, 8)), ((4, 2, -1), (4, 2, 1))],
)
def test_mesh_takes_all_devices(devices, sizes, shape):
    mesh = make_mesh(*sizes, devices=devices)
    assert tuple(mesh.shape[axis] for axis in sharding.MESH_AXES) == shape
    assert {d.id for d in mesh.devices.flat} == {d.id for d in devices}


@pytest.mark.parametrize("sizes", [(3, 1, 1), (-1, 3, 1), (4, 4, 1), (16, 1, 1)])
def test_mesh_that_does_not_fit(devices, sizes):
    with pytest.raises(InputError, match="does not fit 8 devices; set mesh.data, mesh.fsdp and mesh.tensor") as error:
        make_mesh(*sizes, devices=devices)
    assert str(dict(zip(sharding.MESH_AXES, sizes, strict=True))) in str(error.value)


@pytest.mark.parametrize("sizes", [(-1, -1, 1), (0, 1, 1), (8, 1, -2)])
def test_mesh_of_impossible_sizes(devices, sizes):
    with pytest.raises(InputError, match="sizes are positive, at most one is -1"):
        make_mesh(*sizes, devices=devices)


def test_rules_place_a_model(devices):
    """The batch and the table are split over data and fsdp, weights over fsdp and tensor, the rest is whole."""
    mesh = make_mesh(2, 2, 2, devices=devices)
    cfg = TRMConfig(vocab_size=11, seq_len=81, hidden_size=64, puzzle_emb_ndim=64, num_puzzle_ids=300, mlp_t=True)
    placed = sharding.shardings(mesh, Rules(), trm.specs(cfg))
    layer = placed["weights"]["layers"]["0"]
    assert layer["mlp"]["gate_up"].spec == PartitionSpec("fsdp", None, "tensor")
    assert layer["mlp"]["down"].spec == PartitionSpec("tensor", "fsdp")
    assert layer["mlp_t"]["gate_up"].spec == PartitionSpec(None, None, "tensor")
    assert placed["weights"]["q_head"]["bias"].spec == PartitionSpec(None)
    assert placed["puzzle_emb"].spec == PartitionSpec(("data", "fsdp"), None)
    carry = sharding.shardings(mesh, Rules(), trm.carry_specs(cfg, 16))
    assert carry.z_H.spec == PartitionSpec(("data", "fsdp"), None, None)
    assert carry.halted.spec == PartitionSpec(("data", "fsdp"))


def placed_alone(mesh, rules, axes, shape):
    return sharding.shardings(mesh, rules, {"x": params.ParamSpec(shape, axes, params.constant(0.0))})["x"].spec


def test_a_dimension_that_does_not_divide_is_refused(devices):
    mesh = make_mesh(1, 8, 1, devices=devices)
    with pytest.raises(InputError, match=r"x \[12, 5\] cannot be shared by 8 devices along its axis of 12"):
        placed_alone(mesh, Rules(), ("embed", None), (12, 5))


@pytest.mark.parametrize("ids", [256, 300, 876_406])
@pytest.mark.parametrize("num_devices", [1, 2, 4, 8])
def test_a_large_table_is_padded_and_shared_whatever_the_devices(devices, ids, num_devices):
    rows = params.table_rows(ids)
    assert ids <= rows < ids + 256 and rows % 32 == 0
    mesh = make_mesh(num_devices, devices=devices[:num_devices])
    spec = placed_alone(mesh, Rules(), ("puzzles", None), (rows, 5))
    assert spec == PartitionSpec(("data", "fsdp") if num_devices > 1 else None, None)


def test_a_small_table_is_whole_by_declaration(devices):
    mesh = make_mesh(8, devices=devices)
    assert params.table_rows(255) == 255
    assert placed_alone(mesh, Rules(), ("puzzles", None), (255, 5)) == PartitionSpec(None, None)


def test_rules_are_data(devices):
    mesh = make_mesh(2, 2, 2, devices=devices)
    rules = Rules(batch="data", mlp=("fsdp", "tensor"), vocab="tensor", embed=None)
    assert sharding.batch_sharding(mesh, rules).spec == PartitionSpec("data")
    assert placed_alone(mesh, rules, ("embed", "mlp"), (64, 512)) == PartitionSpec(None, ("fsdp", "tensor"))
    sharding.check_batch(mesh, rules, 6, "train.batch_size")  # two ways only


@pytest.mark.parametrize(("size", "near"), [(12, 16), (9, 8), (3, 8), (6145, 6144)])
def test_batch_that_does_not_divide(devices, size, near):
    mesh = make_mesh(8, devices=devices)
    message = f"train.batch_size {size} is not divisible by the 8 devices that share it; nearest that is: {near}"
    with pytest.raises(InputError) as error:
        sharding.check_batch(mesh, Rules(), size, "train.batch_size")
    assert str(error.value) == message
    sharding.check_batch(mesh, Rules(), near, "train.batch_size")


@given(st.sampled_from([(8, 1, 1), (4, 2, 1), (2, 2, 2), (1, 1, 8)]), st.integers(1, 3))
def test_every_row_reaches_its_place(sizes, rows_each):
    """`local_slots` names each row once, and what is put there comes back under the same number."""
    mesh = make_mesh(*sizes, devices=jax.devices("cpu"))
    lies = sharding.batch_sharding(mesh, Rules())
    size = 8 * rows_each
    slots = sharding.local_slots(lies, size)
    np.testing.assert_array_equal(slots, np.arange(size))
    tokens = np.arange(size * 5, dtype=np.int32).reshape(size, 5)
    ids = 100 + np.arange(size, dtype=np.int32)
    batch = sharding.put_batch(lies, {"inputs": tokens[slots], "puzzle_ids": ids[slots]}, size)
    np.testing.assert_array_equal(batch["inputs"], tokens)
    np.testing.assert_array_equal(batch["puzzle_ids"], ids)
    ways = sizes[0] * sizes[1]
    for shard in batch["inputs"].addressable_shards:
        assert shard.data.shape == (size // ways, 5)
        np.testing.assert_array_equal(shard.data, tokens[shard.index])
    assert int(jax.jit(jnp.sum)(batch["puzzle_ids"])) == ids.sum()


def test_slots_follow_the_sharding_not_the_device_order(devices):
    """Half of a mesh in reversed order, as a process of a larger run would see it, still owns ascending rows."""
    mesh = make_mesh(8, devices=devices[::-1])
    lies = sharding.batch_sharding(mesh, Rules())
    np.testing.assert_array_equal(sharding.local_slots(lies, 16), np.arange(16))
    rows = sharding.put_batch(lies, {"x": np.arange(16)}, 16)["x"]
    np.testing.assert_array_equal(rows, np.arange(16))
