"""The settings page: every setting of a run with its default, the users' `baseline`. Units stand in the names.

The settings are declared, and explained, where they are read: `trm_jax.train.config`, and the Config of the chosen task
and family. Experiments are small differences from this page (`trm show NAME --diff baseline`).
"""

from __future__ import annotations

from dataclasses import MISSING, fields
from typing import Any

from ml_collections import ConfigDict

from trm_jax import tasks
from trm_jax.models import family as families
from trm_jax.train.config import SECTIONS

SHAPE = ("vocab_size", "seq_len", "num_puzzle_ids")  # of a model: what its task tells it


def _settings(config: type) -> dict[str, Any]:
    return {f.name: f.default for f in fields(config) if f.default is not MISSING and f.name not in SHAPE}


def defaults(task: str = "sudoku", family: str = "trm") -> ConfigDict:
    """The locked page. For Sudoku and TRM it is the baseline: Sudoku-Extreme, 1,000 puzzles with 1,000 augmentations, a
    model of 5,028,866 parameters."""
    page = {
        "name": "baseline",
        "seed": 0,
        "data": {"task": task, **_settings(tasks.get(task).Config)},
        "model": {"family": family, **_settings(families.get(family).Config)},
        **{name: _settings(section) for name, section in SECTIONS.items()},
    }
    return ConfigDict(page).lock()
