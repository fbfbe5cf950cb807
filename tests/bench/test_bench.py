"""What `trm bench` stands on: shapes, floors and comparisons, never how fast a machine is."""

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from trm_jax.bench import against, measure, suite
from trm_jax.bench.shapes import ATTENTION, DEFAULT, shape, that_fit
from trm_jax.models import TRMConfig, arc_transformer, params, trm_cost
from trm_jax.planning import find
from trm_jax.planning.floor import Rates, _newton_schulz_flops, apart, floor, step_parts


@given(
    mlp_t=st.booleans(),
    sizes=st.tuples(*[st.integers(1, 4)] * 4),
    seq_len=st.integers(1, 100),
    heads=st.sampled_from([1, 2, 8]),
)
def test_the_parts_add_up_to_the_step(mlp_t, sizes, seq_len, heads):
    layers, h_cycles, l_cycles, prefix = sizes
    cfg = TRMConfig(
        vocab_size=11, seq_len=seq_len, hidden_size=64, num_heads=heads, L_layers=layers, H_cycles=h_cycles,
        L_cycles=l_cycles, puzzle_emb_len=prefix, puzzle_emb_ndim=64, mlp_t=mlp_t,
    )  # fmt: skip
    assert sum(part.flops for part in trm_cost.parts(cfg).values()) == trm_cost.matmul_flops(cfg)[1]


@pytest.mark.parametrize("name", DEFAULT)
def test_the_floor_lies_between_its_limits(name):
    cfg, rates = shape(name), Rates.of(find("h200"))
    parts, least, whole = step_parts(cfg), sum(floor(cfg, rates).values()), sum(apart(cfg, rates).values())
    flops, moved = (sum(part[i] for part in parts.values()) for i in (0, 2))
    assert flops / rates.flops <= least < whole < flops / rates.flops + moved / rates.bytes
    # An endless memory leaves the FLOPs, endless FLOPs the memory.
    assert sum(apart(cfg, Rates(rates.flops, 1e30)).values()) == pytest.approx(flops / rates.flops)
    assert sum(apart(cfg, Rates(1e30, rates.bytes)).values()) == pytest.approx(moved / rates.bytes)
    assert all(part.fusible <= part.step_bytes for part in parts.values())


def test_the_optimiser_is_counted_by_its_arrays():
    """4 bytes each of gradient, and of weights, two moments and an average twice."""
    assert step_parts(shape("baseline_768"))["optimiser"].step_bytes == 5_028_866 * 4 * 9
    none = step_parts(shape("baseline_768", {"optim.ema_decay": 0.0}))["optimiser"]
    assert none.step_bytes == 5_028_866 * 4 * 7


def test_the_optimiser_multiplies_matrices():
    """NorMuon's iterations: 1.305e12 FLOPs of the published model, by hand; its matrices have one moment."""
    part = step_parts(shape("arc_transformer"))["optimiser"]
    assert part.flops == pytest.approx(1.305e12, rel=1e-3)
    assert part.step_bytes == 4 * (7 * (76_597_248 - 768) - 2 * 75_497_472)
    # Of X [2, 3]: X X^T, A A and a product with X; 20 matrices of [3, 2].
    assert _newton_schulz_flops(20, 3, 2) == 20 * 5 * 2 * (2 * 3 * 2 + 2 * 2 * 2 + 2 * 2 * 3)
    assert step_parts(shape("baseline_768"))["optimiser"].flops == 0


@pytest.mark.parametrize(
    ("name", "changes", "full"),
    [
        ("arc_transformer", {}, 0.96),
        ("arc_transformer_small", {}, 0.94),
        ("arc_transformer", {"data.row_tokens": 512, "data.augmentations": 2}, 0.9),
        ("arc_transformer_small", {"data.row_tokens": 8}, 0.87),
    ],
)
def test_made_up_rows_are_packed_as_real_ones(name, changes, full):
    """In the shapes that a compiled step wants, of several sequences, the loss a mean; another batch is another."""
    cfg = shape(name, changes)
    rows = cfg.train.batch_size
    batch, other = (measure.random_batch(cfg, rows, number) for number in (0, 3))
    spec = cfg.task.batch_spec(cfg.data)
    assert {n: (x.shape, x.dtype) for n, x in batch.items()} == {n: ((rows, *s), d) for n, (s, d) in spec.items()}
    real, targets = batch["segments"] >= 0, batch["labels"] >= 0
    assert full < real.mean() <= 1 and batch["weights"].sum() == pytest.approx(rows)
    assert (batch["weights"] > 0).sum() == targets.sum() > 0 and (real | ~targets).all()
    np.testing.assert_array_equal(batch["labels"][:, :-1][targets[:, :-1]], batch["inputs"][:, 1:][targets[:, :-1]])
    assert 0 <= batch["puzzle_ids"].min() and batch["puzzle_ids"].max() < cfg.model.num_puzzle_ids
    assert (batch["inputs"] != other["inputs"]).any()
    starts = (batch["inputs"] == arc_transformer.START) & real
    assert starts.sum() == (batch["segments"].max(1) + 1).sum() and not batch["places"][starts].any()
    held_out = measure.random_batch(cfg, 5, held_out=True)
    assert held_out["inputs"].shape == (5, cfg.model.seq_len) and (held_out["segments"].max(1) == 0).all()


