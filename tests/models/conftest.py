"""A TRM written a second time, unrolled and by the formulas, to hold `trm_jax.models` against.

It works on official state dicts (names without prefix, linears [out, in]) in their dtype, float64 included,
and takes the network's weights once per reasoning call, so that derivatives tell the calls apart.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

LAYERS = "L_level.layers."


def _rms(x, axis):
    return x / jnp.sqrt(jnp.mean(x * x, axis=axis, keepdims=True) + 1e-5)


def _swiglu(w, name, x):
    gate, up = jnp.split(x @ w[f"{name}.gate_up_proj.weight"].T, 2, axis=-1)
    return (gate / (1 + jnp.exp(-gate)) * up) @ w[f"{name}.down_proj.weight"].T


def _attention(w, name, cfg, x):
    head = cfg.hidden_size // cfg.num_heads
    qkv = (x @ w[f"{name}.qkv_proj.weight"].T).reshape(*x.shape[:2], 3, cfg.num_heads, head)
    q, k, v = (qkv[:, :, i] for i in range(3))
    if cfg.pos_encodings == "rope":
        turn = np.outer(np.arange(x.shape[1]), cfg.rope_theta ** (-2 * np.arange(head // 2) / head))
        cos, sin = (f(turn).astype(x.dtype)[:, None] for f in (np.cos, np.sin))

        def rotate(y):
            a, b = y[..., : head // 2], y[..., head // 2 :]
            return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

        q, k = rotate(q), rotate(k)
    scores = jnp.exp(jnp.einsum("bqhd,bkhd->bhqk", q, k) / head**0.5)
    mixed = jnp.einsum("bhqk,bkhd->bqhd", scores / scores.sum(-1, keepdims=True), v)
    return mixed.reshape(x.shape) @ w[f"{name}.o_proj.weight"].T


def _net(w, cfg, h):
    for i in range(cfg.L_layers):
        name = f"{LAYERS}{i}"
        if cfg.mlp_t:
            mixed = jnp.swapaxes(_swiglu(w, f"{name}.mlp_t", jnp.swapaxes(h, 1, 2)), 1, 2)
            h = _rms(h + mixed, 1)
        else:
            h = _rms(h + _attention(w, f"{name}.self_attn", cfg, h), -1)
        h = _rms(h + _swiglu(w, f"{name}.mlp", h), -1)
    return h


def _loss(state, cfg, batch, z_H=None, z_L=None, *, calls=None, cut=True):
    """(loss / B, (logits, z_H, z_L)) of one supervision step from z_H, z_L (default: the initial latents).

    calls: one dict of the network's weights per reasoning call, in order; default `state` for all.
    cut: whether the first H_cycles - 1 cycles are kept out of the gradient.
    """
    B, D = len(batch["inputs"]), cfg.hidden_size
    weights = iter(calls or [state] * (cfg.H_cycles * (cfg.L_cycles + 1)))
    rows = state["puzzle_emb.weights"][batch["puzzle_ids"]]
    prefix = jnp.pad(rows, ((0, 0), (0, cfg.puzzle_emb_len * D - rows.shape[1])))
    emb = state["embed_tokens.embedding_weight"][batch["inputs"]]
    emb = jnp.concatenate([prefix.reshape(B, cfg.puzzle_emb_len, D), emb], 1)
    if cfg.pos_encodings == "learned":
        emb = (emb + state["embed_pos.embedding_weight"]) / 2**0.5
    emb = emb * D**0.5
    z_H = jnp.broadcast_to(state["H_init"], emb.shape) if z_H is None else z_H
    z_L = jnp.broadcast_to(state["L_init"], emb.shape) if z_L is None else z_L
    for cycle in range(cfg.H_cycles):
        last = cycle == cfg.H_cycles - 1
        injection = emb if last or not cut else jax.lax.stop_gradient(emb)
        for _ in range(cfg.L_cycles):
            z_L = _net(next(weights), cfg, z_L + z_H + injection)
        z_H = _net(next(weights), cfg, z_H + z_L)
        if cut and not last:
            z_H, z_L = jax.lax.stop_gradient((z_H, z_L))
    logits = z_H[:, cfg.puzzle_emb_len :] @ state["lm_head.weight"].T
    q_halt = (z_H[:, 0] @ state["q_head.weight"].T + state["q_head.bias"])[:, 0]

    labels = batch["labels"]
    valid = labels != -100
    s = jnp.where(logits >= 0, logits + 1, 1 / (1 - jnp.where(logits >= 0, 0, logits)))
    p = jnp.take_along_axis(s, jnp.where(valid, labels, 0)[..., None], -1)[..., 0] / s.sum(-1)
    token_loss = jnp.where(valid, -jnp.log(p), 0).sum(-1) / valid.sum(-1)
    right = ((logits.argmax(-1) == labels) | ~valid).all(-1)
    q_loss = jnp.logaddexp(0, q_halt) - right * q_halt
    return (token_loss + 0.5 * q_loss).sum() / B, (logits, z_H, z_L)


@pytest.fixture(scope="session")
def reference_loss():
    return _loss
