"""A language model that is an automaton: a family as `trm_jax.evals.decode` wants it, whose numbers are known.

It begins in state 0, or in the one that a prompt's first token names (VOCABULARY + state).
"""

import itertools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax

STATES, VOCABULARY = 4, 16  # at most: smaller automata are filled up, so that all are one shape


def params_of(distribution: dict) -> dict:
    """What `begin` and `advance` read; a token that a distribution lacks has probability 0 and leads to state 0."""
    log_p, following = np.full((STATES, VOCABULARY), -np.inf, np.float32), np.zeros((STATES, VOCABULARY), np.int32)
    for state, row in enumerate(distribution["probabilities"]):
        with np.errstate(divide="ignore"):
            log_p[state, : len(row)] = np.log(row)
    for state, row in enumerate(distribution["next"]):
        following[state, : len(row)] = [0 if after is None else after for after in row]
    return {"log_p": jnp.asarray(log_p), "next": jnp.asarray(following)}


def _step(params, state, token):
    inside = params["next"][state, jnp.minimum(token, VOCABULARY - 1)]
    return jnp.where(token >= VOCABULARY, token - VOCABULARY, inside)


def _states(params, batch):
    """[B, S]: behind each token."""

    def one(state, column):
        token, segment = column
        state = jnp.where(segment < 0, state, _step(params, state, token))
        return state, state

    columns = batch["inputs"].T, batch["segments"].T
    return lax.scan(one, jnp.zeros(len(batch["inputs"]), jnp.int32), columns)[1].T


def read(params, cfg, batch):
    return params["log_p"][_states(params, batch)] + 1.0  # logits need not be normalised


def begin(params, cfg, batch, room):
    states = _states(params, batch)
    size = states.shape[1]
    pad = (0, 0), (0, room - size)
    return {
        "logits": params["log_p"][states[:, -1]] + 1.0,
        "cache": jnp.pad(states, pad)[None],
        "seen": jnp.pad(batch["segments"] >= 0, pad, constant_values=True),
        "slot": jnp.int32(size),
    }


def advance(params, cfg, state, tokens):
    """The automaton's state lies in the cache alone, as what a decoder knows of a prefix does."""
    slot = state["slot"]
    before = lax.dynamic_index_in_dim(state["cache"][0], slot - 1, axis=1, keepdims=False)
    after = _step(params, before, tokens)
    cache = lax.dynamic_update_slice(state["cache"], after[None, :, None], (0, 0, slot))
    return {**state, "logits": params["log_p"][after] + 1.0, "cache": cache, "slot": slot + 1}


def enumerate_all(distribution: dict, start: int, probability: float, most: int, end: int) -> dict[tuple, float]:
    """{completion: NLL} by trying every sequence of at most `most` tokens."""
    found, table, following = {}, distribution["probabilities"], distribution["next"]
    others = [token for token in distribution["allowed"] if token != end]
    for length in range(most):
        for body in itertools.product(others, repeat=length):
            state, log_p = start, 0.0
            for token in (*body, end):
                p = table[state][token]
                log_p += math.log(p) if p else -math.inf
                state = following[state][token] if token != end else None
            if log_p > math.log(probability):
                found[*body, end] = -log_p
    return found
