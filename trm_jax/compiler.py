"""Compiler options that the program sets for itself, per platform."""

from __future__ import annotations

import functools

import jax

from trm_jax.models import target

# XLA:CPU's YNN fusions materialise slices and broadcast constants of this model, which costs time in every step.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def _installed_knows() -> bool:
    try:
        jax.jit(lambda x: x, compiler_options=_CPU).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # an option of another version
        return False
    return True


def options() -> dict[str, str]:
    """`compiler_options` for `jax.jit` on `target.platform()`; empty where the installed XLA does not know them."""
    return _CPU if target.platform() == "cpu" and _installed_knows() else {}
