"""Search: rollouts are the model's own steps, draws are a puzzle's own, and selections are by the rules."""

import dataclasses
import functools
import itertools
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests import tiny
from trm_jax import sharding
from trm_jax.configs import registry, resolve
from trm_jax.errors import InputError
from trm_jax.evals.runner import added
from trm_jax.evals.search import Found, Search, Searcher, forms, pass_at, rollout, select, table

FAMILIES = ("trm", "eqr")


def config(family: str):
    """A tiny run of the family, whose token MLPs compile sooner than attention."""
    small = {k: v for k, v in tiny.SETTINGS.items() if k.startswith("model.") and k != "model.q_continue"}
    small |= {"model.family": family, "model.mlp_t": True, "model.pos_encodings": "none"}
    small |= {"model.puzzle_emb_ndim": 0, "model.puzzle_emb_len": 0} if family == "eqr" else {}
    return tiny.config(small)


@pytest.fixture(scope="module")
def models():
    """Each family's config and parameters, with a q head that has opinions."""
    made = {}
    for name in FAMILIES:
        cfg = config(name)
        drawn = cfg.family.init(jax.random.key(3), cfg.model)
        kernel = jnp.asarray(np.random.default_rng(0).normal(size=(32, 2)), jnp.float32)
        drawn["weights"]["q_head"] = {"kernel": kernel, "bias": jnp.zeros(2)}
        made[name] = cfg, drawn
    return made


@pytest.fixture(scope="module")
def batch():
    data = tiny.data()[1]
    return data.rows(np.arange(len(data)))


@functools.cache
def _compiled(name: str, search: Search):
    cfg = config(name)
    return jax.jit(lambda params, batch, number, form: rollout(params, cfg, search, batch, number, form))


def run(models, name: str, search: Search, batch, number: int = 0, form=None) -> Found:
    return jax.device_get(_compiled(name, search)(models[name][1], batch, number, form))


@pytest.mark.parametrize("name", FAMILIES)
def test_one_rollout_without_noise_is_plain_inference_bit_for_bit(models, batch, name):
    cfg, params = models[name]
    found = run(models, name, Search((1, 3, 5)), batch)
    answers, q_halt = jax.jit(lambda params, batch: cfg.family.think(params, cfg.model, batch, 5))(params, batch)
    for place, depth in enumerate((1, 3, 5)):
        np.testing.assert_array_equal(found.answers[place], answers[depth - 1])
        np.testing.assert_array_equal(found.q_halt[place], q_halt[depth - 1])
    assert len({answer.tobytes() for answer in found.answers}) == 3


def test_the_residual_by_hand(models, batch):
    cfg, params = models["trm"]
    deep = dataclasses.replace(cfg.model, halt_max_steps=6)
    step = jax.jit(lambda carry: cfg.family.step(params, deep, carry, batch))
    carry, logits = cfg.family.initial_carry(deep, 12), []
    for _ in range(6):
        carry, out = step(carry)
        logits.append(np.asarray(out.logits, np.float64))
    moves = [np.sqrt(((b - a) ** 2).sum(-1)).mean(-1) for a, b in itertools.pairwise(logits)]
    found = run(models, "trm", Search((1, 2, 3, 6)), batch)
    expected = [np.zeros(12), moves[0], np.mean(moves[:2], 0), np.mean(moves[2:], 0)]
    # The same steps compiled one by one: float32 roundings that six steps of random weights amplify.
    np.testing.assert_allclose(found.residual, expected, rtol=1e-3)


def test_noise_is_of_the_puzzle_and_the_number_not_of_the_place(models, batch):
    noisy = Search((2, 4), rollouts=3, noise=0.7)
    turned = {name: rows[::-1] for name, rows in batch.items()}
    first, again, other = (run(models, "trm", noisy, rows, 1) for rows in (batch, batch, turned))
    np.testing.assert_array_equal(first.q_halt, again.q_halt)
    np.testing.assert_array_equal(other.answers[:, ::-1], first.answers)
    # Rows in other places are rounded otherwise, which four steps of random weights amplify to 1.3e-4.
    np.testing.assert_allclose(other.q_halt[:, ::-1], first.q_halt, atol=1e-3)
    changed = [
        run(models, "trm", noisy, batch, 2),
        run(models, "trm", dataclasses.replace(noisy, seed=1), batch, 1),
        run(models, "trm", dataclasses.replace(noisy, noise_on="z_L"), batch, 1),
        run(models, "trm", dataclasses.replace(noisy, noise_on="both"), batch, 1),
        run(models, "trm", Search((2, 4)), batch),
    ]
    values = [first, *changed]
    assert all(np.abs(a.q_halt - b.q_halt).max(1).min() > 0.01 for a, b in itertools.combinations(values, 2))
    few = run(models, "trm", noisy, {name: rows[3:6] for name, rows in batch.items()}, 1)
    np.testing.assert_allclose(few.q_halt, first.q_halt[:, 3:6], atol=1e-3)


