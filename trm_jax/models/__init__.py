"""Public models. Importing this touches no device and pulls in no config, data or command-line code."""

from trm_jax.losses import IGNORE
from trm_jax.models import arc_transformer, arc_transformer_each, params, trm
from trm_jax.models.attention import attention
from trm_jax.models.trm import Carry, Output, TRMConfig

__all__ = [
    "IGNORE",
    "Carry",
    "Output",
    "TRMConfig",
    "arc_transformer",
    "arc_transformer_each",
    "attention",
    "params",
    "trm",
]
