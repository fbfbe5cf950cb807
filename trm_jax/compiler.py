"""What the program asks of XLA: options for each platform, and a cache of what was compiled."""

from __future__ import annotations

import functools
import hashlib
import platform
from pathlib import Path

import jax

from trm_jax.models import target
from trm_jax.storage.paths import cache_folder

_OPTIONS = {
    # XLA:CPU's YNN fusions materialise slices and broadcast constants of this model, which costs time in every step.
    # 512 bits where the processor has them: faster on an Intel Xeon (docs/speed.md); elsewhere it changes nothing.
    "cpu": {"xla_cpu_experimental_ynn_fusion_type": "", "xla_cpu_prefer_vector_width": 512},
    # Scatter-adds in one order, and no choice of algorithms by timing.
    "gpu": {"xla_gpu_deterministic_ops": True},
}


@functools.cache
def _known(name: str) -> bool:
    """Whether the installed XLA knows the options of platform `name`."""
    try:
        jax.jit(lambda x: x, compiler_options=_OPTIONS[name]).lower(0.0).compile()
    except jax.errors.JaxRuntimeError as error:
        if "No such compile option" not in str(error):
            raise
        return False  # an option of another version
    return True


def options(deterministic: bool = True) -> dict[str, str | bool | int]:
    """`compiler_options` for `jax.jit` on `target.platform()`; empty where the installed XLA does not know them.

    deterministic: on a GPU, the same bits every time; CPUs and TPUs give them anyway.
    """
    name = target.platform()
    wanted = name == "cpu" or name == "gpu" and deterministic
    return _OPTIONS[name] if wanted and _known(name) else {}


def use_cache() -> None:
    """Keep what is compiled on the disk, unless the user has chosen a place (JAX_COMPILATION_CACHE_DIR) or none.

    In a folder for each kind of processor: a home directory may be shared, and XLA:CPU compiles for the one it sees.
    """
    if jax.config.jax_compilation_cache_dir or not jax.config.jax_enable_compilation_cache:
        return
    folder = cache_folder() / "xla" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a read-only home: compile each time
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    features = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return f"{platform.machine()}-{hashlib.sha256(features.encode()).hexdigest()[:12]}"