def test_a_quiet_last_step_is_that_of_the_largest_depth(models, batch):
    noisy = Search((2, 3), noise=0.7)
    found, quiet = (run(models, "trm", dataclasses.replace(noisy, last_quiet=last), batch) for last in (False, True))
    # Compiled apart, so rounded apart; noise before a step moves q by tenths.
    np.testing.assert_allclose(found.q_halt[0], quiet.q_halt[0], atol=1e-3)
    assert np.abs(found.q_halt[1] - quiet.q_halt[1]).max() > 0.01
    alone, plain = (run(models, "trm", Search((1,), noise=noise, last_quiet=True), batch) for noise in (0.7, 0.0))
    np.testing.assert_allclose(alone.q_halt, plain.q_halt, atol=1e-3)


def test_every_rollout_of_eqr_has_starts_of_its_own(models, batch):
    found = [run(models, "eqr", Search((2,), rollouts=3), batch, number) for number in range(3)]
    assert all((a.q_halt != b.q_halt).all() for a, b in itertools.combinations(found, 2))
    turned = run(models, "eqr", Search((2,), rollouts=3), {name: rows[::-1] for name, rows in batch.items()}, 2)
    np.testing.assert_allclose(turned.q_halt[:, ::-1], found[2].q_halt, atol=1e-3)  # rounding, as above


def test_eqr_draws_for_the_puzzle_that_a_row_works_on(models, batch):
    """Rows that have not halted keep their puzzle and their noise whatever comes in; a new one begins as in any row."""
    cfg, params = models["eqr"]
    step = jax.jit(lambda carry, batch: cfg.family.step(params, cfg.model, carry, batch))
    here, later = ({name: rows[part] for name, rows in batch.items()} for part in (slice(6), slice(6, 12)))
    carry, first = step(cfg.family.initial_carry(cfg.model, 6), here)
    (same, alone), (mixed, beside) = step(carry, here), step(carry, later)
    np.testing.assert_array_equal(alone.q_halt, beside.q_halt)
    refilled, fresh = step(mixed.replace(halted=jnp.arange(6) < 3), later)
    plain = step(cfg.family.initial_carry(cfg.model, 6), later)[1]
    np.testing.assert_array_equal(fresh.q_halt[:3], plain.q_halt[:3])
    np.testing.assert_array_equal(refilled.steps, [1, 1, 1, 3, 3, 3])
    np.testing.assert_array_equal(fresh.q_halt[3:], step(same, here)[1].q_halt[3:])
    assert (np.asarray(first.q_halt) != np.asarray(alone.q_halt)).all()


@st.composite
def rollouts(draw):
    """Rollouts that often tie: (answers [R, B, S], q_halt, residual, valid), and an order of their numbers."""
    count, rows = draw(st.sampled_from((1, 6))), 4  # each is compiled once
    few = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    answers = few.integers(0, 2, (count, rows, 2)).astype(np.int32)
    q, residual = few.integers(-2, 3, (2, count, rows)).astype(np.float32)
    return answers, q, residual, few.random((count, rows)) < 0.3, draw(st.permutations(range(count)))


_select = jax.jit(select, static_argnums=3)


@given(rollouts())
def test_selections_are_by_the_rules_in_any_order(drawn):
    answers, q, residual, valid, order = drawn
    count, rows = q.shape
    breadths = Search((1,), count).breadths
    order = np.array(order)
    found = Found(answers[order], q[order], residual[order])
    places = _select(order.astype(np.int32), found, valid[order], breadths)
    for (j, breadth), row in itertools.product(enumerate(breadths), range(rows)):
        among = range(breadth)
        votes = Counter(answers[r, row].tobytes() for r in among)
        by_q = max(among, key=lambda r: (q[r, row], -r))
        right = {
            "q": by_q,
            "vote": max(among, key=lambda r: (votes[answers[r, row].tobytes()], -r)),
            "residual": min(among, key=lambda r: (residual[r, row], r)),
            "valid": next((r for r in among if valid[r, row]), by_q),
        }
        assert {rule: order[place[j, row]] for rule, place in places.items()} == right


def test_pass_at_k_is_the_mean_over_all_choices():
    for right, breadth in itertools.product(range(7), (1, 2, 4, 6)):
        picks = [any(one < right for one in pick) for pick in itertools.combinations(range(6), breadth)]
        assert pass_at((breadth,), 6)[0, right] == pytest.approx(np.mean(picks), abs=1e-6)


@pytest.fixture(scope="module")
def known(models, batch):
    """A search, and puzzles whose labels are the answers of its rollouts 0, 1, 2, 3, 0, ... at depth 3."""
    search = Search((1, 3), rollouts=4, noise=1.0)
    found = [run(models, "trm", search, batch, number).answers[1] for number in range(4)]
    labels = np.array([found[i % 4][i] for i in range(12)])
    return search, dataclasses.replace(tiny.data()[1], labels=labels), found


