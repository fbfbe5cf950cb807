"""One training step as a pure function of state, batch and hyperparameters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct
from jax import lax

from trm_jax import optim
from trm_jax.models import target
from trm_jax.models.params import TABLE_ROWS, Lookup, is_spec
from trm_jax.train.config import RunConfig
from trm_jax.train.state import MIN_LOSS_SCALE, LossScale, TrainState

# Twice as large after this many updates in a row without an overflow, half as large after one with.
LOSS_SCALE_GROWS_AFTER = 2000


@struct.dataclass
class Hparams:
    """The settings that are mere numbers of the program: runs that differ in nothing else share a compilation."""

    lr: Any
    other_lr: Any
    warmup_steps: Any
    min_lr_ratio: Any
    weight_decay: Any
    table_lr: Any
    table_weight_decay: Any
    ema_step: Any  # 1 - decay: float32 has more digits of a small number
    exploration_start: Any
    exploration_end: Any


def hparams_of(cfg: RunConfig, total_steps: int) -> Hparams:
    """A run's hyperparameters, float32 scalars."""
    o = cfg.optim
    start, end = cfg.exploration
    numbers = Hparams(
        lr=o.lr,
        other_lr=o.other_lr,
        warmup_steps=o.warmup(total_steps),
        min_lr_ratio=o.min_lr_ratio,
        weight_decay=o.weight_decay,
        table_lr=o.table_lr,
        table_weight_decay=o.table_weight_decay,
        ema_step=1.0 - o.ema_decay,
        exploration_start=start,
        exploration_end=end,
    )
    return jax.tree.map(np.float32, numbers)


