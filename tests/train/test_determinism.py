"""One seed, one result; and one compilation of the step for the whole run."""

import jax
import numpy as np
import pytest

from tests import tiny


def test_one_seed_gives_one_result_and_another_seed_another(tmp_path):
    tiny.train_here(tmp_path / "one")
    # Compiled anew, not found on the disk: what XLA makes of the step must not differ from time to time.
    with tiny.warm_compilations(tmp_path / "compilations"):
        tiny.train_here(tmp_path / "same")
    tiny.train_here(tmp_path / "other", {"seed": 1})
    tiny.assert_same_end(tmp_path / "one", tmp_path / "same")
    one, other = tiny.state(tmp_path / "one", 12), tiny.state(tmp_path / "other", 12)
    changed = {name for name in one if not np.array_equal(one[name], other[name])}
    assert {"key", "params/weights/lm_head", "params/buffers/H_init", "ema/lm_head", "carry/inputs"} <= changed
    assert tiny.records(tmp_path / "one") != tiny.records(tmp_path / "other")


@pytest.fixture
def compiled():
    """Names of the programs that JAX asks its compiler (or the cache on the disk) for, in order."""
    names = []

    def note(event, _, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(note)
    yield names
    jax.monitoring.unregister_event_duration_listener(note)


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_each_program_is_compiled_once(compiled, tmp_path, devices):
    """With logging, evaluations and checkpoints, in a first part of a run and in the rest of it after a restart."""
    changes = {"optim.warmup_steps": 1000}
    stopped = tiny.train_here(tmp_path, changes, devices=devices, stop=tiny.StopAfter(tmp_path, 5))
    assert stopped.stopped_by and 6 < stopped.step < 12  # an evaluation and two checkpoints lie behind it
    for name in ("train_step", "eval_step"):
        assert compiled.count(f"jit({name})") == 1, compiled
    compiled.clear()
    rest = tiny.train_here(tmp_path, changes, devices=devices)
    assert rest.step == 12 and not rest.stopped_by
    for name in ("train_step", "eval_step"):
        assert compiled.count(f"jit({name})") == 1, compiled
