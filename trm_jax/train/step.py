"""One training step as a pure function of state and batch."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from trm_jax import optim
from trm_jax.losses import act_loss
from trm_jax.metrics import means, score_sums
from trm_jax.models import trm
from trm_jax.train.config import RunConfig
from trm_jax.train.state import TrainState


def make_train_step(cfg: RunConfig, tx: optax.GradientTransformation, total_steps: int):
    """`train_step(state, batch) -> state`: refill, think with gradient through the last cycle, update, average."""
    model, o = cfg.model, cfg.optim
    batch_size = cfg.train.batch_size
    schedule = optim.warmup_cosine(o.lr, o.warmup_steps, total_steps, o.min_lr_ratio)
    table_schedule = optim.warmup_cosine(o.table_lr, o.warmup_steps, total_steps, o.min_lr_ratio)

    def loss_fn(weights, puzzle_rows, carry):
        z_H, z_L, out = trm.forward(weights, puzzle_rows, model, carry.inputs, carry.z_H, carry.z_L)
        loss, parts = act_loss(out.logits, out.q_halt, carry.labels, cfg.train.loss)
        return loss / batch_size, (z_H, z_L, out, parts)

    def train_step(state: TrainState, batch: dict) -> TrainState:
        params, step = state.params, state.step + 1
        carry = trm.refill(params["buffers"], state.carry, batch)
        # Differentiating by the looked-up rows instead of the table keeps the gradient [B, ndim] however long it is.
        rows = jnp.take(params["puzzle_emb"], carry.puzzle_ids, axis=0)
        grad_fn = jax.value_and_grad(loss_fn, argnums=(0, 1), has_aux=True)
        (loss, (z_H, z_L, out, parts)), (grads, row_grads) = grad_fn(params["weights"], rows, carry)

        updates, opt_state = tx.update(grads, state.opt_state, params["weights"])
        weights = optax.apply_updates(params["weights"], updates)
        table = optim.sparse_sign_sgd(
            params["puzzle_emb"], carry.puzzle_ids, row_grads, table_schedule(step), o.table_weight_decay
        )
        average = optim.ema(state.ema, weights, o.ema_decay) if o.ema_decay else {}

        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), step)
        carry = trm.advance(model, carry, z_H, z_L, out.q_halt, key, train=True)

        grad_norm = optax.tree.norm(grads)
        scores = score_sums(jnp.argmax(out.logits, -1), out.q_halt, carry.steps, carry.labels, carry.halted)
        new = {**scores, **parts, "grad_norm": grad_norm, "lr": schedule(step), "updates": jnp.ones(())}
        bad = ~(jnp.isfinite(loss) & jnp.isfinite(grad_norm))
        return TrainState(
            step=step,
            params={"weights": weights, "buffers": params["buffers"], "puzzle_emb": table},
            ema=average,
            opt_state=opt_state,
            carry=carry,
            key=state.key,
            sums={name: state.sums[name] + new[name] for name in state.sums},
            first_bad_step=jnp.where(bad & (state.first_bad_step < 0), step, state.first_bad_step),
        )

    return train_step


def log_record(step: int, sums: dict, cfg: RunConfig) -> dict:
    """One line of the training log from fetched sums: means over the steps since the line before.

    Losses are per sequence of the global batch; scores are over the sequences that halted (absent when none did).
    """
    updates = float(sums["updates"])
    sequences = updates * cfg.train.batch_size
    return {
        "kind": "train",
        "step": step,
        "examples": step * cfg.train.batch_size,
        "loss": float((sums["lm_loss"] + 0.5 * sums["q_loss"]) / sequences),
        "lm_loss": float(sums["lm_loss"] / sequences),
        "q_loss": float(sums["q_loss"] / sequences),
        "grad_norm": float(sums["grad_norm"] / updates),
        "lr": float(sums["lr"] / updates),
        "halted": float(sums["count"]),
        **means(sums),
    }
