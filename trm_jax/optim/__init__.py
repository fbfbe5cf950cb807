"""Optimisers: one for the weights, chosen by name and by the kind of each parameter, and one for tables of rows.

Learning rates follow the reference's counting: update number t starts at 1 and warms up with t / warmup.
"""

from trm_jax.optim.adam import scale_by_adam
from trm_jax.optim.adam_atan2 import scale_by_adam_atan2
from trm_jax.optim.build import OPTIMIZERS, build
from trm_jax.optim.clip import clip, norms, of_finite
from trm_jax.optim.normuon import newton_schulz, scale_by_normuon
from trm_jax.optim.rows import sparse_sign_sgd
from trm_jax.optim.schedules import warmup_cosine, warmup_stable_decay
from trm_jax.optim.urm_muon import scale_by_urm_adam, scale_by_urm_muon

__all__ = [
    "OPTIMIZERS",
    "build",
    "clip",
    "newton_schulz",
    "norms",
    "of_finite",
    "scale_by_adam",
    "scale_by_adam_atan2",
    "scale_by_normuon",
    "scale_by_urm_adam",
    "scale_by_urm_muon",
    "sparse_sign_sgd",
    "warmup_cosine",
    "warmup_stable_decay",
]
