"""Ways to compute the same run: in parts, through a curriculum, with a scaled loss."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests import tiny
from trm_jax.configs.workdir import claim
from trm_jax.errors import InputError
from trm_jax.train.curriculum import stage_at, stages
from trm_jax.train.state import MIN_LOSS_SCALE, initial_state
from trm_jax.train.step import LOSS_SCALE_GROWS_AFTER

# AdamATan2 moves a weight by about lr whatever its gradient, so where the gradient is of the size of rounding its
# sign decides: a low learning rate keeps that small. Twelve steps of this warm-up move a weight by at most 8e-5.
SLOWLY = {"optim.warmup_steps": 1000}
MOVED = 8e-5


def assert_near(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    """States of runs whose float32 sums are taken in another order (6e-8 of the largest term, grown by 12 steps)."""
    assert one.keys() == other.keys()
    for name in one:
        if one[name].dtype != np.float32:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)
            continue
        near = MOVED if name.startswith(("params/", "ema")) else 1e-3 * max(np.abs(one[name]).max(), 1e-6)
        np.testing.assert_allclose(one[name], other[name], rtol=0, atol=near, err_msg=name)
        if name.startswith("params/weights"):  # nearly all of them agree far better
            assert np.median(np.abs(one[name] - other[name])) < 1e-7


@pytest.mark.parametrize("devices", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_four_parts_of_twelve_are_one_batch_of_48(tmp_path, devices):
    changes = {**SLOWLY, "train.batch_size": 48, "train.steps": 6}
    tiny.train_here(tmp_path / "whole", changes)
    tiny.train_here(tmp_path / "parts", {**changes, "train.accumulation": 4}, devices=devices)
    assert_near(tiny.state(tmp_path / "whole", 6), tiny.state(tmp_path / "parts", 6))
    for one, other in zip(tiny.records(tmp_path / "whole"), tiny.records(tmp_path / "parts"), strict=True):
        assert other == {k: pytest.approx(v, rel=1e-4, abs=1e-6) if isinstance(v, float) else v for k, v in one.items()}


@pytest.mark.slow
def test_a_run_may_go_on_in_smaller_parts(tmp_path):
    """What a person does whose accelerator runs out of memory."""
    tiny.train_here(tmp_path, SLOWLY, stop=tiny.StopAfter(tmp_path, 3))
    lines = []
    assert tiny.train_here(tmp_path, {**SLOWLY, "train.accumulation": 2}, lines=lines).step == 12
    assert any(line.startswith("going on from step") for line in lines)


def test_parts_that_the_devices_cannot_share(tmp_path):
    with pytest.raises(InputError, match="train.batch_size / train.accumulation = 4 is not divisible by the 8 devices"):
        tiny.train_here(tmp_path, {"train.accumulation": 2}, devices=8)


CURRICULUM = {
    **SLOWLY,
    "model.L_cycles": 6,
    "model.H_cycles": 3,
    "train.steps": 40,
    "train.curriculum_epochs": 16,
}


def cycles(model) -> tuple[int, int]:
    return model.L_cycles, model.H_cycles


def test_a_stage_without_frozen_cycles_rounds_none():
    changes = {**CURRICULUM, "train.curriculum_epochs": 10, "model.frozen_products": "int8"}
    models = [model for _, model in stages(tiny.config(changes), 100, 16.0)]
    assert [(model.H_cycles > 1) for model in models] == [model.frozen_products == "int8" for model in models]


def test_the_catalogues_curriculum_has_five_stages():
    """L = int(2 + 4p), H = int(1 + 2p), p = min(epoch / 10000, 1), looked at in every one of the 8,138 steps."""
    cfg = tiny.config({**CURRICULUM, "train.curriculum_epochs": 10_000, "train.batch_size": 6144})
    found = stages(cfg, 8138, 1000.0)
    assert [cycles(model) for _, model in found] == [(2, 1), (3, 1), (4, 2), (5, 2), (6, 3)]
    for step in range(8138):
        # In whole numbers: epoch / 10000 = step * 6144 / 1000 / 10000.
        done, whole = min(step * 6144, 10_000_000), 10_000_000
        assert cycles(stage_at(found, step)) == (2 + 4 * done // whole, 1 + 2 * done // whole)


@pytest.mark.slow
def test_the_carry_lives_through_a_curriculum_of_five_programs(tmp_path):
    names = []

    def note(event, _, **about):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(about["fun_name"])

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        assert tiny.train_here(tmp_path, {**CURRICULUM, "model.halt_max_steps": 7}).step == 40
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert names.count("jit(train_step)") == 5
    # Rows begin together and q says "go on" at first: they end at step 7, 14, ... whatever stage begins in between.
    halted = {record["step"]: record["halted"] for record in tiny.records(tmp_path, "train")}
    assert [step for step in (2, 4, 6, 8, 10, 12, 14) if halted[step]] == [8, 14]


def test_after_its_curriculum_a_run_is_the_fixed_models(tmp_path):
    """From the checkpoint of a curriculum that is over, both go on to bitwise the same end."""
    finished = {**CURRICULUM, "train.curriculum_epochs": 1, "train.steps": 12}
    fixed = {**finished, "train.curriculum_epochs": 0}
    assert [stage[0] for stage in stages(tiny.config(finished), 12, 16.0)] == [0, 1, 2]  # over before step 3
    tiny.train_here(tmp_path / "grown", finished, stop=tiny.StopAfter(tmp_path / "grown", 3))
    for name, changes in (("one", finished), ("other", fixed)):
        with claim(tmp_path / name, tiny.page(changes)):
            shutil.copytree(tmp_path / "grown" / "checkpoints", tmp_path / name / "checkpoints")
            shutil.copy(tmp_path / "grown" / "metrics.jsonl", tmp_path / name / "metrics.jsonl")
    tiny.train_here(tmp_path / "one", finished)
    tiny.train_here(tmp_path / "other", fixed)
    tiny.assert_same_end(tmp_path / "one", tmp_path / "other")


@pytest.fixture(scope="module")
def stepped():
    """(compiled step, state after three steps, the next batch) of a run whose loss is scaled."""
    changes = {"model.dtype": "float16"}
    cfg, source = tiny.config(changes), tiny.data()[0]
    step = tiny.train_step(cfg, 12)
    state = initial_state(cfg, jax.random.key(0))

    def batch(number):
        return source.batch(number, np.arange(8), seed=0, batch_size=8)

    for number in range(3):
        state, _ = step(state, batch(number))
    return step, state, batch(3)


def test_an_overflow_is_survived(stepped):
    """float16 ends at 65,504, so 2**40 is too much: no update, but the thinking goes on, and the scale halves."""
    step, state, batch = stepped
    scale = state.loss_scale.replace(scale=jnp.float32(2.0**40))
    after, sums = step(state.replace(loss_scale=scale), batch)
    for name in ("params", "ema", "opt_state"):
        tiny.assert_same_state(_flat(getattr(state, name)), _flat(getattr(after, name)))
    assert after.loss_scale.scale == 2.0**39 and after.loss_scale.good_steps == 0
    assert sums["skipped"] == 1 and not sums["bad"]
    assert after.step == 4 and not np.array_equal(after.carry.z_H, state.carry.z_H)
    skipped = 0
    for _ in range(40):  # down to where it fits again
        after, sums = step(after, batch)
        skipped += sums["skipped"]
        assert not sums["bad"]
    assert skipped < 40
    assert not np.array_equal(after.params["weights"]["lm_head"], state.params["weights"]["lm_head"])


def test_after_an_overflow_the_learning_rate_is_that_of_the_step():
    """Lion moves each weight by the learning rate; of ten steps of warm-up the first overflows."""
    changes = {"model.dtype": "float16", "optim.name": "lion", "optim.warmup_steps": 10, "optim.weight_decay": 0.0}
    cfg, source = tiny.config(changes), tiny.data()[0]
    step, state = tiny.train_step(cfg, 12), initial_state(cfg, jax.random.key(0))
    batches = [source.batch(number, np.arange(8), seed=0, batch_size=8) for number in range(2)]
    state, sums = step(state.replace(loss_scale=state.loss_scale.replace(scale=jnp.float32(2.0**40))), batches[0])
    assert sums["skipped"] == 1
    after, sums = step(state.replace(loss_scale=state.loss_scale.replace(scale=jnp.float32(2.0**10))), batches[1])
    assert sums["skipped"] == 0
    moved = jax.tree.map(lambda new, old: jnp.abs(new - old).max(), after.params["weights"], state.params["weights"])
    # Weights of size 1 are rounded to 6e-8.
    np.testing.assert_allclose(max(jax.tree.leaves(moved)), 0.2 * cfg.optim.lr, atol=1e-7)


def test_the_scale_grows_after_a_time_without_overflow(stepped):
    step, state, batch = stepped
    nearly = state.loss_scale.replace(good_steps=jnp.int32(LOSS_SCALE_GROWS_AFTER - 1))
    after, _ = step(state.replace(loss_scale=nearly), batch)
    assert after.loss_scale.scale == 2 * state.loss_scale.scale and after.loss_scale.good_steps == 0


def test_gradients_that_no_scale_mends_are_a_divergence(stepped):
    step, state, batch = stepped
    weights = {**state.params["weights"], "lm_head": state.params["weights"]["lm_head"].at[0, 0].set(np.nan)}
    smallest = state.loss_scale.replace(scale=jnp.float32(MIN_LOSS_SCALE))
    _, sums = step(state.replace(params={**state.params, "weights": weights}, loss_scale=smallest), batch)
    assert sums["bad"]


def test_a_scaled_loss_changes_nothing_in_float32(tmp_path):
    """Powers of two cost no digit as long as nothing overflows or vanishes."""
    tiny.train_here(tmp_path / "plain", SLOWLY)
    tiny.train_here(tmp_path / "scaled", {**SLOWLY, "optim.loss_scaling": "dynamic"})
    plain, scaled = tiny.state(tmp_path / "plain", 12), tiny.state(tmp_path / "scaled", 12)
    assert_near(plain, {name: scaled[name] for name in plain})
    assert scaled["loss_scale/scale"] == 2.0**15 and scaled["loss_scale/good_steps"] == 12


def test_float16_trains_with_a_scaled_loss(tmp_path):
    assert tiny.config({"model.dtype": "float16"}).scales_loss and not tiny.config().scales_loss
    tiny.train_here(tmp_path, {"model.dtype": "float16", "optim.warmup_steps": 0, "optim.lr": 3e-3})
    records = tiny.records(tmp_path, "train")
    assert records[-1]["loss"] < records[0]["loss"]
    assert all({"loss_scale", "skipped"} <= record.keys() for record in records)


def test_averages_are_named_by_all_digits_of_their_decay():
    cfg = tiny.config({"optim.ema_also": "0,0.99,0.9999999,0.99999951"})
    state = jax.eval_shape(lambda: initial_state(cfg, jax.random.key(0)))
    assert set(state.ema_also) == {"0", "0.9999999", "0.99999951"}, "0.99 is the average of record"


def test_several_averages_in_one_run(tmp_path):
    """Averaging does not touch the training, so each is what a run of its own would have; "0" is the live weights."""
    tiny.train_here(tmp_path / "many", {"optim.ema_also": "0,0.5,0.99"})
    tiny.train_here(tmp_path / "half", {"optim.ema_decay": 0.5})
    many, half = tiny.state(tmp_path / "many", 12), tiny.state(tmp_path / "half", 12)
    assert {name.split("/")[1] for name in many if name.startswith("ema_also/")} == {
        "0",
        "0.5",
    }  # 0.99 is the run's own
    for name in half:
        if name.startswith("ema/"):
            # Another program: the compiler may fuse other sums.
            np.testing.assert_allclose(many[name.replace("ema/", "ema_also/0.5/")], half[name], rtol=0, atol=1e-6)
            live = many[name.replace("ema/", "params/weights/")]
            np.testing.assert_array_equal(many[name.replace("ema/", "ema_also/0/")], live)
    for record, own in zip(
        tiny.records(tmp_path / "many", "eval"), tiny.records(tmp_path / "half", "eval"), strict=True
    ):
        assert record["exact_accuracy_ema_0.5"] == own["exact_accuracy"]
        assert "exact_accuracy_live" in record and "exact_accuracy_ema_0.99" not in record


def test_exploration_is_annealed():
    """q always says "halt": at the beginning, with certain exploration, none may before step 2; at the end all do."""
    cfg = tiny.config({"model.halt_exploration_prob": 1.0, "train.halt_exploration_end": 0.0})
    source = tiny.data()[0]
    step = tiny.train_step(cfg, 1000)
    state = initial_state(cfg, jax.random.key(0))
    head = {"kernel": jnp.zeros((32, 2)), "bias": jnp.full((2,), 5.0)}
    weights = {**state.params["weights"], "q_head": head}
    state = state.replace(params={**state.params, "weights": weights})
    halted = {}
    for done in (0, 500, 999):
        after = [
            step(state.replace(step=jnp.int32(done), key=jnp.array([0, k], jnp.uint32)),
                 source.batch(0, np.arange(8), seed=0, batch_size=8))[0].carry.halted.mean()
            for k in range(25)
        ]  # fmt: skip
        halted[done] = float(np.mean(after))
    assert halted[0] == 0.0 and halted[999] > 0.98
    assert 0.4 < halted[500] < 0.6  # 200 draws of probability 1/2: three deviations are 0.11


def test_a_budget_in_examples_and_a_warm_up_as_a_share():
    cfg = tiny.config({"train.steps": 0, "train.examples": 1000, "optim.warmup_share": 0.25})
    assert cfg.total_steps(16, 1.0) == 125 and cfg.optim.warmup(125) == 31
    assert cfg.warnings(125) == []
    (line,) = tiny.config({"optim.warmup_steps": 90}).warnings(125)
    assert line.startswith("72% of the 125 steps lie inside the warm-up of 90")


@pytest.mark.parametrize(
    "setting, value, line",
    [
        ("train.accumulation", 3, "train.batch_size 8 does not divide into train.accumulation=3 equal parts"),
        ("train.curriculum_L_start", 7, None),
        ("optim.ema_also", "0.9;0.99", "optim.ema_also is '0.9;0.99'; write decays"),
        ("optim.ema_also", "1.5", "optim.ema_also holds 1.5"),
        ("train.halt_exploration_end", 2.0, "train.halt_exploration_end is 2.0; it must be in"),
        ("optim.warmup_share", -0.1, "optim.warmup_share is -0.1; it must be in"),
        ("optim.loss_scaling", "static", "optim.loss_scaling is 'static'; choose one of auto, none, dynamic"),
        ("train.examples", -1, "train.examples is -1; it must not be negative"),
    ],
)
def test_settings_that_make_no_sense(setting, value, line):
    if line is None:  # only where there is a curriculum
        tiny.config({setting: value})
        line = "train.curriculum_L_start 7 is more than model.L_cycles 2, where it ends"
        with pytest.raises(InputError, match=line):
            tiny.config({setting: value, "train.curriculum_epochs": 4})
        return
    with pytest.raises(InputError, match=line):
        tiny.config({setting: value})


def _flat(tree) -> dict:
    return {tiny.path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.slow
def test_late_starts_in_parts_on_eight_devices_and_resumed(tmp_path):
    """Half of the steps begin late; each step draws what it would in one go."""
    switches = {"model.late_start_prob": 0.5, "model.step_weight": 0.7}
    changes = {**SLOWLY, **switches, "train.batch_size": 16, "train.steps": 6}
    parts = {**changes, "train.accumulation": 2}
    tiny.train_here(tmp_path / "whole", changes)
    stopped = tiny.train_here(tmp_path / "parts", parts, devices=8, stop=tiny.StopAfter(tmp_path / "parts", 1))
    assert stopped.step < 6
    assert tiny.train_here(tmp_path / "parts", parts, devices=8).step == 6
    assert_near(tiny.state(tmp_path / "whole", 6), tiny.state(tmp_path / "parts", 6))