def sums_of(models, known, devices: int, batch_size: int, first: int = 0) -> dict:
    cfg, params = models["trm"]
    cfg = dataclasses.replace(cfg, eval=dataclasses.replace(cfg.eval, batch_size=batch_size, max_examples=first))
    searcher = Searcher(cfg, known[1], sharding.make_mesh(devices=jax.devices()[:devices]), known[0])
    return added([searcher.batch(params, index) for index in range(searcher.batches)])


@pytest.fixture(scope="module")
def whole(models, known):
    return sums_of(models, known, 1, 12)


def test_scores_are_those_of_what_was_selected(models, known, whole, batch):
    search, data, found = known
    every = jax.tree.map(lambda *of: np.stack(of), *(run(models, "trm", search, batch, r) for r in range(4)))
    right = (every.answers == data.labels).all(-1)  # [R, K, B]
    places = _select(np.arange(4), every, np.zeros(right.shape, bool), search.breadths)
    rows = table(models["trm"][0], search, whole)
    assert [(row["steps"], row["rollouts"]) for row in rows] == list(itertools.product((1, 3), (1, 2, 4)))
    for row in rows:
        j, k = search.breadths.index(row["rollouts"]), search.depths.index(row["steps"])
        for rule in ("q", "vote", "residual"):
            assert row[rule] == pytest.approx(np.take_along_axis(right, places[rule], 0)[j, k].mean())
        some = [right[list(pick), k].any(0).mean() for pick in itertools.combinations(range(4), row["rollouts"])]
        assert row["any"] == pytest.approx(np.mean(some), abs=1e-6)
        assert row["calls"] == row["steps"] * row["rollouts"] * 6  # 2 cycles of 2 updates of z_L and one of z_H
        assert row["abstained"] == 1 and row["where_valid"] is None  # random weights fill no board
    assert rows[-1]["any"] == 1 and 0 < rows[-1]["q"] < 1


@pytest.mark.parametrize("devices, batch_size", [(1, 3), (1, 8), (8, 8)])
def test_batches_and_devices_change_nothing(models, known, whole, devices, batch_size):
    """12 puzzles in batches with a ragged end."""
    found = sums_of(models, known, devices, batch_size)
    assert found["count"] == 12
    for name, value in whole.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-6, err_msg=name)  # sums of float32 in other parts


def test_only_rows_that_count_are_counted(models, known):
    assert sums_of(models, known, 1, 8, first=5)["count"] == 5
    search, data, found = known
    unknown = dataclasses.replace(data, labels=np.where(np.arange(12)[:, None] < 4, -100, data.labels))
    sums = sums_of(models, (search, unknown, found), 1, 8)
    assert sums["count"] == 8 and sums["any"][-1, -1] == 8


@pytest.mark.parametrize("name", FAMILIES)
def test_a_form_is_undone(models, batch, name):
    """The answer through a form is, seen through it, the answer to the board of that form."""
    cfg, _ = models[name]
    cells, tokens = (x[3] for x in cfg.task.symmetries(cfg.data, 4, 5))
    form = cells, tokens
    board = {**batch, "inputs": tokens[batch["inputs"][:, cells]].astype(np.int32)}
    plain = Search((3,))
    found, of_board = run(models, name, plain, batch, 0, form), run(models, name, plain, board)
    np.testing.assert_array_equal(tokens[found.answers[..., cells]], of_board.answers)
    assert (found.answers != of_board.answers).any() and (board["inputs"] != batch["inputs"]).any()


def frozen(name: str, changes: dict | None = None):
    return resolve.freeze(resolve.override(registry.get(name), changes or {}))


@pytest.mark.parametrize(
    "name, search, words",
    [
        ("demo", Search((4,), 8), "only 1 of 8 rollouts would differ; add --noise 0.3, or --symmetries"),
        ("maze_small", Search((4,), 9, symmetries=True), "only 8 of 9 rollouts would differ; add --noise 0.3"),
        ("sudoku_singlez_small", Search((4,), 2, 0.3, "z_H"), "--noise-on z_H: this model has no such latent, but z_L"),
        ("sudoku_urm_small", Search((4,), 2, 0.3, "z_L"), "has no such latent, but current_hidden"),
        ("arc_transformer_small", Search((4,), 2, 0.3), "this model answers at once"),
        ("arc_small", Search((4,), 2, 0.3), "this task votes over the forms of a puzzle"),
    ],
)
def test_what_cannot_be_searched(name, search, words):
    with pytest.raises(InputError, match=words):
        forms(frozen(name), search)


def test_a_task_without_symmetries():
    cfg = tiny.config({"model.family": "trm"})
    toy = dataclasses.replace(cfg, task=type("Plain", (), {"Config": None})())
    with pytest.raises(InputError, match="--symmetries: this task knows none"):
        forms(toy, Search((4,), 2, symmetries=True))
