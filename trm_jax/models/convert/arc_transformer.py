"""Weights of the ARC transformer under the names of its author's checkpoints; both sides store matrices [out, in]."""

from __future__ import annotations

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

# Name there -> name here; those of a layer are stacked over the layers.
_NAMES = {
    "token_embedding.weight": "token_embedding",
    "example_embedding.weight": "task_embedding",
    "dihedral_embedding.weight": "dihedral_embedding",
    "norm.weight": "norm",
    "lm_head.weight": "lm_head",
}
_OF_LAYER = {
    "ln_1.weight": "ln_1",
    "attention.qkv_proj.weight": "qkv",
    "attention.out_proj.weight": "out",
    "ln_2.weight": "ln_2",
    "ff.fc_in.weight": "fc_in",
    "ff.fc_in.bias": "fc_in_bias",
    "ff.fc_out.weight": "fc_out",
    "ff.fc_out.bias": "fc_out_bias",
}


def import_state_dict(tensors: Mapping[str, np.ndarray]) -> dict[str, jax.Array | dict]:
    """The "weights" of `trm_jax.models.arc_transformer` from tensors by their names there, float32.

    Raises KeyError for a tensor that is not there; what is not of the model is left out.
    """
    layers = 1 + max(int(found[1]) for name in tensors if (found := re.match(r"blocks\.(\d+)\.", name)))

    def stacked(name: str) -> jax.Array:
        return jnp.stack([jnp.asarray(tensors[f"blocks.{i}.{name}"], jnp.float32) for i in range(layers)])

    alone = {ours: jnp.asarray(tensors[name], jnp.float32) for name, ours in _NAMES.items() if name in tensors}
    return {**alone, "layers": {ours: stacked(name) for name, ours in _OF_LAYER.items()}}


def export_state_dict(weights: Mapping) -> dict[str, np.ndarray]:
    """The same back: a tree shaped as "weights", which gradients may be too, by the names there."""
    found = {name: np.asarray(weights[ours]) for name, ours in _NAMES.items() if ours in weights}
    for name, ours in _OF_LAYER.items():
        found |= {f"blocks.{i}.{name}": np.asarray(one) for i, one in enumerate(weights["layers"][ours])}
    return found
