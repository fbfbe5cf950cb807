"""Every distinct run of the catalogue: trained for some steps when shrunk, traced when not, and unlike the baseline."""

from __future__ import annotations

import dataclasses
import hashlib
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from trm_jax import compiler
from trm_jax.configs import registry, resolve
from trm_jax.models import params, trm
from trm_jax.planning import memory
from trm_jax.tasks.sudoku import source as sudoku
from trm_jax.train.compiled import Compiled
from trm_jax.train.curriculum import stages
from trm_jax.train.memory import state_bytes, step_bytes
from trm_jax.train.state import evaluation_params, initial_state
from trm_jax.train.step import hparams_of, make_train_step

FULL = [group for name, group in registry.groups().items() if group.report and not name.startswith("mini_")]
GROUP_OF = {experiment.name: group for group in FULL for experiment in group.experiments}
DISTINCT = ["baseline", *(name for name in GROUP_OF if registry.run_name(name) == name)]
STEPS = 7  # longer than the centre of the supervision steps, so that halting is seen

# What a group varies keeps its proportions ...
SMALLER = {
    "model.hidden_size": 1 / 32,
    "model.puzzle_emb_ndim": 1 / 32,
    "model.L_cycles": 1 / 2,
    "model.halt_max_steps": 1 / 4,
    "data.train_puzzles": 1 / 50,
    "data.augmentations": 1 / 100,
    "optim.lr": 20,
    "optim.table_lr": 20,
    "train.batch_size": 1 / 768,
    "train.curriculum_epochs": 1 / 2000,
}
# ... and what it does not vary is as small as it can be.
TINY = {
    "model.hidden_size": 16,
    "model.num_heads": 2,
    "model.puzzle_emb_ndim": 16,
    "model.puzzle_emb_len": 1,
    "model.L_layers": 1,
    "model.L_cycles": 1,
    "model.H_cycles": 1,
    "model.halt_max_steps": 4,
    "data.source": "generated",
    "data.size": 4,
    "data.extra_clues": 2,
    "data.train_puzzles": 20,
    "data.test_puzzles": 10,
    "data.augmentations": 10,
    "optim.lr": 2e-3,
    "optim.table_lr": 2e-3,
    "optim.warmup_steps": 2,
    "train.batch_size": 8,
    "train.epochs": 28,
    "eval.batch_size": 10,
}
ROOM = {"contrib01": {"model.L_cycles": 4, "model.H_cycles": 2}}  # to grow in


def shrunk(name: str, group: registry.Group):
    """The frozen config of a member (or of the baseline) at the size of its group's tests."""
    page = registry.get(name)
    own = resolve.flatten(page)
    varied = {
        key: type(own[key])(own[key] * SMALLER[key]) if key in SMALLER else own[key] for key in group.varied
    }  # four layers of 1.5 cycles are four of one
    return resolve.freeze(resolve.override(page, TINY | ROOM.get(group.name, {}) | varied | {"name": "shrunk"}))


@cache
def data_of(cfg: sudoku.SudokuConfig):
    return sudoku.load(cfg)


@cache
def outcome(cfg, q_halt: float) -> tuple:
    """What some training steps leave: the loss of each step, and a digest of the weights that would be evaluated.

    q_halt: what is added to the bias of the halting head, which makes a new model want to go on.
    """
    data = data_of(cfg.data)
    compiled = Compiled(cfg, data[0].info, jax.devices()[:1])
    assert compiled.total_steps >= STEPS
    state, losses = compiled.first_state(), []
    state.params["weights"]["q_head"]["bias"] += jnp.array([q_halt, 0.0])
    for step in range(STEPS):
        batch = data[0].batch(step, compiled.slots, seed=cfg.seed, batch_size=cfg.train.batch_size)
        state, sums = compiled.train_step(state, step, batch)
        losses.append(float(sums["lm_loss"] + sums["q_loss"]))
    assert int(state.step) == STEPS and np.all(np.isfinite(losses))
    content = hashlib.sha256()
    for leaf in jax.tree.leaves(evaluation_params(state)[""]):
        content.update(np.asarray(leaf).tobytes())
    return tuple(losses), content.hexdigest()


def installed_xla_knows(options: dict) -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=options).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:
        return False
    return True


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    """These programs run for a moment: compiling them well would take most of the time."""
    quick = {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}
    jax.config.update("jax_disable_most_optimizations", True)
    with pytest.MonkeyPatch.context() as patch:
        if installed_xla_knows(quick):
            patch.setattr(compiler, "options", lambda deterministic: quick)
        yield
    jax.config.update("jax_disable_most_optimizations", False)


LONG = ("exp01", "exp03", "exp04a", "exp06")  # their sizes are programs of their own


