"""Diagnostics against what NumPy makes of the model's own steps, one by one."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from tests.evals.test_until_done import expected, model
from trm_jax import sharding
from trm_jax.data.addressing import PoolTrain
from trm_jax.data.dataset import IGNORED
from trm_jax.evals.diagnose import Diagnosis, Originals, headline
from trm_jax.reports.diagnosis import by_stratum, calibration
from trm_jax.reports.diagnosis import page as diagnosis_page
from trm_jax.tasks.maze import source as mazes
from trm_jax.tasks.maze.paths import label
from trm_jax.tasks.sudoku.solver import solve

NAME, T, N = "hrm", 6, 12


@dataclasses.dataclass(frozen=True)
class Partly:
    """An `EvalSource` in which the answers to some puzzles are not known."""

    data: object
    unknown: tuple[int, ...]

    def __len__(self):
        return len(self.data)

    def __getattr__(self, name):
        return getattr(self.data, name)

    def rows(self, indices):
        rows = self.data.rows(indices)
        rows["labels"][np.isin(indices, self.unknown)] = IGNORED
        return rows


@functools.cache
def page(devices: int = 1, batch_size: int = 5, unknown: tuple[int, ...] = ()) -> dict:
    cfg, params, data, *_ = model(NAME)
    cfg = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, batch_size=batch_size))
    mesh = sharding.make_mesh(devices=jax.devices()[:devices])
    train = tiny.data({"data.train_puzzles": 16})[0]
    diagnosis, data = Diagnosis(cfg, mesh), Partly(data, unknown)
    sums, rows = diagnosis.measure(params, diagnosis.batches(data))
    _, training = diagnosis.measure(params, diagnosis.batches(Originals(train.info, train.pool), N))
    return diagnosis_page(sums, rows, cfg.task.strata(cfg.data, data), training)


@functools.cache
def by_hand() -> dict[str, np.ndarray]:
    """[T, N] of each step."""
    cfg, params, data, answers, q_halt = model(NAME)
    rows = data.rows(np.arange(N))
    step, carry = jax.jit(cfg.family.step, static_argnums=1), cfg.family.initial_carry(cfg.model, N)
    latents = []
    for _ in range(T):
        carry, _ = step(params, cfg.model, carry, rows)
        latents.append(
            np.concatenate([np.float64(getattr(carry, name)).reshape(N, -1) for name in cfg.family.LATENTS], 1)
        )
    moved = np.linalg.norm(np.diff(latents, axis=0), axis=-1)
    changed = (answers[1:] != answers[:-1]).sum(-1)
    exact = (answers == rows["labels"]).all(-1)
    at = np.array([max([1] + [t + 2 for t in range(T - 1) if changed[t, row]]) for row in range(N)])
    return {"moved": moved, "changed": changed, "exact": exact, "halts": q_halt > 0, "settled_at": at}


@pytest.mark.parametrize("how", [{}, {"devices": 8, "batch_size": 8}, {"unknown": (0, 7, 11)}])
def test_the_figures_of_each_step(how):
    found, hand = page(**how), by_hand()
    kept = np.setdiff1d(np.arange(N), how.get("unknown", ()))
    steps = found["by_step"]
    assert steps["residual"][0] is None and steps["changed"][0] is None
    # Norms of some 24 in float32 of latents that differ by roundings which six steps amplify.
    np.testing.assert_allclose(steps["residual"][1:], hand["moved"][:, kept].mean(1), rtol=1e-3)
    np.testing.assert_allclose(steps["changed"][1:], hand["changed"][:, kept].mean(1), rtol=1e-12)
    np.testing.assert_allclose(steps["score"], hand["exact"][:, kept].mean(1), rtol=1e-12)
    np.testing.assert_allclose(steps["halts"], hand["halts"][:, kept].mean(1), rtol=1e-12)
    at = hand["settled_at"][kept]
    assert 0 < (at <= 4).sum() < len(at), "or the test shows nothing"
    assert found["settling"]["settled_at"] == [(at == step).sum() for step in range(1, T + 1)]
    quiet = at <= 4  # of six steps the last two are the last quarter
    assert found["settling"]["settled"] == pytest.approx(quiet.mean())
    last = hand["exact"][-1, kept]
    assert found["settling"]["score_settled"] == pytest.approx(last[quiet].mean())
    assert found["settling"]["score_wandering"] == pytest.approx(last[~quiet].mean())
    assert found["held_out"]["n"] == len(kept) and found["held_out"]["score"] == pytest.approx(last.mean())
    for rule in ("q", "settled"):
        answers, _, stop, stopped = (x[kept] for x in expected(NAME, rule, T))
        right = (answers == model(NAME)[2].rows(kept)["labels"]).all(-1)
        wanted = {"score": right.mean(), "steps": stop.mean(), "stopped": stopped.mean()}
        assert found["stopping"][rule] == pytest.approx(wanted)


def test_the_latents_of_a_row_are_all_that_it_has():
    """Those of `symbols` have an axis more."""
    small = {"model.hidden_size": 8, "model.mlp_t": True, "model.pos_encodings": "none", "model.dtype": "float32"}
    small |= {"model.family": "symbols", "model.L_layers": 1, "model.H_cycles": 1, "model.L_cycles": 1}
    cfg, data = tiny.config(small), tiny.data(small)[1]
    params = cfg.family.init(jax.random.key(0), cfg.model)
    diagnosis = Diagnosis(cfg, sharding.make_mesh(devices=jax.devices()[:1]), 2)
    sums, _ = diagnosis.measure(params, diagnosis.batches(data))
    step, carry, latents = jax.jit(cfg.family.step, static_argnums=1), cfg.family.initial_carry(cfg.model, N), []
    for _ in range(2):
        carry, _ = step(params, cfg.model, carry, data.rows(np.arange(N)))
        latents.append(np.stack([carry.z_H, carry.z_L], 1, dtype=np.float64).reshape(N, -1))
    moved = np.linalg.norm(latents[1] - latents[0], axis=-1)
    assert sums["residual"][1] == pytest.approx(moved.sum(), rel=1e-3)  # roundings, as above


def test_training_puzzles_are_as_many_originals():
    found = page()["training"]
    cfg, params, *_ = model(NAME)
    train: PoolTrain = tiny.data({"data.train_puzzles": 16})[0]
    rows = train.pool.examples(np.arange(N), np.zeros(N, int))
    answers, _ = cfg.family.think(params, cfg.model, rows)
    assert found["n"] == N
    assert found["score"] == pytest.approx((np.asarray(answers[-1]) == rows["labels"]).all(-1).mean())


CHANCES = st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans()), min_size=1, max_size=60)


@given(CHANCES)
def test_calibration_is_what_its_definitions_say(pairs):
    chance, right = np.array([c for c, _ in pairs]), np.array([float(r) for _, r in pairs])
    found = calibration(chance, right)
    ones, zeros = chance[right == 1], chance[right == 0]
    wins = [(one > zero) + 0.5 * (one == zero) for one in ones for zero in zeros]
    assert found["auroc"] == (pytest.approx(np.mean(wins)) if wins else None)
    assert found["brier"] == pytest.approx(np.mean([(c - r) ** 2 for c, r in pairs]))
    sizes = [one["n"] for one in found["bins"]]
    assert sum(sizes) == len(pairs) and len(sizes) == min(10, len(pairs)) and max(sizes) - min(sizes) <= 1
    assert sum(one["n"] * one["exact"] for one in found["bins"]) == pytest.approx(right.sum())
    means = [one["q"] for one in found["bins"]]
    assert all(low <= high + 1e-12 for low, high in zip(means, means[1:], strict=False))
    apart = [one["n"] / len(pairs) * abs(one["q"] - one["exact"]) for one in found["bins"]]
    assert found["ece"] == pytest.approx(sum(apart))


def test_calibration_by_hand():
    """Ten bins of two: every chance is 0.7, half of each bin is right."""
    found = calibration(np.full(20, 0.7), np.tile([0.0, 1.0], 10))
    assert found["ece"] == pytest.approx(0.2) and found["auroc"] == 0.5
    assert found["brier"] == pytest.approx((0.49 + 0.09) / 2)


@given(st.lists(st.integers(0, 30), min_size=1, max_size=80))
def test_strata_part_the_puzzles_by_value(values):
    values = np.array(values)
    scores = (values % 3 == 0).astype(float)
    parts = by_stratum(values, scores)
    assert 1 <= len(parts) <= 6 and sum(part["n"] for part in parts) == len(values)
    assert all(one["to"] < other["from"] for one, other in zip(parts, parts[1:], strict=False))
    for part in parts:
        here = scores[(part["from"] <= values) & (values <= part["to"])]
        assert part["n"] == len(here) and part["score"] == pytest.approx(here.mean())
        assert 0 <= part["low"] <= part["score"] + 1e-12 and part["score"] - 1e-12 <= part["high"] <= 1  # roundings


def test_strata_of_the_tasks():
    cfg, data = tiny.config(), tiny.data()[1]
    found = cfg.task.strata(cfg.data, data)
    np.testing.assert_array_equal(found["rating"], solve(data.inputs - 1, 4)[2])
    np.testing.assert_array_equal(found["clues"], [16 - (row == 1).sum() for row in data.inputs])
    assert [part["n"] for part in page(unknown=(0, 7, 11))["strata"]["clues"]] and headline(
        cfg.task
    ) == "exact_accuracy"
    small = {
        "data.source": "generated",
        "data.height": 8,
        "data.width": 8,
        "data.min_moves": 8,
        "data.train_puzzles": 4,
    }
    cfg = tiny.config({"data.task": "maze", **small, "data.test_puzzles": 5})
    data = mazes.load(cfg.data)[1]
    (moves,) = cfg.task.strata(cfg.data, data).values()
    np.testing.assert_array_equal(moves, label(data.inputs.reshape(-1, 8, 8))[1])
