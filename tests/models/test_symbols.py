"""The family that cannot tell symbols apart: what a symbol is called changes nothing but the name in the answer."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trm_jax.models import family as families
from trm_jax.models import params as P
from trm_jax.models.layers import swiglu
from trm_jax.models.symbols import mix_symbols, seen_by_symbols

FAMILY = families.get("symbols")
SIZES = {"hidden_size": 16, "num_heads": 2, "H_cycles": 2, "L_cycles": 2, "halt_max_steps": 3, "dtype": "float32"}
KINDS = {
    "token MLP": {},
    "attention": {"mlp_t": False, "pos_encodings": "rope"},
    "prefix": {"puzzle_emb_ndim": 16, "puzzle_emb_len": 1},
}
ROWS = 3


def config(kind: str, vocab: int = 7, **changes):
    return FAMILY.Config(vocab_size=vocab, seq_len=16, **SIZES | KINDS[kind] | changes)


def batch_of(inputs):
    return {"inputs": inputs, "labels": inputs, "puzzle_ids": jnp.zeros(len(inputs), jnp.int32)}


@functools.cache
def model(kind: str):
    """(logits and q of the first step, answers and q of all) of inputs [3, 16], compiled."""
    cfg = config(kind)
    params = FAMILY.init(jax.random.key(1), cfg)
    # No two logits alike, and a q that says something.
    params["weights"]["q_head"]["kernel"] += jax.random.normal(jax.random.key(2), (16, 2))
    params["weights"]["other_logits"] = jnp.array([-0.3, 0.2])
    step = jax.jit(lambda rows: FAMILY.step(params, cfg, FAMILY.initial_carry(cfg, ROWS), batch_of(rows))[1])
    return step, jax.jit(lambda rows: FAMILY.think(params, cfg, batch_of(rows)))


@pytest.mark.parametrize("kind", sorted(KINDS))
@settings(max_examples=10)
@given(order=st.permutations(range(5)), seed=st.integers(0, 2**32 - 1))
def test_symbols_change_places_in_the_answer_as_in_the_puzzle(kind, order, seed):
    """Logits and q to 1e-4 of the largest: sums over symbols in another order, through 18 calls, in float32.

    Answers exactly. Every symbol stands somewhere: those that do not have equal logits, of which the first wins.
    """
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 7, (ROWS, 16)).astype(np.int32)
    rows[:, :5] = 2 + np.stack([rng.permutation(5) for _ in range(ROWS)])
    renamed = np.array([0, 1, *(2 + place for place in order)], np.int32)  # old token -> new token
    step, think = model(kind)
    before, after = step(rows), step(renamed[rows])
    tolerance = 1e-4 * float(np.abs(before.logits).max())
    np.testing.assert_allclose(after.logits[..., renamed], before.logits, rtol=0, atol=tolerance)
    for q in ("q_halt", "q_continue"):
        np.testing.assert_allclose(getattr(after, q), getattr(before, q), rtol=0, atol=1e-4)
    answers, _ = think(rows)
    np.testing.assert_array_equal(think(renamed[rows])[0], renamed[answers])
    assert not np.array_equal(answers, np.asarray(think(rows[:, ::-1].copy())[0])[..., ::-1]), "cells are told apart"


def test_what_a_symbol_sees():
    cfg = config("token MLP", vocab=5)
    seen = seen_by_symbols(cfg, jnp.array([[0, 1, 2, 3, 4]]))
    assert seen.tolist() == [[[0, 1, 2, 3, 3], [0, 1, 3, 2, 3], [0, 1, 3, 3, 2]]]


@pytest.mark.parametrize("mlp_t", [True, False])
def test_a_symbol_hears_the_mean_of_the_others(mlp_t):
    """By the formula, in the layout of either way to mix cells; float32, 1e-5."""
    cfg = config("token MLP" if mlp_t else "attention")
    layer = FAMILY.init(jax.random.key(0), cfg)["weights"]["layers"]["0"]["mlp"]
    x = np.random.default_rng(0).normal(size=(ROWS, 5, 16, 16)).astype(np.float32)  # [B, N, T, D]
    others = np.stack([np.delete(x, symbol, axis=1).mean(1) for symbol in range(5)], axis=1)
    a = others @ np.asarray(layer["others"])
    wanted = a + np.asarray(swiglu(layer, jnp.asarray(x + a)))
    given_as = x.reshape(-1, 16, 16)
    found = np.asarray(mix_symbols(layer, jnp.asarray(given_as.swapaxes(0, 1) if mlp_t else given_as), cfg))
    found = found.swapaxes(0, 1) if mlp_t else found
    np.testing.assert_allclose(found.reshape(x.shape), wanted, atol=1e-5 * np.abs(wanted).max())


def test_parameters_do_not_know_how_many_symbols_there_are():
    few, many = (P.abstract(FAMILY.specs(config("attention", vocab))) for vocab in (6, 11))
    assert jax.tree.map(lambda a: a.shape, few) == jax.tree.map(lambda a: a.shape, many)
    with pytest.raises(ValueError, match="first_symbol is 6, which leaves 1 of 7 tokens"):
        config("attention", first_symbol=6)
    with pytest.raises(ValueError, match="first_symbol is 0; it must be at least 1"):
        config("attention", first_symbol=0)


def products(jaxpr) -> int:
    """FLOPs of the products of a program, those of loops as often as they run."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shape = equation.invars[0].aval.shape
            total += 2 * equation.outvars[0].aval.size * math.prod(shape[axis] for axis in contracted)
        inner = [getattr(value, "jaxpr", value) for value in equation.params.values()]
        total += equation.params.get("length", 1) * sum(products(one) for one in inner if hasattr(one, "eqns"))
    return total


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_flops_are_those_of_the_products_of_a_step(kind):
    cfg = config(kind)
    params, carry = P.abstract(FAMILY.specs(cfg)), P.abstract(FAMILY.carry_specs(cfg, 1))
    traced = jax.make_jaxpr(lambda params, carry: FAMILY.say(params, cfg, carry)[1])(params, carry)
    assert products(traced.jaxpr) * cfg.halt_max_steps == FAMILY.flops(cfg)[1]
    one = dataclasses.replace(cfg, H_cycles=1)  # all of it is differentiated
    assert FAMILY.flops(one)[0] == 3 * FAMILY.flops(one)[1] // cfg.halt_max_steps
    assert 0 < FAMILY.activation_bytes(dataclasses.replace(cfg, remat="block"), 4) < FAMILY.activation_bytes(cfg, 4)
