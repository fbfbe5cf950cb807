"""What `trm bench` stands on: shapes, floors and comparisons, never how fast a machine is."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from trm_jax.bench import against, measure
from trm_jax.bench.shapes import ATTENTION, SHAPES, shape, that_fit
from trm_jax.models import TRMConfig, trm_cost
from trm_jax.planning import find
from trm_jax.planning.floor import Rates, apart, floor, step_parts


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


@pytest.mark.parametrize("name", SHAPES)
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


def test_shapes_that_do_not_fit_are_taken_in_parts():
    cfg = shape("maze_hard")
    parts = [one.train.accumulation for one in that_fit(cfg, 1, 80 * 10**9)]
    assert parts[0] > 1 and parts == [parts[0] * 2**i for i in range(len(parts))] and 768 % parts[-1] == 0
    assert next(that_fit(shape("demo"), 1, 2**63)).train.accumulation == 1


def test_random_batches_fit_the_model():
    model = shape("demo", ATTENTION).model
    batch = measure.random_batch(model, 3)
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
