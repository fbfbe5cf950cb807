"""Where the arrays of a run lie on a v4-64: what a change of the sharding rules, or of the state, must not move."""

import jax
import pytest

from trm_jax import sharding
from trm_jax.configs import registry, resolve
from trm_jax.models.params import path_name
from trm_jax.planning.memory import abstract_mesh
from trm_jax.train.state import abstract_state

BATCH = ("data", "fsdp")
# Of every run of the catalogue: data parallel, the carry shared by its rows, the rest whole on every chip. The puzzle
# table too: one row does not divide.
LIES = {
    "carry/z_H": (BATCH, None, None),
    "carry/z_L": (BATCH, None, None),
    "carry/inputs": (BATCH, None),
    "carry/labels": (BATCH, None),
    "carry/puzzle_ids": (BATCH,),
    "carry/steps": (BATCH,),
    "carry/halted": (BATCH,),
}
SHARE = {  # of one of 32 chips
    "baseline": {"carry/z_H": (192, 97, 512), "carry/halted": (192,), "params/puzzle_emb": (1, 512)},
    "exp01f": {"carry/z_H": (192, 97, 1536), "params/weights/embed_tokens": (11, 1536)},
    "exp06_f": {"carry/z_H": (1536, 97, 512), "carry/inputs": (1536, 81)},
}


@pytest.mark.parametrize("name", SHARE)
def test_a_state_on_a_v4_64(name):
    cfg = resolve.freeze(registry.get(name))
    mesh = abstract_mesh(cfg, 32)
    assert dict(mesh.shape) == {"data": 32, "fsdp": 1, "tensor": 1}
    state = {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(abstract_state(cfg, mesh))}
    assert LIES.keys() == {path for path in state if path.startswith("carry/")}
    for path, leaf in state.items():
        if path in LIES:
            assert tuple(leaf.sharding.spec) == LIES[path], path
        else:
            assert leaf.sharding.shard_shape(leaf.shape) == leaf.shape, path
    assert {path: state[path].sharding.shard_shape(state[path].shape) for path in SHARE[name]} == SHARE[name]


def test_a_batch_on_a_v4_64():
    mesh = abstract_mesh(resolve.freeze(registry.get("baseline")), 32)
    lies = sharding.batch_sharding(mesh, sharding.Rules())
    assert tuple(lies.spec) == (BATCH,) and lies.shard_shape((6144, 81)) == (192, 81)
