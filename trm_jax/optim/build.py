"""The optimiser of the weights: one rule for each kind of parameter (`ParamSpec.kind`)."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import optax

from trm_jax.models.params import is_spec
from trm_jax.optim.adam import scale_by_adam
from trm_jax.optim.adam_atan2 import scale_by_adam_atan2
from trm_jax.optim.normuon import scale_by_normuon
from trm_jax.optim.urm_muon import scale_by_urm_adam, scale_by_urm_muon

# Setting optim.name -> kind -> rule of (beta1, beta2); "*" stands for every kind that is not named.
OPTIMIZERS = {
    "adam_atan2": {"*": scale_by_adam_atan2},
    "adamw": {"*": scale_by_adam},
    "lion": {"*": optax.scale_by_lion},
    "urm_muon": {
        **dict.fromkeys(("matrix", "embedding", "head"), lambda b1, b2: scale_by_urm_muon()),
        "*": scale_by_urm_adam,
    },
    "normuon": {"matrix": lambda b1, b2: scale_by_normuon(), "*": partial(optax.scale_by_adam, eps=1e-10)},
}


def build(
    name: str, specs: Any, lr, *, other_lr=None, b1=0.9, b2=0.95, weight_decay=0.0
) -> optax.GradientTransformation:
    """The named optimiser for weights declared by `specs`, with decoupled decay `p *= 1 - lr * weight_decay * decay`,
    where `decay` is the declaration's.

    lr: the rate of this update; the optimiser counts none of its own, since updates that overflow are left out.
    other_lr: that of the kinds for which the optimiser has no rule of their own, where it has some; None: `lr`.
    """
    if name not in OPTIMIZERS:
        raise ValueError(f"optimiser {name!r} is not one of {', '.join(OPTIMIZERS)}")
    rules = OPTIMIZERS[name]
    labels = jax.tree.map(lambda spec: spec.kind if spec.kind in rules else "*", specs, is_leaf=is_spec)
    present = sorted(set(jax.tree.leaves(labels)))

    def decay(updates, params):
        def one(spec, u, p):
            return u + weight_decay * spec.decay * p if spec.decay else u

        return jax.tree.map(one, specs, updates, params, is_leaf=is_spec)

    def by_kind(make):
        made = {label: make(label) for label in present}
        return optax.partition(made, labels) if len(made) > 1 else made[present[0]]

    def rate(label: str):
        own = lr if label != "*" or len(rules) == 1 or other_lr is None else other_lr
        return optax.scale_by_learning_rate(lambda _: own)

    return optax.chain(by_kind(lambda label: rules[label](b1, b2)), optax.stateless(decay), by_kind(rate))
