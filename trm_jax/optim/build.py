"""The optimiser of the weights: one rule for each kind of parameter (`ParamSpec.kind`)."""

from __future__ import annotations

from typing import Any

import jax
import optax

from trm_jax.models.params import is_spec
from trm_jax.optim.adam_atan2 import scale_by_adam_atan2

# Setting optim.name -> kind -> rule of (beta1, beta2); "*" stands for every kind that is not named.
OPTIMIZERS = {
    "adam_atan2": {"*": scale_by_adam_atan2},
    "adamw": {"*": optax.scale_by_adam},
    "lion": {"*": optax.scale_by_lion},
}


def build(name: str, specs: Any, lr, *, b1=0.9, b2=0.95, weight_decay=0.0) -> optax.GradientTransformation:
    """The named optimiser for weights declared by `specs`, with decoupled decay `p *= 1 - lr * weight_decay` of all.

    lr: the rate of this update; the optimiser counts none of its own, since updates that overflow are left out.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimiser {name!r} is not one of {', '.join(OPTIMIZERS)}")
    rules = OPTIMIZERS[name]
    labels = jax.tree.map(lambda spec: spec.kind if spec.kind in rules else "*", specs, is_leaf=is_spec)
    scales = {label: rules[label](b1, b2) for label in set(jax.tree.leaves(labels))}
    return optax.chain(
        optax.partition(scales, labels) if len(scales) > 1 else scales.popitem()[1],
        optax.add_decayed_weights(weight_decay),
        optax.scale_by_learning_rate(lambda _: lr),
    )
