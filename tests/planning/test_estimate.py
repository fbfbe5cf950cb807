"""A plan against the spec's figures, and against what the training step really does and takes."""

import dataclasses
import json
import math

import jax
import pytest

from tests import tiny
from trm_jax import compiler, sharding
from trm_jax.configs import registry, resolve
from trm_jax.errors import InputError
from trm_jax.models import target, trm
from trm_jax.planning import find, memory, plan, work
from trm_jax.train.compiled import jit_train_step
from trm_jax.train.memory import COMPILERS_TAKE, state_bytes, step_bytes, takes, with_remat
from trm_jax.train.state import abstract_state, initial_state
from trm_jax.train.step import hparams_of

# The spec's figures are rounded to two digits.
TWO_DIGITS = 0.03
GUIDE = [name for name, experiment in registry.catalogue().items() if name == "baseline" or experiment.expects]


@pytest.fixture
def quick_compilation(monkeypatch):
    """Without LLVM's optimisation, which takes most of the time and sets nothing else aside in memory."""
    monkeypatch.setattr(compiler, "options", lambda deterministic=False: {"xla_backend_optimization_level": 0})


def config(name="baseline", changes=None):
    return resolve.freeze(resolve.override(registry.get(name), changes or {}))


def test_the_baseline_is_what_the_spec_says():
    """2.136e18 FLOPs in training, 1.734e17 an evaluation; 1.48 hours at 400 TFLOP/s; 10.1 minutes on a v4-64."""
    found = work(config())
    assert (found.steps, found.parameters, found.puzzle_table) == (8138, 5_028_866, 512)
    assert found.train_flops == pytest.approx(2.1e18, rel=TWO_DIGITS)
    assert found.eval_flops / found.evaluations == pytest.approx(1.7e17, rel=TWO_DIGITS)
    h200 = dataclasses.replace(find("h200"), peak_tflops=400)
    assert plan(config(), h200, utilisation=1).train_hours == pytest.approx(1.5, rel=TWO_DIGITS)
    assert 60 * plan(config(), find("v4-64")).train_hours == pytest.approx(10, rel=TWO_DIGITS)


def test_the_catalogue_is_what_the_spec_says():
    """1.70e20 counts the training of all 68 names; the 54 distinct runs train for 1.41e20 and evaluate for 1.09e20."""
    assert len(GUIDE) == 68
    distinct = {registry.run_name(name): work(config(registry.run_name(name))) for name in GUIDE}
    assert len(distinct) == 54
    every_name = sum(distinct[registry.run_name(name)].train_flops for name in GUIDE)
    assert every_name == pytest.approx(1.7e20, rel=TWO_DIGITS)
    assert sum(found.train_flops for found in distinct.values()) == pytest.approx(1.41e20, rel=0.01)
    assert sum(found.eval_flops for found in distinct.values()) == pytest.approx(1.09e20, rel=0.01)


@pytest.mark.parametrize(("before_end", "scored"), [(0, [9, 9, 9]), (5, [5, 5, 9])])
def test_the_plan_of_a_run_is_what_the_run_writes(tmp_path, quick_compilation, before_end, scored):
    changes = {
        "train.steps": 5,
        "model.L_cycles": 1,
        "model.H_cycles": 1,
        "eval.every_steps": 2,
        "eval.max_examples": 9,
        "eval.max_examples_before_end": before_end,
        "optim.ema_also": "0,0.5",
    }
    tiny.train_here(tmp_path / "run", changes)
    written, found = json.loads((tmp_path / "run" / "run.json").read_text()), work(tiny.config(changes))
    assert (found.steps, found.parameters, found.puzzle_table, found.train_flops) == tuple(
        written[key] for key in ("total_steps", "parameters", "puzzle_table", "train_flops")
    )
    assert [record["count"] for record in tiny.records(tmp_path / "run", "eval")] == scored
    assert found.evaluations == 3
    # Each evaluation scores three sets of weights: averaged with 0.99, with 0.5, and live.
    assert found.eval_flops == 3 * sum(scored) / 9 * written["eval_flops"]
    assert written["eval_flops"] == 9 * 3 * trm.matmul_flops(tiny.config(changes).model)[0]


