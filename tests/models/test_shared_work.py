"""Devices share the work of a training step: none of them computes what another one does."""

from functools import partial

import jax
import pytest

from tests import tiny
from trm_jax import sharding
from trm_jax.train.compiled import jit_train_step
from trm_jax.train.state import abstract_state
from trm_jax.train.step import hparams_of

DEVICES = 4


def flops_of_one(cfg, num_devices):
    mesh = sharding.make_mesh(devices=jax.devices()[:num_devices])
    abstract = abstract_state(cfg, mesh)
    array = partial(jax.ShapeDtypeStruct, sharding=sharding.batch_sharding(mesh, sharding.Rules()))
    spec = cfg.task.batch_spec(cfg.data)
    batch = {name: array((cfg.train.batch_size, *shape), dtype) for name, (shape, dtype) in spec.items()}
    step = jit_train_step(cfg, 100, cfg.model, abstract, mesh)
    return step.lower(abstract, batch, hparams_of(cfg, 100)).compile().cost_analysis()["flops"]


@pytest.mark.parametrize("changes", [{"model.mlp_t": True, "model.pos_encodings": "none"}, {"model.mlp_t": False}])
def test_four_devices_do_a_quarter_each(changes):
    """A twentieth more is allowed for the update of the weights, which all of them do."""
    cfg = tiny.config({"train.batch_size": 64, **changes})
    assert flops_of_one(cfg, DEVICES) < 1.05 * flops_of_one(cfg, 1) / DEVICES
