"""The shapes that a benchmark measures: experiments of the catalogue, and the Sudoku one with attention."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from trm_jax.configs import registry, resolve
from trm_jax.planning import memory
from trm_jax.train.config import RunConfig
from trm_jax.train.memory import takes

DEFAULT = ("baseline_768", "baseline", "attention_768", "maze_hard", "arc1")  # measured where none is named
ATTENTION = {"model.mlp_t": False, "model.pos_encodings": "rope"}
# name: (experiment, settings besides its own)
SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "baseline_768": ("baseline_768", {}),
    "baseline": ("baseline", {}),
    "attention_768": ("baseline_768", ATTENTION),
    "maze_hard": ("maze_hard", {}),
    "arc1": ("arc1", {}),
    "arc_transformer": ("arc_transformer_high", {}),
}
# What stands for a shape on a CPU, for which it is too large.
ON_CPU = {"arc_transformer": "arc_transformer_small"}


def shape(name: str, changes: Mapping[str, Any] | None = None) -> RunConfig:
    """The config of a shape or of any experiment; changes: settings of it, by "section.name".

    Raises InputError for an unknown name.
    """
    experiment, settings = SHAPES.get(name, (name, {}))
    cfg = resolve.freeze(resolve.override(registry.get(experiment), {**settings, **(changes or {})}))
    return dataclasses.replace(cfg, name=name)


def that_fit(cfg: RunConfig, devices: int, room: int) -> Iterator[RunConfig]:
    """The run, with its batch in as many parts as the planner thinks that it takes to fit into `room` bytes of each
    device; then in twice as many, and so on, for when it is wrong."""
    mesh = memory.abstract_mesh(cfg, devices)
    size, parts = cfg.train.batch_size, cfg.train.accumulation
    while size % (parts * devices) == 0:
        if takes(cfg, mesh, parts) <= room:
            yield dataclasses.replace(cfg, train=dataclasses.replace(cfg.train, accumulation=parts))
        parts *= 2


def dtype(cfg: RunConfig) -> str:
    """Of the products, whose rate the floor stands on."""
    return getattr(cfg.model, "dtype", "float32")