def test_a_curriculum_costs_what_its_steps_cost():
    """Against the spec's rule, step by step."""
    cfg = config("contrib01_curriculum")
    flops = 0
    for step in range(8138):
        p = min(step * 6144 / 1000 / 10000, 1)
        model = dataclasses.replace(cfg.model, L_cycles=int(2 + 4 * p), H_cycles=int(1 + 2 * p))
        flops += 6144 * trm.matmul_flops(model)[1]
    assert work(cfg).train_flops == flops < work(config()).train_flops
    assert work(cfg).eval_flops == work(config()).eval_flops  # at the model's own recursion


def test_puzzles_are_counted_only_where_they_are_known():
    assert work(config(changes={"data.test_puzzles": 500})).eval_puzzles == 500
    assert work(config(changes={"data.test_puzzles": 500, "eval.max_examples": 900})).eval_puzzles == 500
    assert work(config(changes={"eval.max_examples": 900})).eval_puzzles == 900
    with pytest.raises(InputError, match="data.train_puzzles is 0, all of the source"):
        work(config(changes={"data.train_puzzles": 0}))


@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optim.name": "lion", "optim.ema_decay": 0, "model.mlp_t": True, "model.pos_encodings": "none"},
        {"model.dtype": "float16", "optim.ema_also": "0,0.5"},
    ],
)
def test_the_state_takes_exactly_what_the_plan_says(changes, devices):
    cfg = tiny.config(changes)
    mesh = memory.abstract_mesh(cfg, devices)
    state = jax.eval_shape(lambda: initial_state(cfg, jax.random.key(0)))
    whole = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state))
    carry = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(state.carry))
    assert state_bytes(cfg, mesh) == whole - carry + carry / devices


def compiled_step(cfg):
    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    state, tokens = abstract_state(cfg, mesh), jax.ShapeDtypeStruct((cfg.train.batch_size, cfg.model.seq_len), "int32")
    batch = {"inputs": tokens, "labels": tokens, "puzzle_ids": jax.ShapeDtypeStruct(tokens.shape[:1], "int32")}
    with target.made_for("an accelerator"):
        return jit_train_step(cfg, 100, cfg.model, state, mesh).lower(state, batch, hparams_of(cfg, 100)).compile()


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"model.mlp_t": True, "model.pos_encodings": "none"}, marks=pytest.mark.slow),
        {"model.mlp_t": True, "model.pos_encodings": "none", "train.accumulation": 4},
        pytest.param(
            {"model.mlp_t": True, "model.pos_encodings": "none", "model.remat": "block"}, marks=pytest.mark.slow
        ),
        pytest.param({"model.mlp_t": False, "model.pos_encodings": "rope"}, marks=pytest.mark.slow),
        {"model.mlp_t": False, "model.pos_encodings": "rope", "model.remat": "block"},
    ],
)
def test_a_step_takes_what_the_plan_says_within_the_stated_factor(changes, quick_compilation):
    """What XLA sets aside lies between 0.75 (it was 0.83 to 1.02 when this was written) and COMPILERS_TAKE times it.

    The estimate is of the loop as accelerators run it, so it is compiled here as for them: the CPU's unrolled one
    lets XLA merge what `remat` wants computed again with what was computed before.
    """
    small = {"model.hidden_size": 128, "model.puzzle_emb_ndim": 128, "model.L_layers": 1, "model.H_cycles": 1}
    cfg = config("demo", {"train.batch_size": 64, **small, **changes})
    estimate = step_bytes(cfg, memory.abstract_mesh(cfg, 1), cfg.train.accumulation)
    taken = compiled_step(cfg).memory_analysis().temp_size_in_bytes
    assert 0.75 * estimate < taken < COMPILERS_TAKE * estimate, taken / estimate


