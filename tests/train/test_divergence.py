"""A loss that stops being finite stops the run, names the step and leaves a good checkpoint."""

import jax
import numpy as np
import pytest

from tests import tiny
from trm_jax import sharding
from trm_jax.data import loader as stream
from trm_jax.train.checkpoint import Checkpoints
from trm_jax.train.loop import Diverged
from trm_jax.train.state import abstract_state, initial_state

# Plain Adam steps of a size that float16 cannot multiply any more, after a warm-up that spares the first steps.
CASES = {
    "a learning rate far too high": {"optim.name": "adamw", "optim.lr": 1e30, "optim.warmup_steps": 0},
    "float16 overflows": {"optim.name": "adamw", "optim.lr": 4e4, "optim.warmup_steps": 8, "model.dtype": "float16"},
}
CASES = {name: {**case, "optim.weight_decay": 0.0, "optim.loss_scaling": "none"} for name, case in CASES.items()}


def first_bad_step(changes: dict) -> int:
    """Found by taking the steps one by one and looking at the loss and the gradient of each."""
    cfg = tiny.config(changes)
    step = tiny.train_step(cfg)
    state = initial_state(cfg, jax.random.key(cfg.seed))
    source = stream.batches(
        tiny.data(changes)[0],
        seed=cfg.seed,
        batch_size=cfg.train.batch_size,
        slots=np.arange(cfg.train.batch_size),
        start_step=0,
        stop_step=cfg.train.steps,
    )
    for number, batch in enumerate(source, 1):
        state, sums = step(state, batch)
        if not all(np.isfinite(sums[name]) for name in ("lm_loss", "q_loss", "grad_norm")):
            return number
    raise AssertionError("this run does not diverge")


@pytest.mark.parametrize(
    "case", [pytest.param(name, marks=[pytest.mark.slow] * (name == "float16 overflows")) for name in CASES]
)
@pytest.mark.parametrize("every", [2, 12])
def test_the_first_bad_step_is_named(tmp_path, case, every):
    """However many steps later it is looked at."""
    bad = first_bad_step(CASES[case])
    changes = {**CASES[case], "log.every_steps": every, "checkpoint.every_steps": every, "eval.every_steps": 12}
    with pytest.raises(Diverged, match=rf"not finite at step {bad};"):
        tiny.train_here(tmp_path, changes)
    for record in tiny.records(tmp_path):
        assert record["step"] < bad and np.isfinite(record["loss"])
    for step in tiny.steps(tmp_path):
        assert step < bad
        assert all(np.isfinite(a).all() for a in tiny.state(tmp_path, step).values() if a.dtype.kind == "f")


def test_a_model_that_diverged_is_not_evaluated(tmp_path):
    """It goes bad at step 2, and the next log line is further away than the next evaluation."""
    changes = {**CASES["a learning rate far too high"], "log.every_steps": 12, "eval.every_steps": 3}
    with pytest.raises(Diverged) as told:
        tiny.train_here(tmp_path, {**changes, "checkpoint.every_steps": 12})
    assert tiny.records(tmp_path) == [] and "last good checkpoint" not in str(told.value)


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """A good run stopped at step 6, then a weight of its last checkpoint set to infinity, fingerprint and all."""
    workdir = tmp_path_factory.mktemp("poisoned")
    tiny.train_here(workdir, stop=tiny.StopAfter(workdir, 3))
    reached = tiny.steps(workdir)[-1]
    cfg = tiny.config()
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    checkpoints = Checkpoints(str(workdir / "checkpoints"), "exact_accuracy", cfg.checkpoint)
    abstract = abstract_state(cfg, mesh)
    state, meta = checkpoints.restore(reached, abstract)
    weights = state.params["weights"]
    weights = {**weights, "lm_head": weights["lm_head"].at[0, 0].set(np.inf)}
    checkpoints.save(reached + 1, state.replace(step=state.step + 1, params={**state.params, "weights": weights}), meta)
    checkpoints.close()
    return workdir, reached


def test_the_command_exits_1_with_one_line_and_keeps_the_good_checkpoint(poisoned, trm):
    workdir, reached = poisoned
    kept = tiny.steps(workdir)
    result = trm.run("train", "demo", "--workdir", workdir, *tiny.arguments())
    assert result.code == 1
    assert "Traceback" not in result.err
    (line,) = result.error_lines
    assert f"the loss or a gradient is not finite at step {reached + 2}" in line
    assert f"the last good checkpoint in {workdir}/checkpoints is kept" in line
    assert tiny.steps(workdir) == kept and reached in kept
    assert all(np.isfinite(a).all() for a in tiny.state(workdir, reached).values() if a.dtype.kind == "f")
    assert trm.run("eval", workdir, "--checkpoint", reached).code == 0
