"""Devices share the work of a training step: none of them computes what another one does."""

from functools import partial

import jax
import pytest

from tests import tiny
from trm_jax import compiler, sharding
from trm_jax.train.state import state_shardings, with_shardings
from trm_jax.train.step import make_train_step

DEVICES = 4


def flops_of_one(cfg, num_devices):
    mesh, rules = sharding.make_mesh(devices=jax.devices()[:num_devices]), sharding.Rules()
    abstract, lies = state_shardings(cfg, mesh, rules)
    batch_lies = sharding.batch_sharding(mesh, rules)
    array = partial(jax.ShapeDtypeStruct, sharding=batch_lies)
    tokens = array((cfg.train.batch_size, cfg.model.seq_len), "int32")
    batch = {"inputs": tokens, "labels": tokens, "puzzle_ids": array((cfg.train.batch_size,), "int32")}
    step = jax.jit(
        make_train_step(cfg, 100), in_shardings=(lies, batch_lies), out_shardings=lies,
        compiler_options=compiler.options(),
    )  # fmt: skip
    return step.lower(with_shardings(abstract, lies), batch).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("changes", [{"model.mlp_t": True, "model.pos_encodings": "none"}, {"model.mlp_t": False}])
def test_four_devices_do_a_quarter_each(changes):
    """A twentieth more is allowed for the update of the weights, which all of them do."""
    cfg = tiny.config({"train.batch_size": 64, **changes})
    assert flops_of_one(cfg, DEVICES) < 1.05 * flops_of_one(cfg, 1) / DEVICES
