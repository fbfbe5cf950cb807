"""One training step as a pure function of state, batch and the run's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax

from trm_jax import optim
from trm_jax.losses import act_loss
from trm_jax.metrics import halt_histogram, means, score_sums
from trm_jax.models import trm
from trm_jax.train.config import RunConfig
from trm_jax.train.state import MIN_LOSS_SCALE, LossScale, TrainState

# Twice as large after this many updates in a row without an overflow, half as large after one with.
LOSS_SCALE_GROWS_AFTER = 2000


@struct.dataclass
class Numbers:
    """The settings that are mere numbers inside the program: runs that differ in nothing else share one program."""

    lr: Any
    warmup_steps: Any
    min_lr_ratio: Any
    beta1: Any
    beta2: Any
    weight_decay: Any
    table_lr: Any
    table_weight_decay: Any
    ema_decay: Any
    exploration_start: Any
    exploration_end: Any


def numbers_of(cfg: RunConfig, total_steps: int) -> Numbers:
    """A run's numbers as Python numbers, which a compiled step holds as constants."""
    o = cfg.optim
    start, end = cfg.exploration
    return Numbers(
        lr=o.lr,
        warmup_steps=o.warmup(total_steps),
        min_lr_ratio=o.min_lr_ratio,
        beta1=o.beta1,
        beta2=o.beta2,
        weight_decay=o.weight_decay,
        table_lr=o.table_lr,
        table_weight_decay=o.table_weight_decay,
        ema_decay=o.ema_decay,
        exploration_start=start,
        exploration_end=end,
    )


def make_train_step(
    cfg: RunConfig, total_steps: int, cycles: tuple[int, int] | None = None
) -> Callable[..., TrainState]:
    """`train_step(state, batch) -> state`: refill, think with gradient through the last cycle, update, average.

    cycles: (L_cycles, H_cycles) in place of the model's, for a stage of a curriculum. A third argument of the step
    replaces the run's `Numbers`, which are constants of the program without it.
    """
    model, o = cfg.model, cfg.optim
    if cycles:
        model = trm.with_cycles(model, *cycles)
    batch_size, num_parts = cfg.train.batch_size, cfg.train.accumulation

    def loss_fn(weights, puzzle_rows, carry, scale):
        z_H, z_L, out = trm.forward(weights, puzzle_rows, model, carry.inputs, carry.z_H, carry.z_L)
        loss, parts = act_loss(out.logits, out.q_halt, carry.labels, cfg.train.loss)
        loss = loss / batch_size
        return loss * scale, (loss, parts, (z_H, z_L, jnp.argmax(out.logits, -1), out.q_halt))

    def gradients(weights, puzzle_rows, carry, scale):
        """((loss, parts of it, gradients of the weights), (latents, answers, q_halt, gradients of the rows))."""
        grad_fn = jax.grad(loss_fn, argnums=(0, 1), has_aux=True)
        (grads, row_grads), (loss, parts, said) = grad_fn(weights, puzzle_rows, carry, scale)
        return (loss, parts, grads), (*said, row_grads)

    def gradients_by_parts(weights, puzzle_rows, carry, scale):
        """The same with the activations of one part of the batch at a time in memory.

        Neighbouring rows go to different parts, so that every device has rows of each and none has to move.
        """

        def cut(x):
            return x.reshape(batch_size // num_parts, num_parts, *x.shape[1:]).swapaxes(0, 1)

        def mend(x):
            return x.swapaxes(0, 1).reshape(batch_size, *x.shape[2:])

        def part(total, rows_and_carry):
            summed, said = gradients(weights, *rows_and_carry, scale)
            return jax.tree.map(jnp.add, total, summed), said

        pieces = jax.tree.map(cut, (puzzle_rows, carry))
        first = jax.tree.map(lambda x: x[0], pieces)
        zeros = jax.tree.map(
            lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradients, weights, *first, scale)[0]
        )
        summed, said = lax.scan(part, zeros, pieces)
        return summed, jax.tree.map(mend, said)

    def train_step(state: TrainState, batch: dict, numbers: Numbers | None = None) -> TrainState:
        n = numbers or numbers_of(cfg, total_steps)
        params, step = state.params, state.step + 1
        schedules = [optim.warmup_cosine(lr, n.warmup_steps, total_steps, n.min_lr_ratio) for lr in (n.lr, n.table_lr)]
        lr, table_lr = (schedule(step) for schedule in schedules)
        # The rate of this step: the optimiser's own count leaves out the updates that overflowed.
        tx = optim.make(o.name, lambda _: lr, b1=n.beta1, b2=n.beta2, weight_decay=n.weight_decay)
        scale = state.loss_scale.scale if cfg.scales_loss else 1.0

        carry = trm.refill(params["buffers"], state.carry, batch)
        # Differentiating by the looked-up rows instead of the table keeps the gradient [B, ndim] however long it is.
        rows = jnp.take(params["puzzle_emb"], carry.puzzle_ids, axis=0)
        compute = gradients if num_parts == 1 else gradients_by_parts
        (loss, parts, grads), (z_H, z_L, answers, q_halt, row_grads) = compute(params["weights"], rows, carry, scale)
        if cfg.scales_loss:
            grads, row_grads = jax.tree.map(lambda g: g / scale, (grads, row_grads))
        grad_norm = optax.tree.norm(grads)
        finite = jnp.isfinite(grad_norm) & jnp.all(jnp.isfinite(row_grads))

        updates, opt_state = tx.update(grads, state.opt_state, params["weights"])
        weights = optax.apply_updates(params["weights"], updates)
        table = optim.sparse_sign_sgd(params["puzzle_emb"], carry.puzzle_ids, row_grads, table_lr, n.table_weight_decay)
        average = optim.ema(state.ema, weights, n.ema_decay) if state.ema else {}
        also = {name: optim.ema(tree, weights, float(name)) for name, tree in state.ema_also.items()}
        updated = (weights, table, average, also, opt_state)
        if cfg.scales_loss:  # an update whose gradients overflowed is left out
            before = (params["weights"], params["puzzle_emb"], state.ema, state.ema_also, state.opt_state)
            updated = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, before)
        weights, table, average, also, opt_state = updated

        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), step)
        share = (step - 1) / total_steps
        exploration = n.exploration_start + (n.exploration_end - n.exploration_start) * share
        carry = trm.advance(model, carry, z_H, z_L, q_halt, key, train=True, exploration=exploration)

        skipped = ~finite if cfg.scales_loss else jnp.zeros((), bool)
        new = {
            **score_sums(answers, q_halt, carry.steps, carry.labels, carry.halted),
            **parts,
            "halt_steps": halt_histogram(carry.steps, carry.halted, model.halt_max_steps),
            "grad_norm": jnp.where(skipped, 0.0, grad_norm),
            "lr": lr,
            "updates": jnp.ones(()),
            "skipped": skipped.astype(jnp.float32),
            "loss_scale": jnp.asarray(scale, jnp.float32),
        }
        # An overflow that even the smallest scale cannot mend is a divergence.
        hopeless = ~finite & (scale <= MIN_LOSS_SCALE)
        bad = ~jnp.isfinite(loss) | hopeless
        return TrainState(
            step=step,
            params={"weights": weights, "buffers": params["buffers"], "puzzle_emb": table},
            ema=average,
            ema_also=also,
            opt_state=opt_state,
            loss_scale=_next_scale(state.loss_scale, finite) if cfg.scales_loss else (),
            carry=carry,
            key=state.key,
            sums={name: state.sums[name] + new[name] for name in state.sums},
            first_bad_step=jnp.where(bad & (state.first_bad_step < 0), step, state.first_bad_step),
        )

    return train_step


