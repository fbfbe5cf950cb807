"""Compiler options that the program sets for itself, per backend."""

from __future__ import annotations

import functools

import jax

# XLA:CPU's YNN fusions materialise slices and broadcast constants of this model, which costs time in every step.
_CPU = {"xla_cpu_experimental_ynn_fusion_type": ""}


@functools.cache
def options() -> dict[str, str]:
    """`compiler_options` for `jax.jit` on the default backend; empty where the installed XLA does not know them."""
    if jax.default_backend() != "cpu":
        return {}
    try:
        jax.jit(lambda x: x, compiler_options=_CPU).lower(0.0).compile()
    except jax.errors.JaxRuntimeError:  # an option of another version
        return {}
    return _CPU