def test_memory_that_is_too_small_names_the_accumulation_that_fits():
    [warning] = plan(config(changes={"model.remat": "none"}), find("h200")).warnings
    assert "h200 has 141" in warning and "set train.accumulation=2, which gives the same update" in warning
    fitting = plan(config(changes={"train.accumulation": 2}), find("h200"))
    assert fitting.warnings == () and fitting.memory_bytes < 141e9
    assert plan(config(), find("v4-64")).warnings == ()
    tiny_chip = dataclasses.replace(find("v4-64"), memory_gb=0.2)
    assert "no train.accumulation is enough" in plan(config(), tiny_chip).warnings[0]


@pytest.mark.parametrize("name", ["exp06_e", "exp06_f", "exp01f", "exp07a"])
def test_the_catalogue_s_largest_fit_the_users_pod(name):
    assert not any("GB a chip" in warning for warning in plan(config(name), find("v4-64")).warnings)


def test_what_else_a_plan_warns_of():
    def warnings(device, **settings):
        changes = {key.replace("__", "."): value for key, value in settings.items()}
        return " | ".join(plan(config(changes=changes), find(device)).warnings)

    assert "all of the 1,017 steps lie inside the warm-up of 2,000" in " ".join(
        plan(config("exp06_f"), find("v4-64")).warnings
    )
    assert "train.batch_size 6145 is not divisible by the 32 devices" in warnings("v4-64", train__batch_size=6145)
    assert "train.batch_size / train.accumulation = 16 is not" in warnings("v4-64", train__accumulation=384)
    assert "eval.batch_size 6145 is not divisible" in warnings("v4-64", eval__batch_size=6145)
    assert "the peak is that of bfloat16" in warnings("v4-64", model__dtype="float32")


def test_time_and_price_follow_the_device():
    def hours(device, **options):
        made = plan(config(changes={"train.accumulation": 4}), find(device), **options)
        return made.train_hours + made.eval_hours

    cfg, slow = config(changes={"train.accumulation": 4}), hours("a100")
    assert slow / hours("h100") == pytest.approx(989 / 312)
    assert plan(cfg, find("a100")).dollars == pytest.approx(2.79 * slow)
    assert hours("2xa100") == pytest.approx(slow / 2)
    assert plan(cfg, find("v4-64")).dollars is None
    assert hours("a100", utilisation=0.2) == pytest.approx(2 * slow)
    for utilisation in (0, 1.1, math.nan):
        with pytest.raises(InputError, match="the utilisation is"):
            plan(cfg, find("h100"), utilisation=utilisation)


def test_a_mesh_that_does_not_fit_the_device():
    with pytest.raises(InputError, match="does not fit 1 devices"):
        plan(config(changes={"mesh.fsdp": 2}), find("h100"))
    assert sharding.mesh_sizes(-1, 2, 2, 8) == (2, 2, 2)


def test_activations_are_computed_again_where_they_would_not_fit():
    cfg = config("baseline_768")
    mesh = memory.abstract_mesh(cfg, 1)
    kept, again = (
        takes(dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, remat=remat)), mesh, 1)
        for remat in ("none", "block")
    )
    assert again < kept / 2
    for room, remat in ((None, "none"), (kept, "none"), (kept - 1, "block"), (0, "block")):
        assert with_remat(cfg, cfg.model, mesh, room).remat == remat
    asked = dataclasses.replace(cfg.model, remat="none")
    assert with_remat(cfg, asked, mesh, 0) == asked


def test_a_plan_says_what_computing_again_could_be_spared_by():
    (warning,) = [line for line in plan(config("baseline"), find("h200")).warnings if "remat" in line]
    assert warning == (
        "fits by computing activations again (model.remat), which costs time; without: set train.accumulation=2, "
        "which gives the same update"
    )