def _next_scale(old: LossScale, finite: jax.Array) -> LossScale:
    good = jnp.where(finite, old.good_steps + 1, 0)
    grow = good >= LOSS_SCALE_GROWS_AFTER
    scale = jnp.where(finite, jnp.where(grow, old.scale * 2, old.scale), jnp.maximum(old.scale / 2, MIN_LOSS_SCALE))
    return LossScale(scale, jnp.where(grow, 0, good))


def log_record(step: int, sums: dict, cfg: RunConfig) -> dict:
    """One line of the training log from fetched sums: means over the steps since the line before.

    Losses are per sequence of the global batch; scores are over the sequences that halted (absent when none did).
    """
    updates = float(sums["updates"])
    sequences = updates * cfg.train.batch_size
    record = {
        "kind": "train",
        "step": step,
        "examples": step * cfg.train.batch_size,
        "loss": float((sums["lm_loss"] + 0.5 * sums["q_loss"]) / sequences),
        "lm_loss": float(sums["lm_loss"] / sequences),
        "q_loss": float(sums["q_loss"] / sequences),
        "grad_norm": float(sums["grad_norm"] / max(updates - float(sums["skipped"]), 1)),
        "lr": float(sums["lr"] / updates),
        "halted": float(sums["count"]),
    }
    if cfg.scales_loss:
        record |= {"loss_scale": float(sums["loss_scale"] / updates), "skipped": int(sums["skipped"])}
    scores = means(sums)
    if scores:
        scores["halt_steps"] = [int(count) for count in sums["halt_steps"]]
    return record | scores
