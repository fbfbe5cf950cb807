"""What is told in files: the configurations A, B and C of the users' page, and how a recipe of `trm ttt` is run."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from trm_jax.errors import InputError

NAMES = ("A", "B", "C")
_FOLDER, _RECIPES = (Path(__file__).with_name(name) for name in ("configurations", "recipes"))


@dataclass(frozen=True)
class Part:
    """A member, or what stands beside the members."""

    what: str
    needs: Sequence[str] = ()  # files and folders, without which the commands cannot run
    architecture: str = ""  # of a language model: a name of `trm lm plan`
    first: Sequence[str] = ()  # commands that make what it needs, where there are some
    commands: Sequence[str] = ()  # that answer the tasks; with {data} and {workdir}
    predictions: str = ""  # the file that they write
    runs_code: bool = False  # that a model wrote: only a person starts it
    claimed: Mapping[str, float] = field(default_factory=dict)  # percent, without a source
    sourced: Sequence[Mapping] = ()  # {percent, on, from}
    weight: float = 1.0
    instead_of: str = ""  # a model that is not supported
    because: str = ""


@dataclass(frozen=True)
class Configuration:
    """Members that vote, and the device that was planned for them."""

    name: str
    device: str  # of `trm_jax.planning`
    hours: float
    other_dollars: Mapping[str, float]
    vote: str  # the page's word
    members: Mapping[str, Part]
    claimed: Mapping[str, Sequence[float]]  # percent from and to, without a source
    refinement: Part | None = None


def read(name: str) -> Configuration:
    """The configuration of `NAMES`."""
    said, known = (tomllib.loads((_FOLDER / f"{one}.toml").read_text(encoding="utf-8")) for one in (name, "members"))
    members = {
        key: Part(**known[one["of"]], **{field: value for field, value in one.items() if field != "of"})
        for key, one in said.pop("members").items()
    }
    beside = said.pop("refinement", None)
    return Configuration(name, members=members, refinement=Part(**known[beside]) if beside else None, **said)


@dataclass(frozen=True)
class Preset:
    """How one or both recipes are run, by the names of their options, and the model that they are for."""

    model: str  # of `trm lm plan`
    here: str  # what is known of it here
    recipes: Mapping[str, Mapping[str, Any]]  # of "marc" and "nvarc"


def presets() -> dict[str, Preset]:
    """All that there are, by their names."""
    found = {}
    for path in sorted(_RECIPES.glob("*.toml")):
        said = tomllib.loads(path.read_text(encoding="utf-8"))
        found[path.stem] = Preset(said.pop("model"), said.pop("here"), said)
    return found


def preset(name: str, recipe: str) -> Mapping[str, Any]:
    """The options of a recipe in a preset. Raises InputError for another name, with those that there are."""
    known = {key: one.recipes[recipe] for key, one in presets().items() if recipe in one.recipes}
    if name not in known:
        raise InputError(f"no preset {name!r} of {recipe}; there are {', '.join(known)}")
    return known[name]