def make_train_step(cfg: RunConfig, total_steps: int, model: Any = None) -> Callable:
    """`train_step(state, batch, hparams) -> (state, sums)`: differentiate, update, average.

    model: the family's config in place of the run's, for a stage of a curriculum. sums: figures of this step, float32;
    "loss" and "grad_norm" (the mean over the batch; of several models the sum of the losses and the mean norm), "lr",
    "skipped" (1 for an update that a scaled loss left out), "loss_scale", "bad" (1 for a divergence), and those of the
    family and the task over the rows that ended with it.
    """
    family, model, o = cfg.family, model or cfg.model, cfg.optim
    batch_size, num_parts = cfg.train.batch_size, cfg.train.accumulation
    specs, tables = family.specs(model), cfg.tables
    only_ids, several = cfg.train.parameters == "tables", bool(cfg.models)
    trains_weights = not only_ids or cfg.embeds_ids

    def of_ids(tree):
        """A tree like the weights with zeros for all that are not embeddings of puzzles, if only those are trained."""
        if not only_ids:
            return tree
        keep = lambda spec, x: x if spec.kind == "id_embedding" else jnp.zeros_like(x)  # noqa: E731
        return jax.tree.map(keep, specs["weights"], tree, is_leaf=is_spec)

    def gradients(whole, of_rows):
        """((loss, sums, gradients of the weights if they are trained), (carry, rows, gradients of the rows looked up)).

        whole: (params, scale of the loss); of_rows: (carry, batch, noise).
        """
        (params, scale), (carry, batch, noise) = whole, of_rows

        def loss_fn(weights, deltas):
            lookups = {name: Lookup(params[name], deltas[name]) for name in tables}
            out = family.loss({**params, "weights": weights, **lookups}, model, carry, batch, noise, cfg.train.loss)
            loss = out[0] / batch_size
            return loss * scale, (loss, *out[1:])

        size = len(jax.tree.leaves(batch)[0])
        deltas = {name: jnp.zeros((size, params[name].shape[1]), params[name].dtype) for name in tables}
        grad_fn = jax.grad(loss_fn, argnums=(0, 1) if trains_weights else (1,), has_aux=True)
        (*grads, row_grads), (loss, carry, sums, rows) = grad_fn(params["weights"], deltas)
        return (loss, sums, *map(of_ids, grads)), (carry, rows, row_grads)

    def gradients_by_parts(whole, of_rows):
        """The same with the activations of one part of the batch at a time in memory.

        Neighbouring rows go to different parts, so that every device has rows of each and none has to move.
        """

        def cut(x):
            return x.reshape(len(x) // num_parts, num_parts, *x.shape[1:]).swapaxes(0, 1)

        def mend(x):
            return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])

        def part(total, of_part):
            summed, said = gradients(whole, of_part)
            return jax.tree.map(jnp.add, total, summed), said

        pieces = jax.tree.map(cut, of_rows)
        first = jax.tree.map(lambda x: x[0], pieces)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(gradients, whole, first)[0])
        summed, said = lax.scan(part, zeros, pieces)
        return summed, jax.tree.map(mend, said)

    def compute(whole, of_rows):
        if num_parts == 1:
            return gradients(whole, of_rows)
        # Where devices share the table, or have the rows of some models only.
        if several or any(specs[name].shape[0] >= TABLE_ROWS for name in tables):
            return gradients_by_parts(whole, of_rows)
        # XLA would reduce the gradient of every part.
        return target.summed_over_devices(gradients_by_parts, whole, of_rows)

    def rate_at(step, rate, h: Hparams):
        if o.schedule == "wsd":
            return optim.warmup_stable_decay(step, rate, o.warmup_share, o.decay_share, total_steps)
        return optim.warmup_cosine(step, rate, h.warmup_steps, total_steps, h.min_lr_ratio)

    def averages(state: TrainState, weights: dict, ema_step) -> dict:
        also = {
            name: optax.incremental_update(weights, tree, 1.0 - float(name)) for name, tree in state.ema_also.items()
        }
        return {"ema": optax.incremental_update(weights, state.ema, ema_step) if state.ema else {}, "ema_also": also}

    def train_step(state: TrainState, batch: dict, hparams: Hparams) -> tuple[TrainState, dict]:
        h, params, step = hparams, state.params, state.step + 1
        lr, other_lr, table_lr = (rate_at(step, rate, h) for rate in (h.lr, h.other_lr, h.table_lr))
        scale = state.loss_scale.scale if cfg.scales_loss else jnp.float32(1.0)
        share = (step - 1) / total_steps
        exploration = h.exploration_start + (h.exploration_end - h.exploration_start) * share
        key = jax.random.fold_in(jax.random.wrap_key_data(state.key), step)
        noise = family.noise(model, key, batch_size, exploration)

        (loss, sums, *grads), (carry, rows, row_grads) = compute((params, scale), (state.carry, batch, noise))
        if cfg.scales_loss:
            grads, row_grads = jax.tree.map(lambda g: g / scale, (grads, row_grads))
        norms = optim.norms(grads if trains_weights else row_grads, several)
        # A model that has diverged stops none of those beside it, unless they share the scale of a loss.
        grad_norm = jnp.mean(norms, where=jnp.isfinite(norms) | cfg.scales_loss) if several else norms
        finite = jnp.isfinite(grad_norm) & jnp.isfinite(optax.tree.sum(row_grads))

        with jax.named_scope("optimiser"):
            weights, opt_state = params["weights"], state.opt_state
            if trains_weights:
                if o.clip or several:
                    grads = optim.clip(grads, norms, o.clip)
                how = {"other_lr": other_lr, "b1": o.beta1, "b2": o.beta2, "weight_decay": h.weight_decay}
                tx = optim.build(o.name, specs["weights"], lr, **how)
                updates, opt_state = tx.update(*grads, opt_state, weights)
                # Without a gradient momentum and decay would still move a model.
                updates = optim.of_finite(updates, norms) if several else updates
                weights = optax.apply_updates(weights, of_ids(updates))
            updated = state.replace(
                params={
                    **params,
                    "weights": weights,
                    **{
                        name: optim.sparse_sign_sgd(
                            params[name], rows.ids[name], row_grads[name], table_lr, h.table_weight_decay
                        )
                        for name in tables
                    },
                },
                **(averages(state, weights, h.ema_step) if trains_weights else {}),
                opt_state=opt_state,
            )
        if cfg.scales_loss:  # an update whose gradients overflowed is left out
            updated = jax.tree.map(lambda new, old: jnp.where(finite, new, old), updated, state)
        skipped = ~finite if cfg.scales_loss else jnp.zeros((), bool)
        # An overflow that even the smallest scale cannot mend is a divergence.
        bad = ~jnp.isfinite(loss) | (~finite & (scale <= MIN_LOSS_SCALE))
        sums = {
            **sums,
            **cfg.task.score(cfg.data, rows.answers, rows.batch, rows.counted),
            "loss": loss,
            "grad_norm": jnp.where(skipped, 0.0, grad_norm),
            "lr": lr,
            "skipped": skipped.astype(jnp.float32),
            "loss_scale": scale,
            "bad": bad.astype(jnp.float32),
        }
        scaling = _next_scale(state.loss_scale, finite) if cfg.scales_loss else ()
        return updated.replace(step=step, carry=carry, loss_scale=scaling), sums

    return train_step


def _next_scale(old: LossScale, finite: jax.Array) -> LossScale:
    good = jnp.where(finite, old.good_steps + 1, 0)
    grow = good >= LOSS_SCALE_GROWS_AFTER
    scale = jnp.where(finite, jnp.where(grow, old.scale * 2, old.scale), jnp.maximum(old.scale / 2, MIN_LOSS_SCALE))
    return LossScale(scale, jnp.where(grow, 0, good))
