"""The group `rivals`: equal compute, and everything else equal that can be."""

import pytest

from trm_jax.configs import registry, resolve
from trm_jax.models import params
from trm_jax.train.curriculum import train_flops

CONFIGS = {one.name: resolve.freeze(registry.get(one.name)) for one in registry.groups()["rivals"].experiments}
TRM = CONFIGS["rivals_trm"]


def flops(cfg) -> int:
    return train_flops(cfg, cfg.train.steps, cfg.data.train_puzzles)


def parameters(cfg) -> int:
    return params.count(cfg.family.specs(cfg.model)["weights"])


def test_every_family_that_solves_sudoku_is_there():
    families = {"trm", "singlez", "hier6", "hrm", "transformer", "urm", "eqr"}
    assert {registry.get(name).model.family for name in CONFIGS} == families


@pytest.mark.parametrize("cfg", CONFIGS.values(), ids=CONFIGS)
def test_an_arm_is_trm_s_equal(cfg):
    """Within 2% in compute, since the steps are a multiple of the evaluations; within the 10% in size that reports ask
    for."""
    assert flops(cfg) == pytest.approx(flops(TRM), rel=0.02)
    assert parameters(cfg) == pytest.approx(parameters(TRM), rel=0.1)
    steps = cfg.train.steps
    shares = [step / steps for step in cfg.evaluation_steps(cfg.data.train_puzzles, 1.0, steps)]
    assert shares == [k / 8 for k in range(1, 8)]
    assert cfg.optim.warmup(steps) == pytest.approx(0.1 * steps, abs=0.5)  # whole steps
    assert (cfg.data, cfg.train.batch_size, cfg.eval.batch_size) == (TRM.data, 32, TRM.eval.batch_size)
    lr = 3e-3 if cfg.model.mlp_t else 1e-3
    assert vars(cfg.optim) == vars(TRM.optim) | {"lr": lr}