def test_made_up_pairs_are_as_long_as_real_ones():
    """Of the public sets: 375 tokens in the mean, 227 in the median, 1,863 at most; 32 pairs a step, 97% full."""
    cfg = shape("arc_transformer")
    train, _ = cfg.task.made_up(cfg.data)
    sizes = train.pairs.sizes.astype(int)
    lengths = 3 + (sizes[..., 0] * (sizes[..., 1] + 1)).sum(1)
    assert len(lengths) == 32 and lengths.mean() == pytest.approx(375, rel=0.03)
    assert np.median(lengths) == pytest.approx(227, rel=0.1) and lengths.max() == 1863


def test_what_writing_reads_at_least():
    """Weights 64 times, without the tables; keys and values of all tokens before each but the first."""
    cfg = shape("arc_transformer_small", {"model.hidden_size": 24, "model.num_heads": 2, "model.layers": 3})
    prompts = measure.random_prompts(cfg, 40)
    lengths = [len(prompt["inputs"]) for prompt in prompts]
    assert len(lengths) == 40 and all(prompt["inputs"][-1] == arc_transformer.SEPARATOR for prompt in prompts)
    weights = params.count(arc_transformer.specs(cfg.model)["weights"]) - 24 * (14 + 8 + cfg.model.num_puzzle_ids)
    cached = sum(length + n for length in lengths for n in range(1, 64))
    assert measure.least_read(cfg, prompts) == 4 * (64 * weights + cached * 2 * 3 * 24)


def test_models_that_write_are_not_asked_to_solve():
    assert measure.writes(shape("arc_transformer")) and not measure.writes(shape("arc1"))
    kinds = {
        name: [kind for kind in suite.WHAT if suite._has(shape(name), kind)] for name in ("arc1", "arc_transformer")
    }
    assert set(kinds["arc1"]) - set(kinds["arc_transformer"]) == {suite.ONE, suite.MANY}
    assert set(kinds["arc_transformer"]) - set(kinds["arc1"]) == {suite.WRITE, suite.TWIN_WRITE}


def test_shapes_that_do_not_fit_are_taken_in_parts():
    cfg = shape("maze_hard")
    parts = [one.train.accumulation for one in that_fit(cfg, 1, 80 * 10**9)]
    assert parts[0] > 1 and parts == [parts[0] * 2**i for i in range(len(parts))] and 768 % parts[-1] == 0
    assert next(that_fit(shape("demo"), 1, 2**63)).train.accumulation == 1


def test_random_batches_fit_the_model():
    cfg = shape("demo", ATTENTION)
    model, batch = cfg.model, measure.random_batch(cfg, 3)
    shapes = {"inputs": (3, model.seq_len), "labels": (3, model.seq_len), "puzzle_ids": (3,)}
    assert {name: array.shape for name, array in batch.items()} == shapes
    assert batch["inputs"].max() < model.vocab_size and batch["puzzle_ids"].max() < model.num_puzzle_ids


def result(median: float, scatter: float = 0.1, n: int = 5) -> dict:
    seconds = {"median": median, "q1": median - scatter / 2, "q3": median + scatter / 2, "n": n}
    return {"device": "a", "runs": {"demo": {"train": {"seconds": seconds}}}}


@pytest.mark.parametrize(
    ("now", "before", "verdict"),
    [
        (result(1.0), result(1.2), "faster"),
        (result(1.2), result(1.0), "slower"),
        (result(1.0), result(1.05), ""),
        (result(1.0), result(1.2, scatter=0.3), ""),
        (result(1.0, n=2), result(1.2), ""),
    ],
)
def test_a_verdict_needs_more_than_the_spread(now, before, verdict):
    (change,) = against.changes(now, before)
    assert change == ("demo", "train", before["runs"]["demo"]["train"]["seconds"]["median"],
                      now["runs"]["demo"]["train"]["seconds"]["median"], verdict)  # fmt: skip
