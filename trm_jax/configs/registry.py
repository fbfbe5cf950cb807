"""Named experiments: each is a set of differences from another one, declared in a file under `experiments/`."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

import trm_jax
from trm_jax.configs.defaults import defaults
from trm_jax.configs.resolve import nearest, override
from trm_jax.errors import InputError


@dataclass(frozen=True)
class Experiment:
    """`changes` are dotted settings laid over experiment `base` (empty: over the defaults)."""

    name: str
    summary: str
    changes: Mapping[str, Any] = field(default_factory=dict)
    base: str = ""


def experiments_folder() -> Path:
    """Inside the package when installed from a wheel, beside it in a checkout."""
    package = Path(trm_jax.__file__).parent
    for folder in (package / "experiments", package.parent / "experiments"):
        if folder.is_dir():
            return folder
    raise InputError(f"no experiments folder in or beside {package}; install trm_jax again")


def _load(file: Path) -> list[Experiment]:
    spec = importlib.util.spec_from_file_location(f"trm_jax_experiments.{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.EXPERIMENTS


@functools.cache
def catalogue() -> dict[str, Experiment]:
    """All experiments by name, in the order of their files."""
    found: dict[str, Experiment] = {}
    for file in sorted(experiments_folder().glob("*.py")):
        if file.stem.startswith("_"):
            continue
        for experiment in _load(file):
            if experiment.name in found:
                raise InputError(f"experiment {experiment.name!r} is declared twice, the second time in {file}")
            found[experiment.name] = experiment
    return found


def get(name: str) -> ConfigDict:
    """The locked config of an experiment. Raises InputError with the nearest names."""
    known = catalogue()
    if name not in known:
        raise InputError(f"unknown experiment {name!r}.{nearest(name, known)} `trm list` shows them all")
    experiment = known[name]
    base = get(experiment.base) if experiment.base else defaults()
    return override(base, {**experiment.changes, "name": name})