@pytest.mark.parametrize(
    "group",
    [pytest.param(group, id=group.name, marks=[pytest.mark.slow] * (group.name in LONG)) for group in FULL],
)
def test_members_train_and_each_computes_something_else(group):
    """The varied settings reach the program: no two members of a group, the baseline among them, end alike."""
    members = {registry.run_name(experiment.name) for experiment in group.experiments}
    assert "baseline" in members
    # Exploration keeps those at work that want to halt, so it shows where they do.
    q_halt = 6.0 if group.name == "contrib02" else 0.0
    found = {name: outcome(shrunk(name, group), q_halt) for name in sorted(members)}
    assert len(set(found.values())) == len(members), found


def test_what_only_the_average_changes():
    """Members of exp08 train alike and are evaluated differently."""
    group = registry.groups()["exp08"]
    found = [outcome(shrunk(experiment.name, group), 0.0) for experiment in group.experiments]
    assert len({losses for losses, _ in found}) == 1 and len({weights for _, weights in found}) == 5


def traced(cfg) -> list:
    """Abstract results of the full-size step at each recursion that the run uses; nothing is computed."""
    puzzles = cfg.data.train_puzzles
    total_steps = cfg.total_steps(puzzles, 1.0)
    state = jax.eval_shape(lambda: initial_state(cfg, jax.random.key(0)))
    rows = jax.ShapeDtypeStruct((cfg.train.batch_size, cfg.model.seq_len), jnp.int32)
    batch = {"inputs": rows, "labels": rows, "puzzle_ids": jax.ShapeDtypeStruct((cfg.train.batch_size,), jnp.int32)}
    results = []
    hparams = hparams_of(cfg, total_steps)
    for _, model in stages(cfg, total_steps, puzzles):
        after, _ = jax.eval_shape(make_train_step(cfg, total_steps, model), state, batch, hparams)
        assert jax.tree.structure(after) == jax.tree.structure(state)
        same = jax.tree.map(lambda a, b: (a.shape, a.dtype) == (b.shape, b.dtype), after, state)
        assert all(jax.tree.leaves(same))
        results.append(((model.L_cycles, model.H_cycles), after))
    return results


@pytest.mark.parametrize("name", DISTINCT)
def test_the_full_step_is_traced(name):
    cfg = resolve.freeze(registry.get(name))
    results = traced(cfg)
    _, state = results[-1]
    model = cfg.model
    assert state.carry.z_H.shape == (cfg.train.batch_size, 81 + 16, model.hidden_size)
    assert state.carry.z_H.dtype == model.dtype
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state.params["weights"])} == {"float32"}
    assert bool(state.ema) == (name != "exp08a") and bool(state.loss_scale) == (name == "exp07c")
    assert [cycles for cycles, _ in results] == (
        [(2, 1), (3, 1), (4, 2), (5, 2), (6, 3)]
        if name == "contrib01_curriculum"
        else [(model.L_cycles, model.H_cycles)]
    )
    # One chip of 141 GB holds the state; a step of every row fits the 32 chips of 32 GB of the users' slice.
    weights = params.count(trm.specs(model)["weights"])
    copies = 4 - (name == "exp08a") - (cfg.optim.name == "lion")  # weights, average, two moments
    alone = state_bytes(cfg, memory.abstract_mesh(cfg, 1))
    latents = 2 * state.carry.z_H.size * state.carry.z_H.dtype.itemsize
    assert 0 <= alone - 4 * weights * copies - latents < 0.05 * alone and alone < 141e9
    pod = memory.abstract_mesh(cfg, 32)
    assert state_bytes(cfg, pod) + step_bytes(cfg, pod, cfg.train.accumulation) < 32e9


def test_the_parameters_of_the_sizes():
    """By arithmetic: two layers of two SwiGLUs, of the tokens' 97 and of the width, then embedding and heads."""

    def expected(width):
        def inner(features):
            return -(-round(8 * features / 3) // 256) * 256

        layer = 3 * 97 * inner(97) + 3 * width * inner(width)
        return 2 * layer + 2 * 11 * width + 2 * width + 2

    for experiment in registry.groups()["exp01"].experiments:
        model = resolve.freeze(registry.get(experiment.name)).model
        assert params.count(trm.specs(model)["weights"]) == expected(model.hidden_size)
    assert expected(512) == 5_028_866


def test_shrunk_members_differ_in_what_their_group_varies_and_in_nothing_else():
    for group in FULL:
        centre = shrunk("baseline", group)
        for experiment in group.experiments:
            cfg = shrunk(experiment.name, group)
            changed = {
                f"{section}.{key}"
                for section in ("model", "data", "optim", "train", "eval")
                for key, value in dataclasses.asdict(getattr(cfg, section)).items()
                if value != dataclasses.asdict(getattr(centre, section))[key]
            }
            assert changed <= set(group.varied) and bool(changed) == (not experiment.alias_of)
